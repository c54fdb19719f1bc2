"""The servers of this process, taken together: what is done to all of them at once."""

from __future__ import annotations

import _thread
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from endless_py._reload.life import Life
from endless_py._reload.listening import Listening
from endless_py._reload.serving import Serving
from endless_py._sockets.connection import Beacon

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

    from endless_py._sockets.listener import Binding


class Servers:
    """Their list, and which of them forks in which thread."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.all: list[Serving] = []
        self._forking: dict[int, Serving] = {}

    def add(self, serving: Serving) -> None:
        self.all = [s for s in self.all if s.server is not None]
        if serving not in self.all:
            self.all.append(serving)

    def wake(self) -> None:
        """Wake every loop, and whoever drives this process."""
        for serving in self.all:
            serving.wake()
        self._life.driver.wake()

    def listenings(self) -> list[Listening]:
        """Return the listeners that no loop of ours serves."""
        return [serving for serving in self.all if isinstance(serving, Listening)]

    def has_served(self) -> bool:
        """Whether one of them has said ready."""
        return any(serving.ready for serving in self.all)

    # -- settings ---------------------------------------------------------

    def ready_timeout(self) -> float:
        """Return how many seconds a successor has to be ready."""
        return max((s.setting("ready_timeout") for s in self.all), default=60.0)

    def longest_drain(self) -> float:
        """Return how many seconds a drain may take."""
        return max((s.setting("drain_timeout") for s in self.all), default=0.0)

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which the drain of one has a next step."""
        times = [t for s in self.all for t in (s.drain_deadline, s.abandon_at)]
        return min((t for t in times if t is not None), default=None)

    # -- their listeners --------------------------------------------------

    def bound(self) -> list[tuple[Serving, Binding, int]]:
        """Return those with an open listener, each with its binding and descriptor."""
        found = []
        for serving in self.all:
            descriptor = serving.fileno()
            if serving.binding is not None and descriptor >= 0:
                found.append((serving, serving.binding, descriptor))
        return found

    def by_number(self, numbers: Optional[dict[int, int]]) -> dict[int, Serving]:
        """Return the servers by the numbers that a predecessor knows their listeners by.

        numbers are those numbers to ours; None: they are the same.
        """
        own = {
            serving.binding.index: serving
            for serving in self.all
            if serving.binding is not None and serving.binding.index is not None
        }
        if numbers is None:
            return own
        return {theirs: own[ours] for theirs, ours in numbers.items() if ours in own}

    def unlink(self) -> None:
        """Remove the Unix paths that are still theirs."""
        for serving in self.all:
            if serving.owns_path and serving.binding is not None:
                serving.binding.unlink()

    def close_listeners(self) -> None:
        """Have each serve its accept queue and close its listener."""
        for serving in self.all:
            if not serving.closing:
                serving.closing = True
                serving.wake()

    # -- a drain, and back ------------------------------------------------

    def stop_accepting(self) -> tuple[int, float]:
        """Begin the drain; return how many handlers are active, and the longest time (s)."""
        now = time.monotonic()
        active = sum(len(s.connections) for s in self.all)
        longest = 0.0
        for serving in self.all:
            serving.accepting = False
            timeout = serving.setting("drain_timeout")
            longest = max(longest, timeout)
            serving.drain_deadline = now + timeout
        for serving in self.all:
            if serving.beacon is not None:
                serving.beacon.light(serving.migrates_to is not None)
        return active, longest

    def hammer(self) -> None:
        """The time of every drain is over."""
        now = time.monotonic()
        for serving in self.all:
            if serving.drain_deadline is not None and serving.abandon_at is None:
                serving.drain_deadline = now
        self.wake()

    def drained(self) -> bool:
        return all(serving.drained for serving in self.all)

    def cut(self) -> bool:
        """Whether the time of every drain has been over."""
        return all(serving.cut for serving in self.all)

    def cutting_inline(self) -> bool:
        """Whether this thread runs a handler that outlasted the hammer."""
        ident = threading.get_ident()
        return any(s.inline_cut and s.inline_thread == ident for s in self.all)

    def undo_drain(self) -> None:
        """Nobody drains any more, and whoever looks at the next beacon sees it dark."""
        for serving in self.all:
            if serving.beacon is not None:
                serving.beacon = Beacon()
            serving.drain_deadline = serving.abandon_at = None
            serving.cut = False
            serving.queue_served = serving.queue_served and serving.closing

    def accept_again(self) -> None:
        """Take back what a successor had taken over."""
        for serving in self.all:
            if serving.closing:
                continue
            serving.accepting = True
            serving.owns_path = True
            server = serving.server
            if serving.binding is None or serving.binding.kind != socket.SOCK_STREAM:
                continue
            with suppress(OSError, AttributeError):  # the successor may have set its own backlog
                server.socket.listen(server.request_queue_size)

    # -- forks ------------------------------------------------------------

    @contextmanager
    def forking(self, serving: Serving) -> Iterator[None]:
        """Mark that what this thread forks now is a handler's process."""
        self._forking[_thread.get_ident()] = serving
        try:
            yield
        finally:
            self._forking.pop(_thread.get_ident(), None)

    def forked_for(self) -> Optional[Serving]:
        """In a forked child: return the server whose handler it is, None if it is another's."""
        serving = self._forking.get(_thread.get_ident())
        self._forking = {}
        return serving

    def let_go(self, served: Optional[Serving]) -> None:
        """In a forked child, which may be the process of a handler of `served`."""
        for other in self.all:
            other.in_child = True
            if other.beacon is not None:
                other.beacon.let_go()
            if other.waiter is not None:
                other.waiter.close()
                other.waiter = None
            datagrams = other.binding is not None and other.binding.kind == socket.SOCK_DGRAM
            if served is not None and not datagrams:  # datagrams are answered through it
                with suppress(OSError, AttributeError):
                    other.server.socket.close()
        self.all = []

    def leave_open(self) -> None:
        """The process ends: nothing wakes their loops any more."""
        for serving in self.all:
            if serving.waiter is not None:
                serving.waiter.close()
                serving.waiter = None
