"""What the process knows of one listener and the server on it; it knows nothing of socketserver.

A listener has a state of its own, in a table as the process has (see `machine`).
"""

from __future__ import annotations

import enum
import os
import socket
import threading
import weakref
from collections import deque
from contextlib import suppress

from endless_py._reload import settings
from endless_py._sockets.connection import Connections, MigratingConnection
from endless_py._sockets.drain_signal import DrainSignal
from endless_py._sockets.listener import Binding
from endless_py._sockets.parked import ParkingPlace
from endless_py._sockets.poller import Poller

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional


class ListenerState(enum.Enum):
    BOUND = "bound"  # not served yet: the program has not said ready
    SERVING = "serving"
    YIELDED = "yielded"  # the successor serves it; this process does not drain yet
    DRAINING = "draining"  # no more is accepted; it stays open, in case the successor dies
    CLOSING = "closing"  # what is in its accept queue is served, then it is closed
    CLOSED = "closed"
    CUT = "cut"  # the drain's time is over
    CUT_CLOSED = "cut and closed"  # the same, of one that was to be closed


_S = ListenerState

# event -> {state before: state after}; in the others the event changes nothing
LISTENER_TABLE: dict[str, dict[ListenerState, ListenerState]] = {
    "ready": {_S.BOUND: _S.SERVING},
    "yield": {_S.SERVING: _S.YIELDED, _S.BOUND: _S.YIELDED},
    "drain": {
        _S.BOUND: _S.DRAINING,
        _S.SERVING: _S.DRAINING,
        _S.YIELDED: _S.DRAINING,
    },
    "close": {
        _S.BOUND: _S.CLOSING,
        _S.SERVING: _S.CLOSING,
        _S.YIELDED: _S.CLOSING,
        _S.DRAINING: _S.CLOSING,
        _S.CUT: _S.CUT_CLOSED,
    },
    "queue served": {_S.CLOSING: _S.CLOSED},
    "never served": {_S.BOUND: _S.CLOSED},
    "cut": {
        _S.DRAINING: _S.CUT,
        _S.CLOSING: _S.CUT_CLOSED,
        _S.CLOSED: _S.CUT_CLOSED,
    },
    "resume": {
        _S.YIELDED: _S.SERVING,
        _S.DRAINING: _S.SERVING,
        _S.CUT: _S.SERVING,
        _S.CUT_CLOSED: _S.CLOSED,
    },
}


class Listener:
    """One server's share in a reload.

    The state, and what follows from it, is changed under a lock. Written by the
    server's own loop: `in_accept`, which is set before `accepting` is read; whoever changes
    `accepting` looks at `in_accept` after that.
    """

    own_loop = True  # it is served by a loop of ours

    def __init__(self, server: Any) -> None:
        self._server = weakref.ref(server)
        self.connections = Connections()
        # Connections to serve without an accept.
        self.arrivals: deque[MigratingConnection] = deque()
        self.drain_signal: Optional[DrainSignal] = None
        self.settled: Any = None  # see AcceptLoop._plan()
        self.migrates_to: Optional[int] = None  # this listener's number for the successor
        self.poller: Optional[Poller] = None
        self.parking: Optional[ParkingPlace] = None  # while its loop runs
        self.binding: Optional[Binding] = None
        self.entered = False  # its loop runs, or its program has said ready
        self.beside = False  # it is not the program's, and only tells how that is
        self.missing = False  # the successor has not adopted it, and is to close its copy first
        self.ready = False  # it serves, and the predecessor knows
        self.unchecked = False  # entered while another thread runs the program's checks
        self.shutdown_requested = False
        self.steady = False  # its loop never runs what may take long
        self.in_accept = False
        self.owns_path = True
        self.loop_thread: Optional[int] = None
        self.inline_thread: Optional[int] = None
        self.inline_cut = False
        self.in_child = False
        self.handler_end: Any = None  # of a socket pair, while a handler is forked; in it, for good
        self.drain_deadline: Optional[float] = None
        self.abandon_at: Optional[float] = None
        self.paused_until: Optional[float] = None
        self.date = (0, "")  # the second (time.time) and what a response says of it
        self.slow: Any = None  # who watches over its handlers, while its loop runs
        self.limits: Any = None  # who counts how much this process may serve, where that is bounded
        self.full = False  # as many handlers as there may be; the end of one wakes the loop
        self.no_room_logged = float("-inf")
        self._lock = threading.Lock()  # of the state: its loop moves it as well as who drives
        self._set(ListenerState.SERVING)

    # -- the state --------------------------------------------------------

    def _set(self, state: ListenerState) -> None:
        self.state = state
        self.accepting = state is _S.SERVING
        self.serves_queue = state is _S.CLOSING
        self.closing = state in (_S.CLOSING, _S.CLOSED, _S.CUT_CLOSED)
        self.cut = state in (_S.CUT, _S.CUT_CLOSED)

    def hold(self) -> None:
        """Accept nothing before the program has said ready; another thread may just have done so.

        Who says it sets `ready` before it moves the state, so that one of the two sees the other.
        """
        with self._lock:
            if not self.ready:
                self._set(ListenerState.BOUND)

    def move(self, event: str) -> bool:
        """Go where an event of the table leads; whether that is another state."""
        with self._lock:
            after = LISTENER_TABLE[event].get(self.state)
            if after is None:
                return False
            self._set(after)
            return True

    def in_forked_child(self) -> None:
        """Another thread, which is not here, may have held its lock."""
        self.in_child = True
        self._lock = threading.Lock()

    def begin_again(self) -> None:
        """In a process that was forked to serve it as well: nothing was done with it yet."""
        self.in_child = self.entered = self.ready = self.owns_path = False
        self.drain_signal = self.poller = self.loop_thread = self.limits = None
        self.shutdown_requested = False
        self.connections = Connections()
        self.arrivals.clear()

    def give_up(self) -> None:
        """Nobody will accept on it again: its queue is served, and it is closed."""
        if self.move("close"):
            self.wake()

    @property
    def drained(self) -> bool:
        """Whether it accepts nothing, no handler of it is active, and its loop is free."""
        if self.in_accept or self.arrivals or len(self.connections) or self.inline_thread:
            return False
        if self.connections.parked:  # since it was counted as active
            return False
        if self.missing and not (self.closing or self.cut):
            return False
        return not (self.serves_queue and self.entered)

    # -- the server -------------------------------------------------------

    @property
    def server(self) -> Any:
        return self._server()

    def setting(self, name: str) -> float:
        """Return a time that the server has set, in seconds."""
        return settings.seconds(self._server(), name)

    def report(self) -> dict[str, Any]:
        """Return this server's part of `endless_py.state()`."""
        active, idle = self.connections.counts()
        return {
            "address": str(self),
            "accepting": self.accepting and self.entered,
            "active": active - idle,
            "idle": idle,
        }

    def fileno(self) -> int:
        """Return the listener's descriptor, -1 once it is closed."""
        server = self._server()
        try:
            return int(server.fileno()) if server is not None else -1
        except (OSError, AttributeError, ValueError):
            return -1

    def never_wait(self) -> None:
        """See to it that the kernel returns at once where nobody is to be accepted.

        The flag is the socket's, so another process may have changed it.
        """
        binding = self.binding
        if self.loop_thread is not None and binding and binding.kind == socket.SOCK_STREAM:
            with suppress(OSError):
                os.set_blocking(self.fileno(), False)

    def settle(self) -> None:
        """This process decides over the socket from now on; see `keeper`."""
        sock = getattr(self._server(), "socket", None)
        keeper = getattr(sock, "keeper", None)
        if keeper is not None:
            keeper.settle(sock)

    def wake(self) -> None:
        """Have its loop look around."""
        poller = self.poller
        if poller is not None:
            poller.interrupt()

    @property
    def datagrams(self) -> bool:
        """Whether it receives them, so that a handler answers through it."""
        return self.binding is not None and self.binding.kind == socket.SOCK_DGRAM

    def close(self) -> None:
        """Give back what waking the loop needs; only after the loop's end."""
        poller = self.poller
        if poller is not None and self.loop_thread is None:
            self.poller = None
            poller.close()
            while self.arrivals:
                self.arrivals.popleft().socket.close()

    def __str__(self) -> str:
        return str(self.binding) if self.binding is not None else "a server"


class ForeignListener(Listener):
    """One that `listen()` gave: a server that is not socketserver's accepts on it.

    Nothing is known of its connections, unless who accepts them says so.
    """

    own_loop = False

    def __init__(
        self,
        owner: Any,
        on_drain: Optional[Callable[[], Any]],
        on_resume: Optional[Callable[[], Any]],
    ) -> None:
        """owner has the listener's socket and settings, as a server would."""
        super().__init__(owner)
        self._owner = owner
        self.on_drain, self.on_resume = on_drain, on_resume
        self.on_cut: Optional[Callable[[], Any]] = None  # never waits; called in any thread
        self.done = False  # the program has said that it has drained

    def move(self, event: str) -> bool:
        moved = super().move(event)
        if moved and self.cut and self.on_cut is not None:
            self.on_cut()
        return moved

    def give_up(self) -> None:
        """The program has a duplicate, which it closes; with ours clients would still be let in."""
        if self.move("close"):
            self._owner.socket.close()

    @property
    def drained(self) -> bool:
        return self.done or (self.cut and not len(self.connections))
