"""Servers that are there beside the program's own, for as long as one of these is served."""

from __future__ import annotations

import threading

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable


class Beside:
    """Each is begun by the first that wants it, and ended by the last."""

    def __init__(self) -> None:
        self._running: dict[Any, tuple[Callable[[], None], int]] = {}  # how to end it, its users
        self.in_forked_child()

    def in_forked_child(self) -> None:
        """Another thread may have held the lock."""
        self._lock = threading.Lock()

    def begin(self, address: Any, start: Callable[[], Callable[[], None]]) -> None:
        """One more server is served; start() returns what ends the one beside. Any thread may call.

        Raises what start() does.
        """
        with self._lock:
            end, users = self._running.get(address) or (start(), 0)
            self._running[address] = end, users + 1

    def end(self, address: Any) -> None:
        """One of them is served no more."""
        with self._lock:
            end, users = self._running.pop(address)
            if users > 1:
                self._running[address] = end, users - 1
            else:
                end()
