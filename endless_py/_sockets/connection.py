"""Which handlers are active: counting them from accept on, and ending what outlasts a drain."""

from __future__ import annotations

import functools
import os
import signal
import socket
import threading
import time
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Iterable, Optional


class Connection:
    """One accepted connection or received datagram, from accept to close_request().

    arrived_with is the state that its handler in the predecessor gave along (None: a
    fresh connection), leaves_with the state for the successor (None: it does not migrate).
    """

    arrived_with: Optional[bytes] = None
    refused_for: Optional[Beacon] = None
    leaves_with: Optional[bytes] = None
    idle = False  # waits at a message boundary; not known of forked handlers
    transport: Any = None  # the socket that has its descriptor, where that is another one (TLS)

    def __init__(self, request: Any, client_address: Any) -> None:
        self.request = request
        self.client_address = client_address
        self.since = time.monotonic()

    def cut(self) -> None:
        """Make every read and write of its handler end at once."""
        transport = self.request if self.transport is None else self.transport
        if isinstance(transport, socket.socket):
            with suppress(OSError):
                # Not the method: an SSLSocket's would pull the encryption from under the handler.
                socket.socket.shutdown(transport, socket.SHUT_RDWR)


class Child:
    """A forked handler. Its end is seen as the end of a pipe that only it holds open."""

    def __init__(self, pid: int, alive: int, client_address: Any) -> None:
        self.pid = pid
        self.alive = alive
        self.client_address = client_address
        self.since = time.monotonic()
        self.retry_at: Optional[float] = None

    def cut(self) -> None:
        # It is not reaped yet, so the number cannot be another process's.
        with suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)


class Beacon:
    """A drain made visible to every handler of a server at once, forked ones included.

    It is a socket pair: its reading end becomes readable, for all and for good, when the
    serving process closes the writing end, or dies. One byte before that says that idle
    connections can migrate; everybody only peeks at it.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._local = True
        self._lit = False
        self._migrate = False

    def fileno(self) -> int:
        return self._reader.fileno()

    def light(self, migrate: bool) -> None:
        """Start the drain for everybody who can see this beacon."""
        if not self._lit:
            self._migrate, self._lit = migrate, True
            if migrate:
                with suppress(OSError):
                    self._writer.send(b"M")
            self._writer.close()

    def let_go(self) -> None:
        """In a forked handler: leave the lighting to the serving process alone."""
        self._local = False
        self._writer.close()

    def lit(self) -> bool:
        """Whether the drain has begun; costs a system call in a forked handler only."""
        if not self._lit and not self._local:
            try:
                self._migrate = self._reader.recv(1, socket.MSG_PEEK) == b"M"
                self._lit = True
            except OSError:
                pass
        return self._lit

    def migrate(self) -> bool:
        """Whether it is lit and idle connections can migrate."""
        return self.lit() and self._migrate

    def __del__(self) -> None:
        # Handlers may look at it for longer than its server lives.
        self._reader.close()
        self._writer.close()


class Connections:
    """The active handlers of one server. Any thread may call; each step on a dict is atomic."""

    def __init__(self) -> None:
        self.active: dict[int, Connection] = {}  # by the id() of the request
        self.children: dict[int, Child] = {}

    def __len__(self) -> int:
        return len(self.active) + len(self.children)

    def get(self, request: Any) -> Optional[Connection]:
        """Return the record of an active connection."""
        return self.active.get(id(request))

    def counts(self) -> tuple[int, int]:
        """Return how many are active, and how many of these are idle connections."""
        found = self.all()
        return len(found), sum(getattr(connection, "idle", False) for connection in found)

    def all(self) -> list[Any]:
        """Return a snapshot of the active connections and forked handlers."""
        return [*list(self.active.values()), *list(self.children.values())]

    def abandon(self) -> list[Connection]:
        """Forget the connections whose handlers did not end when they were cut."""
        left = []
        while self.active:
            with suppress(KeyError):  # it ends right now
                left.append(self.active.popitem()[1])
        return left


def let_threads_go(threads: Iterable[threading.Thread]) -> None:
    """Stop the interpreter's exit from waiting for these threads, which do not end.

    The library has no public way to do this for a thread that runs already. Up to 3.12
    the exit waits for the locks in a set of threading's, from 3.13 on in a function of C.
    """
    left = [thread for thread in threads if thread.is_alive()]
    locks = getattr(threading, "_shutdown_locks", None)
    if locks is not None:
        for thread in left:
            locks.discard(getattr(thread, "_tstate_lock", None))
    elif left and hasattr(threading, "_thread_shutdown"):
        previous = getattr(threading._thread_shutdown, "keywords", {}).get("without", [])
        threading._thread_shutdown = functools.partial(_join_threads, without=previous + left)


def _join_threads(without: list[threading.Thread]) -> None:
    """As threading's own, for all threads but those."""
    passed_over = [*without, threading.current_thread(), threading.main_thread()]
    while True:
        left = [t for t in threading.enumerate() if not t.daemon and t not in passed_over]
        if not left:
            return
        left[0].join()
