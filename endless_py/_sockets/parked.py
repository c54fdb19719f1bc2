"""Idle connections that need no thread: parked, all of one server's, until their clients speak."""

from __future__ import annotations

import math
import select
import socket
import threading
import time
from contextlib import suppress

from endless_py._sockets.connection import Connections, MigratingConnection

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator

_LINGERING = 32  # handlers that wait for their clients' next requests themselves, at a time
_SWEEP = 0.1  # seconds between two looks at all that are parked: a look's cost grows with them
_GONE: int = getattr(select, "EPOLLRDHUP", 0) | getattr(select, "EPOLLHUP", 0)
_GONE |= getattr(select, "EPOLLERR", 0)


def can_park() -> bool:
    """Whether this system has what it needs: a poll whose cost does not grow with the idle."""
    return hasattr(select, "epoll")


class ParkingPlace:
    """Any thread may park; the rest is for the server's loop, but for what is said to be free.

    The connections are in `Connections.parked`, by descriptor.
    """

    def __init__(self, connections: Connections, wake: Callable[[], None]) -> None:
        """wake() ends the wait of the server's loop."""
        self._parked = connections.parked
        self._wake = wake
        self._epoll: Any = select.epoll()
        # What is parked is watched, and nothing else: the two change together.
        self._lock = threading.Lock()
        self._lingering: set[object] = set()
        self._added = False  # since the last sweep began
        self._earlier = False  # something is due before `due`
        self.due = math.inf  # the moment (time.monotonic) at which one's time is over
        self.untold = False  # since the last look at a drain one was parked
        self.open = True
        self.for_handlers = False  # whether handlers may park

    def fileno(self) -> int:
        """Return what can be read as soon as one of the clients has said something."""
        return int(self._epoll.fileno())

    # -- by handlers ------------------------------------------------------

    def lingers(self, handler: object) -> bool:
        """Whether a handler may wait a moment itself; free for any thread."""
        if len(self._lingering) >= _LINGERING:
            return False
        self._lingering.add(handler)
        return True

    def lingered(self, handler: object) -> None:
        """Its moment is over; free for any thread."""
        self._lingering.discard(handler)

    def park(self, connection: MigratingConnection) -> None:
        """Keep a connection until its client speaks; free for any thread."""
        descriptor = connection.socket.fileno()
        with self._lock:
            self._parked[descriptor] = connection
            watched = self._watch(descriptor)
        # Set before `due` is looked at: a sweep that has not seen this one begins again.
        self._added = self.untold = True
        if connection.until is not None and connection.until < self.due:
            self._earlier = True
            self._wake()
        if not watched or not self.open:
            self._drop(connection)  # nobody looks at it any more

    def _watch(self, descriptor: int) -> bool:
        try:
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP)
            return True
        except (OSError, ValueError):  # the kernel has no room, or the server was closed
            return False

    def _drop(self, connection: MigratingConnection) -> None:
        if self.take(connection):
            connection.socket.close()

    # -- by the loop ------------------------------------------------------

    def spoken(self, most: int) -> Iterator[tuple[MigratingConnection, bool]]:
        """Yield those whose clients have said something, and whether that was their end.

        They stay parked until take() is called for them.
        """
        for descriptor, events in self._epoll.poll(0, most):
            connection = self._parked.get(descriptor)
            if connection is not None:
                yield connection, bool(events & _GONE) and _has_left(connection.socket)

    def take(self, connection: MigratingConnection) -> bool:
        """Take one away; False: a force stop was faster."""
        descriptor = connection.socket.fileno()
        with self._lock:
            if descriptor < 0 or self._parked.get(descriptor) is not connection:
                return False
            del self._parked[descriptor]
            with suppress(OSError, ValueError):  # it never was watched, or the epoll is closed
                self._epoll.unregister(descriptor)
        return True

    def is_due(self) -> bool:
        """Whether a sweep has something to do."""
        return self._earlier or self.due <= time.monotonic()

    def sweep(self) -> list[MigratingConnection]:
        """Return those whose time is over; they stay parked."""
        while True:
            self._earlier = self._added = False
            now = time.monotonic()
            ends = [(found.ends(), found) for found in list(self._parked.values())]
            later = min((end for end, _ in ends if end > now), default=math.inf)
            self.due = max(later, now + _SWEEP)
            if not self._added:
                return [found for end, found in ends if end <= now]

    def sweep_soon(self) -> None:
        """What ends() says of some has changed."""
        self._earlier = True

    def all(self) -> list[MigratingConnection]:
        return list(self._parked.values())

    def close(self) -> None:
        """Close it, and what is parked."""
        self.open = False
        for connection in self.all():
            self._drop(connection)
        self._epoll.close()

    def in_forked_child(self) -> None:
        """Only this process's copies are closed: what the epoll watches is the parent's, too."""
        self._epoll.close()
        for connection in self.all():
            connection.socket.close()


def has_spoken(sock: socket.socket) -> bool:
    """Whether something, be it the end, can be read."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _has_left(sock: socket.socket) -> bool:
    """Whether there is nothing more to read; asked only where it is known that nothing follows."""
    timeout = sock.gettimeout()
    try:
        sock.setblocking(False)  # with a time-out recv() would wait, in spite of MSG_DONTWAIT
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        sock.settimeout(timeout)
