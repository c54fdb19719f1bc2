"""Forks of this process: each gives up what makes the parent a generation."""

from __future__ import annotations

import _thread
import os
import threading

from endless_py._reload.signals import Signals

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Callable


class Forks:
    """Watches them, from when a forked child would have something of ours."""

    def __init__(
        self,
        signals: Signals,
        lock: threading.RLock,
        before: Callable[[], None],
        in_child: Callable[[bool], None],
    ) -> None:
        """lock is held while a successor is started: a fork in the middle would keep its pipes.

        before() is called before a fork, and in its child in_child(), with whether other threads
        ran beside it, which may have held a lock.
        """
        self._signals = signals
        self._lock = lock
        self._before_fork = before
        self._in_child = in_child
        self._beside_threads = False  # other threads ran at the last one
        self._unwatched = threading.Lock()  # taken once, for good, by who begins to watch

    def watch(self) -> None:
        """Watch from now on; each fork pays for the look."""
        if hasattr(os, "register_at_fork") and self._unwatched.acquire(blocking=False):
            os.register_at_fork(
                before=self._before,
                after_in_parent=self._after,
                after_in_child=self._after_in_child,
            )

    def _before(self) -> None:
        self._before_fork()
        beside_threads = _thread._count() > 0
        if beside_threads is not self._beside_threads:  # what is written costs the parent a page
            self._beside_threads = beside_threads
        self._lock.acquire()
        self._signals.before_fork()

    def _after(self) -> None:
        self._signals.after_fork()
        self._lock.release()

    def _after_in_child(self) -> None:
        try:
            self._in_child(self._beside_threads)
        finally:  # as in _after(), which would be a function more
            self._signals.after_fork()
            self._lock.release()
