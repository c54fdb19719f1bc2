"""The listeners of asyncio's servers, and the connections that come from them.

asyncio calls methods of the listener's socket: listen() when it begins to serve, accept() for each
connection. So all that is known here comes from the sockets, and no server needs to know of it.
"""

from __future__ import annotations

import os
import socket
import time

from endless_py._api import ForeignSocket
from endless_py._reload import process
from endless_py._sockets.connection import Connection
from endless_py._sockets.loop_poller import LoopPoller
from endless_py._support.reserve import NO_ROOM

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional, Protocol

    class Serving(Protocol):
        """Who serves it. In any thread."""

        loop: Any

        def tell(self) -> None:
            """Something has changed."""

        def say_cut(self) -> None:
            """The drain's time is over."""

        def cut_later(self, connection: AcceptedConnection) -> bool:
            """Whether it cuts this connection itself, a little later."""

        def leave_to_others(self) -> None:
            """A client cannot be let in here."""


_GIVE_WAY = 0.002  # seconds
_PAUSE = 0.5  # seconds without accepting when there is no descriptor left


class AcceptedSocket(socket.socket):
    """A connection's socket, which tells of its end."""

    listener: Optional[CountingSocket] = None

    def _real_close(self, *arguments: Any) -> None:
        super()._real_close(*arguments)  # type: ignore[misc]
        self._ends()

    def detach(self) -> int:
        self._ends()
        return super().detach()

    def _ends(self) -> None:
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.connections.active.pop(id(self), None)
            listener.ended()


class AcceptedConnection(Connection):
    """The record of one, whose server may say goodbye before it is cut."""

    def cut(self) -> None:
        listener = self.request.listener
        if listener is not None and not listener.serving.cut_later(self):
            super().cut()

    def cut_now(self) -> None:
        super().cut()


class CountingSocket(ForeignSocket):
    """A listener, which notes each connection until that is closed."""

    listens = drains = False
    serving: Serving
    _tried_until = 0.0  # time.monotonic()
    _queue: Optional[LoopPoller] = None  # where other processes accept as well
    _had_turn = False  # in this turn of the loop, so that it is theirs

    def begin(self, serving: Serving) -> None:
        self.serving = serving
        self.record = self._record
        self.connections = self.record.connections
        self.record.on_cut = serving.say_cut

    def drain(self) -> None:
        """Called in a drain, in another thread."""
        self.drains = True
        self.serving.tell()

    def listen(self, *arguments: int) -> None:
        super().listen(*arguments)
        self.listens = True
        self.serving.tell()

    def let_go(self) -> None:
        """Nobody accepts any more: who connects is refused, and does not wait for the drain's end.

        Its server has the descriptor, so that stays: of a socket that nobody can connect to.
        """
        with socket.socket(self.family, self.type) as other:
            os.dup2(other.fileno(), self.fileno(), inheritable=False)

    def ended(self) -> None:
        """One of its connections has."""
        if self._queue is not None and process.current.group is not None:
            process.current.group.say_load()
        self.serving.tell()

    def share(self, loop: Any) -> None:
        """It is served, and other processes do so as well: each takes one client at a time."""
        self._queue = LoopPoller(loop, self, self._accepts)
        self.record.poller = self._queue  # type: ignore[assignment]
        self._queue.queue_up()

    def _accepts(self) -> bool:
        return self.record.accepting and (self.record.ready or not process.current.worker)

    def _end_turn(self) -> None:
        """Take the next client, but first leave the processor to those that have fewer."""
        self._had_turn = False
        group, queue = process.current.group, self._queue
        if queue is None:
            return
        if group is not None and group.is_ahead():
            self.serving.loop.call_later(_GIVE_WAY, queue.queue_up)
        else:
            queue.queue_up()

    def accept(self) -> tuple[socket.socket, Any]:
        """As a socket's. When there is no room asyncio waits for a second, but tries on before."""
        if self._had_turn or time.monotonic() < self._tried_until:
            raise BlockingIOError
        if self._queue is not None:
            self._had_turn = True
            self._queue.begin_turn()
            self.serving.loop.call_soon(self._end_turn)
        try:
            plain, address = super().accept()
        except OSError as error:
            if error.errno in NO_ROOM:
                self._tried_until = time.monotonic() + _PAUSE
                self.serving.leave_to_others()
            raise
        self.connections.served += 1
        self.connections.accepted += 1
        accepted = AcceptedSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
        accepted.listener = self
        self.connections.active[id(accepted)] = AcceptedConnection(accepted, address)
        return accepted, address
