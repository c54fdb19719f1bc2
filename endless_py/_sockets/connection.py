"""Connections: which are active, from accept on; where one of them is on its way to a successor.

A connection has a state, in a table as the process has (see `_reload/machine.py`).
"""

from __future__ import annotations

import binascii
import enum
import math
import os
import signal
import socket
import time
from collections import deque
from contextlib import suppress

from endless_py._sockets.listener import address_from_json, address_to_json

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

_LONGEST_TIMEOUT = 2.0**31  # seconds
MAX_STATE = 65536  # bytes of state that one connection may carry


class ConnectionState(enum.Enum):
    # A member is one object; Enum's own is slow, and asked with each request.
    __hash__ = object.__hash__

    ACTIVE = "active"  # its handler works
    IDLE = "idle"  # its handler waits at a message boundary
    PARKED = "parked"  # it is idle, and has no handler until its client speaks
    LEAVING = "leaving"  # it has no handler any more, and will be sent to the successor
    SENT = "sent"  # the successor has it, or will refuse it
    GONE = "gone"  # the successor has said that it has it
    REFUSED = "refused"  # it is to be served here after all


_S = ConnectionState

# (state, event) -> state; every other pair is a bug
CONNECTION_TABLE: dict[tuple[ConnectionState, str], ConnectionState] = {
    (_S.ACTIVE, "waits"): _S.IDLE,
    (_S.IDLE, "speaks"): _S.ACTIVE,
    (_S.ACTIVE, "leaves"): _S.LEAVING,
    (_S.ACTIVE, "parks"): _S.PARKED,
    (_S.PARKED, "speaks"): _S.ACTIVE,
    (_S.PARKED, "leaves"): _S.LEAVING,
    (_S.LEAVING, "parks"): _S.PARKED,
    (_S.REFUSED, "parks"): _S.PARKED,
    (_S.LEAVING, "sent"): _S.SENT,
    (_S.LEAVING, "stays"): _S.REFUSED,
    (_S.SENT, "taken"): _S.GONE,
    (_S.SENT, "stays"): _S.REFUSED,
}


class Count:
    """The requests of one connection, counted by its handler alone.

    alone is what it counts as, once it has ended, where its handler has counted none; line is the
    first line of the last request, text or bytes.
    """

    requests = 0
    line: Any = b""
    alone = 1
    folded = False  # added up with those of others


class Connection:
    """One accepted connection or received datagram, from accept to close_request().

    arrived_with is the state that its handler in the predecessor gave along (None: a
    fresh connection), leaves_with the state for the successor (None: it does not migrate).
    silent_since is the moment (time.monotonic) from which its client's silence counts, where that
    is not the one at which its handler began; parks says that it goes to the parking place.
    """

    arrived_with: Optional[bytes] = None
    refused_for: object = None
    leaves_with: Optional[bytes] = None
    silent_since: Optional[float] = None
    parks = False
    # For `handler_warn_after`: when the present message came, who handles it, whether it was named.
    busy_since: Optional[float] = None
    thread: Optional[int] = None
    named = False
    transport: Any = None  # the socket that has its descriptor, where that is another one (TLS)
    state = ConnectionState.ACTIVE  # IDLE is not known of forked handlers

    def __init__(self, request: Any, client_address: Any) -> None:
        self.request = request
        self.client_address = client_address
        self.since = time.monotonic()
        self.count = Count()

    @property
    def idle(self) -> bool:
        return self.state is ConnectionState.IDLE

    def move(self, event: str) -> None:
        """Go where an event of the table leads; raises KeyError for a pair that it has not."""
        self.state = CONNECTION_TABLE[self.state, event]

    def cut(self) -> None:
        """Make every read and write of its handler end at once."""
        transport = self.request if self.transport is None else self.transport
        if isinstance(transport, socket.socket):
            with suppress(OSError):
                # Not the method: an SSLSocket's would pull the encryption from under the handler.
                socket.socket.shutdown(transport, socket.SHUT_RDWR)


class ForkedHandler:
    """A handler's process, as its server sees it.

    `channel` is the server's end of a socket pair whose other end only that process holds open: a
    connection that migrates comes over it, and its end tells the process's end.
    """

    idle = False

    def __init__(self, pid: int, channel: socket.socket, client_address: Any) -> None:
        self.pid = pid
        self.channel = channel
        self.receiver: Any = None  # the Channel on it, made when something comes
        self.client_address = client_address
        self.since = time.monotonic()

    def cut(self) -> None:
        # It is not reaped yet, so the number cannot be another process's.
        with suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)


class Connections:
    """The active handlers of one server. Any thread may call; each step on a dict is atomic."""

    def __init__(self) -> None:
        self.active: dict[int, Connection] = {}  # by the id() of the request
        # Those of them that are parked or leave when their handlers have ended; nearly always none.
        self.going_on: set[int] = set()
        self.forked: dict[int, ForkedHandler] = {}  # by pid
        self.exiting: set[int] = set()  # pids of those that have closed their end, and live
        self.parked: dict[int, MigratingConnection] = {}  # by descriptor
        self.served = 0  # how often one was given to a handler
        self.accepted = 0  # counted by the loop alone
        self.ended: deque[Count] = deque()  # not added up yet

    def __len__(self) -> int:
        # What speaks is active before it is parked no more: counted in this order it is not missed.
        return len(self.parked) + len(self.active) + len(self.forked)

    def with_handler(self) -> int:
        """Return how many have a handler."""
        return len(self.active) + len(self.forked)

    def get(self, request: Any) -> Optional[Connection]:
        """Return the record of an active connection.

        Where there is no GIL the dict's own get() takes its lock, for which all handlers would
        wait, and a subscript does not.
        """
        try:
            return self.active[id(request)]
        except KeyError:
            return None

    def end(self, request: Any) -> bool:
        """A connection is not active any more; whether it was until now."""
        key = id(request)
        try:
            self.ended.append(self.active[key].count)  # first: who adds up misses none
        except KeyError:
            return False
        self.going_on.discard(key)
        return self.active.pop(key, None) is not None

    def counts(self) -> tuple[int, int]:
        """Return how many are active, and how many of these are idle connections."""
        found = self.all()
        return len(found), sum(connection.idle for connection in found)

    def all(self) -> list[Any]:
        """Return a snapshot of the active connections and forked handlers."""
        active, forked = list(self.active.values()), list(self.forked.values())
        return [*list(self.parked.values()), *active, *forked]

    def abandon(self) -> list[Connection]:
        """Forget the connections whose handlers did not end when they were cut."""
        left = []
        while self.active:
            with suppress(KeyError):  # it ends right now
                key, connection = next(iter(list(self.active.items())))
                self.ended.append(connection.count)
                self.going_on.discard(key)
                del self.active[key]
                left.append(connection)
        return left


class MigratingConnection:
    """A connection between two handlers: its socket, and what the next handler must know.

    carried is the state that the last one saved, here or in the predecessor; None where there was
    none. until is the moment (time.monotonic) at which its client's time to speak is over, grace
    the one at which a drain closes it.
    """

    until: Optional[float] = None
    grace: Optional[float] = None
    grace_of: object = None  # the drain that it is meant for
    silent_since: Optional[float] = None

    def __init__(
        self,
        sock: socket.socket,
        client_address: Any,
        carried: Optional[bytes],
        state: ConnectionState = ConnectionState.LEAVING,
    ) -> None:
        self.socket = sock
        self.client_address = client_address
        self.carried = carried
        self.state = state
        self.since = time.monotonic()
        self.refused_for: object = None

    def move(self, event: str) -> None:
        """Go where an event of the table leads; raises KeyError for a pair that it has not."""
        self.state = CONNECTION_TABLE[self.state, event]

    @property
    def idle(self) -> bool:
        return True

    def for_handler(self) -> Connection:
        """Return the record of a connection that another handler has had."""
        connection = Connection(self.socket, self.client_address)
        connection.arrived_with = self.carried
        connection.refused_for = self.refused_for
        connection.silent_since = self.silent_since
        connection.since = self.since
        connection.count.alone = 0
        return connection

    def ends(self) -> float:
        """Return the moment (time.monotonic) at which its time is over."""
        return min((t for t in (self.until, self.grace) if t is not None), default=math.inf)

    def cut(self) -> None:
        """Have it found by the loop that keeps it, as one that has ended."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def to_json(self) -> dict[str, Any]:
        return {
            "address": address_to_json(self.client_address),
            "state": binascii.b2a_base64(self.carried or b"", newline=False).decode(),
            "timeout": self.socket.gettimeout(),
        }

    @classmethod
    def from_json(cls, body: dict[str, Any], descriptor: int) -> MigratingConnection:
        """Raises KeyError, OSError, TypeError or ValueError; the descriptor stays the caller's."""
        address = address_from_json(body["address"])
        carried = binascii.a2b_base64(body["state"])
        timeout = None if body["timeout"] is None else float(body["timeout"])
        if timeout is not None and not 0 <= timeout < _LONGEST_TIMEOUT:
            raise ValueError(f"{timeout} is not a time-out")
        sock = socket.socket(fileno=descriptor)
        sock.settimeout(timeout)
        return cls(sock, address, carried)


def can_be_told(address: Any) -> bool:
    """Whether another process can be told this address; a program may have put more into it."""
    parts = address if isinstance(address, tuple) else (address,)
    return all(isinstance(part, (str, bytes, int)) for part in parts)


def say_address(address: Any) -> str:
    """Return a client's address as an operator wants to read it."""
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{address[0]}:{address[1]}"
    return str(address or "a local client")
