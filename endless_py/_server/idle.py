"""Message boundaries: where a handler waits for the next message, and its connection can migrate.

A handler at a boundary waits until its client sends something or a drain begins. In a drain
its connection migrates; if it cannot, the client is told to finish.
"""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress

from endless_py._reload import process
from endless_py._reload.settings import seconds
from endless_py._server.stream import can_be_looked_into, has_more, own, read_ahead
from endless_py._sockets.connection import (
    MAX_STATE,
    Connection,
    ConnectionState,
    Count,
    can_be_told,
    say_address,
)
from endless_py._sockets.drain_signal import DrainSignal
from endless_py._sockets.poller import LONGEST
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from endless_py._reload.listener import Listener
    from endless_py._sockets.drain_signal import Crowd

NAME = "_endless_boundary"
_LINGER = 0.05  # seconds


class Boundary:
    """What one handler needs to wait at its boundaries."""

    def __init__(self, listener: Listener, request: Any) -> None:
        self.listener = listener
        self._connection: Optional[Connection] = listener.connections.get(request)
        # Without a connection nobody asks for it.
        self.count = Count() if self._connection is None else self._connection.count
        # Says whether another handler could go on; None: it does not matter.
        self.is_stateless: Optional[Callable[[], bool]] = None
        # Whether what a fresh connection's client has sent is read at once; see read_ahead().
        self.reads_ahead = False
        # Says whether its class allows that it is parked; None: it does not.
        self.may_park: Optional[Callable[[], bool]] = None
        self._drain_signal: Optional[DrainSignal] = None
        self._crowd: Optional[Crowd] = None  # with whom it waits for that
        self._poll: Any = None
        self._drain_seen = 0.0

    @property
    def arrived_with(self) -> Optional[bytes]:
        return self._connection.arrived_with if self._connection is not None else None

    @property
    def client_address(self) -> Any:
        """The address from which it was accepted."""
        return self._connection.client_address if self._connection is not None else None

    def draining(self) -> bool:
        drain_signal = self.listener.drain_signal
        return drain_signal is not None and drain_signal.was_sent()

    def can_migrate(self, handler: Any) -> bool:
        """Whether the connection can be served by the successor from here on."""
        connection, drain_signal = self._connection, self.listener.drain_signal
        return (
            connection is not None
            and drain_signal is not None
            and drain_signal.migrate()
            and connection.refused_for is not drain_signal.drain
            and self._can_leave(handler)
        )

    def _can_leave(self, handler: Any) -> bool:
        """Whether another handler could go on from here, in this process or in the next one."""
        return (
            self._connection is not None
            # TLS and whatever else wraps a socket has state that no descriptor carries.
            and type(handler.request) is socket.socket
            and own(handler, "connection", handler.request) is handler.request
            and can_be_looked_into(handler)
            and can_be_told(self._connection.client_address)
            and self._migrates(handler)
        )

    def _migrates(self, handler: Any) -> bool:
        said: Optional[bool] = own(handler, "migrates")
        if said is not None:
            return bool(said)
        return self.is_stateless is None or self.is_stateless()

    def wait(self, handler: Any) -> bool:
        """Whether the client has sent something (its end included) and is to be served here.

        Raises TimeoutError when the connection's own time-out passes first; with reads_ahead,
        what reading raises.
        """
        since = time.monotonic()
        if self._connection is not None and self._connection.silent_since is not None:
            since, self._connection.silent_since = self._connection.silent_since, None
        if self.reads_ahead:
            self.reads_ahead = False
            if read_ahead(handler):
                return True  # accepted just now: what it runs for counts from there
        try:
            return self._wait(handler, since)
        finally:
            self._speaks()
            if self.listener.slow is not None and self._connection is not None:
                self.listener.slow.begins(self._connection)

    def _speaks(self) -> None:
        connection = self._connection
        if connection is not None and connection.state is ConnectionState.IDLE:
            connection.move("speaks")

    def _wait(self, handler: Any, since: float) -> bool:
        if has_more(handler):
            return True
        try:
            descriptor = handler.connection.fileno()
            timeout: Optional[float] = handler.connection.gettimeout()
        except (OSError, AttributeError):
            return True
        if descriptor < 0:
            return True
        until = None if timeout is None else since + timeout
        parking = self.listener.parking
        lingers = parking is not None and parking.for_handlers and self.may_park is not None
        while True:
            grace = None
            if self.draining():
                if self.can_migrate(handler) and self._leave(handler):
                    return False
                if self._drain_signal is not None or self._poll is None:
                    self._crowd = self._drain_signal = None
                    self._poll = select.poll()
                    self._poll.register(descriptor, select.POLLIN)
                    self._drain_seen = time.monotonic()
                signal = self.listener.drain_signal
                grace = self._drain_seen
                if signal is None or not signal.hurries:
                    grace += seconds(handler.server, "keepalive_grace")
            elif self._poll is None or self._drain_signal is not self.listener.drain_signal:
                self._crowd = None  # before the signal that it is of
                self._drain_signal, self._poll = self.listener.drain_signal, select.poll()
                self._poll.register(descriptor, select.POLLIN)
                if self._drain_signal is not None:
                    self._crowd = self._drain_signal.join(self.listener.connections.with_handler())
                    self._poll.register(self._crowd.reader, select.POLLIN)
            ends = until
            if grace is not None and (until is None or grace < until):
                ends = grace
            wait = None if ends is None else max(0.0, min(ends - time.monotonic(), LONGEST)) * 1000
            connection = self._connection
            if connection is not None and connection.state is not ConnectionState.IDLE:
                connection.move("waits")
            if lingers and not self.draining():
                lingers, ready = False, self._linger(wait)
                expired = until is not None and time.monotonic() >= until
                if not (ready or expired) and self._park(handler, since):
                    return False
            else:
                ready = self._poll.poll(wait)
            if descriptor in dict(ready):
                return True
            if ready:
                continue  # the drain has begun
            if until is not None and time.monotonic() >= until:
                raise socket.timeout("timed out")  # before 3.10 not a TimeoutError
            if self.draining() and grace is not None and time.monotonic() >= grace:
                # Something may have come since then, where many threads wait for their turn.
                return bool(self._poll.poll(0))

    def _linger(self, wait: Optional[float]) -> list[tuple[int, int]]:
        """Wait a moment before the connection is parked: nearly all of a busy client's requests
        come within it, and cost no change of threads.

        wait is the longest that it may be, in milliseconds; None: there is no bound of its own.
        Where clients wait for a handler, or many handlers linger already, it is no time at all.
        """
        most, parking = 0.0, self.listener.parking
        if parking is not None and not self.listener.full and parking.lingers(self):
            most = _LINGER * 1000
        try:
            found: list[tuple[int, int]] = self._poll.poll(
                most if wait is None else min(wait, most)
            )
            return found
        finally:
            if most and parking is not None:
                parking.lingered(self)

    def _park(self, handler: Any, since: float) -> bool:
        """Mark the connection so that it waits without a thread when its handler has returned."""
        connection = self._connection
        if connection is None or self.may_park is None or self.draining():
            return False
        if not (self.may_park() and self._can_leave(handler)):
            return False
        with suppress(AttributeError):
            handler.wfile.flush()
        self._speaks()
        connection.silent_since = since
        connection.parks = True
        self.listener.connections.going_on.add(id(connection.request))
        connection.move("parks")
        return True

    def _leave(self, handler: Any) -> bool:
        """Mark the connection so that it migrates when its handler has returned."""
        save = own(handler, "save_state")
        state = b"" if save is None else bytes(save())
        assert self._connection is not None
        if len(state) > MAX_STATE:
            drain_signal = self.listener.drain_signal
            self._connection.refused_for = drain_signal and drain_signal.drain
            process.current.log(
                log.ERROR,
                "%(client)s cannot migrate: save_state() returned %(size)d bytes, more than "
                "%(most)d; it is told to finish",
                "state_too_large",
                client=say_address(handler.client_address),
                size=len(state),
                most=MAX_STATE,
            )
            return False
        with suppress(AttributeError):
            handler.wfile.flush()
        self._speaks()
        handler.migrating = True
        self._connection.leaves_with = state
        self.listener.connections.going_on.add(id(self._connection.request))
        self._connection.move("leaves")
        return True


def of(handler: Any) -> Boundary:
    """Return the boundary of this handler, made when it is first asked for."""
    found: Optional[Boundary] = vars(handler).get(NAME)
    if found is None:
        found = vars(handler)[NAME] = Boundary(handler.server._listener, handler.request)
    return found


def await_message(handler: Any) -> bool:
    """Wait at a message boundary of a StreamRequestHandler's own protocol.

    Call it from handle() where the next message would be read. True: there is something
    to read, or the client has left; read on. False: return from handle(). The connection
    then migrates to the successor (`handler.migrating` is true), or it is told to
    finish, after `keepalive_grace` seconds of silence during a drain: say good-bye.
    Raises TimeoutError when the handler's own `timeout` passes.

    These attributes of the handler, all optional, take part:

    migrates            on the class or on one handler; false: its connection never migrates; true:
                        another handler of its class can go on. Without it that is so where a
                        protocol of the program's own calls this function, and for an HTTP
                        handler that has no setup() or handle() of its own and has assigned
                        nothing to itself that the standard class does not
    save_state()        returns bytes (at most 65536) that go along with the connection
    restore_state(data) is called with them in the successor, between setup() and handle()
    """
    return of(handler).wait(handler)
