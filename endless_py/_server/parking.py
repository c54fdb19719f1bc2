"""What a server's loop does with idle connections that wait in its poll, without a thread each.

Two kinds wait there. Where a server sets reuse_threads: what its handlers have at a message
boundary, when they could migrate there and nothing of the program's would notice that another
handler goes on. And on any server with threads or processes: what comes from the predecessor, where
the protocol has the client speak first.
"""

from __future__ import annotations

import functools
import math
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from endless_py._reload import process
from endless_py._reload.settings import seconds
from endless_py._server import kept
from endless_py._server.methods import serves_as_standard
from endless_py._server.room import Room
from endless_py._sockets.connection import MigratingConnection
from endless_py._sockets.drain_signal import DrainSignal
from endless_py._sockets.parked import ParkingPlace, can_park, has_spoken

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    Serve = Callable[[ParkingPlace, MigratingConnection], None]

_AT_ONCE = 16  # served in a turn of the loop


class Parking:
    """The parked connections of one serve_forever(). All is called by its loop."""

    def __init__(self, server: Any, room: Room, reuses: bool, serve: Serve) -> None:
        """reuses says whether its threads are used again; serve() has a connection handled."""
        self._server = server
        self._listener = server._listener
        self._room = room
        self._serve = serve
        kind = getattr(getattr(server, "socket", None), "type", None)
        plain = can_park() and kind == socket.SOCK_STREAM
        self._from_handlers = plain and reuses and serves_as_standard(server)
        self._arrivals = plain and _client_speaks_first(_handler_class(server))
        self.place: Optional[ParkingPlace] = None
        self._keeps_first = False
        self._told: object = None  # the drain that all know of, but for `untold`

    def begin(self) -> None:
        """Have a place from the start: clients may use up the descriptors."""
        if self._from_handlers or self._arrivals:
            self._make()

    def _make(self) -> Optional[ParkingPlace]:
        """Return a new place; None where there is no descriptor for it: threads do without."""
        listener = self._listener
        make = functools.partial(ParkingPlace, listener.connections, listener.wake)
        with suppress(OSError):
            made: ParkingPlace = process.current.make(make)
            made.for_handlers = self._from_handlers
            self.place = listener.parking = made
        return self.place

    def end(self) -> None:
        """The loop ends without a drain: what is parked has a thread again, as anywhere else."""
        place, self.place = self.place, None
        if place is None:
            return
        self._listener.parking = None
        place.open = False
        if not (self._listener.cut or process.current.released):
            for connection in place.all():
                self._serve(place, connection)
        place.close()

    # -- waiting ----------------------------------------------------------

    def watched(self) -> int:
        """Return the descriptor that tells that somebody speaks; -1 where nobody can be served.

        Where threads are not used again, max_handlers is no bound for what has migrated.
        """
        place = self.place
        if place is None or not self._has_room():
            return -1
        return place.fileno()

    def _has_room(self) -> bool:
        return not self._from_handlers or self._room.has_handler()

    def shorten(self, wait: Optional[float]) -> Optional[float]:
        """Return how many seconds the loop may wait, as far as it may at all."""
        if self.place is None or self.place.due == math.inf:
            return wait
        left = max(0.0, self.place.due - time.monotonic())
        return left if wait is None else min(wait, left)

    def goes_first(self) -> bool:
        """Whether, in this turn, what is parked comes before what is to be accepted."""
        self._keeps_first = not self._keeps_first
        return self._keeps_first

    # -- each turn --------------------------------------------------------

    def keep(self, arrived: MigratingConnection) -> bool:
        """Park what comes from another process, or from a successor that is gone; whether it is."""
        if not self._arrivals:
            return False
        place = self._make() if self.place is None else self.place
        if place is None:
            return False
        if arrived.silent_since is None:
            arrived.silent_since = time.monotonic()
            # What setup() would set.
            timeout = getattr(_handler_class(self._server), "timeout", None)
            if timeout is None:
                timeout = arrived.socket.gettimeout()
            if timeout is not None:
                arrived.until = arrived.silent_since + timeout
        arrived.move("parks")
        place.park(arrived)
        return True

    def serve(self) -> bool:
        """Have those served who have said something; False, which says that it was done."""
        place = self.place
        assert place is not None
        with self._taking():
            for connection, left in place.spoken(_AT_ONCE):
                if left:
                    self._close(place, connection)
                elif not self._has_room():
                    break
                else:
                    self._serve(place, connection)
        return False

    def look(self) -> None:
        """See to those whose time is over, and to all of them in a drain."""
        place, listener = self.place, self._listener
        if place is None or not listener.connections.parked:
            return
        if listener.cut:
            with self._taking():
                for connection in place.all():
                    self._close(place, connection)
        elif not listener.accepting and (signal := self._new_drain(place)) is not None:
            with self._taking():
                self._drain(place, signal)
        if place.is_due():
            with self._taking():
                for connection in place.sweep():
                    self._time_over(place, connection)

    def _new_drain(self, place: ParkingPlace) -> Optional[DrainSignal]:
        """Return the drain that has begun, if not all of them know of it."""
        signal = self._listener.drain_signal
        if signal is None or not signal.was_sent():
            return None
        return signal if place.untold or self._told is not signal.drain else None

    @contextmanager
    def _taking(self) -> Iterator[None]:
        """What is taken may be in neither of two lists for a moment."""
        listener = self._listener
        listener.in_accept = True
        try:
            yield
        finally:
            listener.in_accept = False
            if not listener.accepting:
                process.current.wake()

    def _drain(self, place: ParkingPlace, signal: DrainSignal) -> None:
        self._told, place.untold = signal.drain, False
        own = 0.0 if signal.hurries else seconds(self._server, "keepalive_grace")
        grace = time.monotonic() + own
        for connection in place.all():
            if signal.migrate() and connection.refused_for is not signal.drain:
                if place.take(connection):
                    connection.move("leaves")
                    process.current.migration.add(self._listener, connection)
            elif connection.grace_of is not signal.drain:
                connection.grace, connection.grace_of = grace, signal.drain
                place.sweep_soon()

    def _time_over(self, place: ParkingPlace, connection: MigratingConnection) -> None:
        expired = connection.until is not None and connection.until <= time.monotonic()
        if expired or has_spoken(connection.socket):
            self._serve(place, connection)  # which says that its client timed out
        elif self._listener.accepting:
            connection.grace = None  # that drain came to nothing
        else:
            self._close(place, connection)

    def _close(self, place: ParkingPlace, connection: MigratingConnection) -> None:
        if place.take(connection):
            self._server.shutdown_request(connection.socket)


def _handler_class(server: Any) -> Any:
    """Return the class of a server's handlers, where it has been given arguments only."""
    made_by = getattr(server, "RequestHandlerClass", None)
    while isinstance(made_by, functools.partial):
        made_by = made_by.func
    return made_by


def _client_speaks_first(made_by: Any) -> bool:
    """Whether a class does nothing for a connection before its client has said something."""
    http: Any = getattr(sys.modules.get("http.server"), "BaseHTTPRequestHandler", ())
    return (
        isinstance(made_by, type)
        and issubclass(made_by, http)
        and kept.is_standard(made_by, "setup")
        and kept.is_standard(made_by, "handle")
    )
