"""What the process knows of one server; it knows nothing of socketserver."""

from __future__ import annotations

import weakref
from collections import deque

from endless_py._sockets.connection import Beacon, Connections
from endless_py._sockets.listener import Binding
from endless_py._sockets.poller import Waiter
from endless_py._sockets.traveller import Home, Traveller

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional


class Serving:
    """One server's share in a reload.

    Written by the generation: accepting, closing, owns_path. Written by the server's
    own loop: in_accept, queue_served. Each side sets its flag before it reads the other's.
    """

    own_loop = True  # it is served by a loop of ours

    def __init__(self, server: Any) -> None:
        self._server = weakref.ref(server)
        self.connections = Connections()
        self.arrivals: deque[Traveller] = deque()  # connections to serve without an accept
        self.beacon: Optional[Beacon] = None
        self.settled: Any = None  # see AcceptLoop._plan()
        self.home: Optional[Home] = None  # where forked handlers send migrating connections
        self.migrates_to: Optional[int] = None  # this listener's number for the successor
        self.waiter: Optional[Waiter] = None
        self.binding: Optional[Binding] = None
        self.entered = False  # its loop runs
        self.ready = False  # it serves, and the predecessor knows
        # The server's RequestHandlerClass, and what is called in its place (None: its own way).
        self.prepared: tuple[Any, Any] = (None, None)
        self.shutdown_requested = False
        self.steady = False  # its loop never runs what may take long
        self.accepting = True
        self.in_accept = False
        self.closing = False
        self.queue_served = False
        self.owns_path = True
        self.loop_thread: Optional[int] = None
        self.inline_thread: Optional[int] = None
        self.inline_cut = False
        self.cut = False
        self.in_child = False
        self.drain_deadline: Optional[float] = None
        self.abandon_at: Optional[float] = None
        self.paused_until: Optional[float] = None
        self.full = False  # as many handlers as there may be; the end of one wakes the loop
        self.no_room_logged = 0.0

    @property
    def server(self) -> Any:
        return self._server()

    def setting(self, name: str) -> float:
        """Return a setting of the server, in seconds."""
        return float(getattr(self._server(), name, 0.0))

    def state(self) -> dict[str, Any]:
        """Return this server's part of `endless_py.state()`."""
        active, idle = self.connections.counts()
        return {
            "address": str(self),
            "accepting": self.accepting and self.entered,
            "active": active,
            "idle": idle,
        }

    def fileno(self) -> int:
        """Return the listener's descriptor, -1 once it is closed."""
        server = self._server()
        try:
            return int(server.fileno()) if server is not None else -1
        except (OSError, AttributeError, ValueError):
            return -1

    def wake(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            waiter.wake()

    def close(self) -> None:
        """Give back what waking the loop needs; only after the loop's end."""
        waiter = self.waiter
        if waiter is not None and self.loop_thread is None:
            self.waiter = None
            waiter.close()
            while self.arrivals:
                self.arrivals.popleft().socket.close()
            if self.home is not None:
                self.home.close()
                self.home = None

    @property
    def drained(self) -> bool:
        """Whether it accepts nothing and no handler of it is active."""
        if self.in_accept or self.arrivals or len(self.connections):
            return False
        return self.queue_served or not (self.closing and self.entered)

    def __str__(self) -> str:
        return str(self.binding) if self.binding is not None else "a server"
