"""Whether there is room for one connection more: a handler, and a descriptor."""

from __future__ import annotations

import errno
import time

from endless_py._reload import process
from endless_py._reload.settings import of
from endless_py._support import log
from endless_py._support.reserve import NO_ROOM, no_room

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any

_PAUSE = 0.1  # seconds without accepting when there is no descriptor left
_SAID = 10.0  # seconds until that is logged again


class Room:
    """What one server has room for. Who finds none waits in the accept queue."""

    def __init__(self, server: Any, forks: bool, threads: bool) -> None:
        """forks and threads say where its handlers run."""
        self._server = server
        self._settings = of(server)
        self._listener = server._listener
        self._forks = forks
        self._threads = threads
        self.found_none = False  # the last time that somebody was to be accepted

    def any(self) -> bool:
        """Whether one more may be accepted now."""
        if self._listener.paused_until is not None and self.is_paused():
            return False
        if self._forks:
            most: int = self._server.max_children
            return len(self._server.active_children or ()) < most
        return self.has_handler()

    def is_paused(self) -> bool:
        """Whether there was no descriptor a moment ago."""
        listener = self._listener
        paused_until = listener.paused_until  # read once: the end of a handler takes it away
        if paused_until is None:
            return False
        if time.monotonic() < paused_until:
            return True
        listener.paused_until = None
        return False

    def has_handler(self) -> bool:
        """Whether max_handlers allows one more."""
        most = self._settings.max_handlers
        if most is None or not self._threads:
            return True
        listener = self._listener
        # Set before the look: a handler that ends after it finds it set, and wakes the loop.
        listener.full = True
        if listener.connections.with_handler() < most:
            listener.full = False
        return not listener.full

    def leaves_reserve(self) -> bool:
        """Whether one more leaves what reloads and commands need; nobody is denied the only one."""
        if not len(self._listener.connections) or process.current.reserve.has_room():
            return True
        self.pause(no_room())
        return False

    def pause(self, error: OSError) -> bool:
        """Accept nothing for a moment, where it failed for want of room; whether it did.

        The listener stays readable meanwhile: do not spin on it.
        """
        if error.errno not in NO_ROOM:
            return False
        listener, now = self._listener, time.monotonic()
        self.found_none = True
        listener.paused_until = now + _PAUSE
        if now >= listener.no_room_logged + _SAID:
            listener.no_room_logged = now
            hint = ""
            if error.errno == errno.EMFILE:
                size = process.current.reserve.size or 0
                hint = (
                    " (raise ulimit -n, or set the handlers' timeout for idle connections; "
                    f"{size} descriptors are kept for reloads and commands)"
                )
            process.current.log(
                log.ERROR,
                "cannot accept on %(listener)s: %(reason)s; clients wait until there is room"
                "%(hint)s",
                "cannot_accept",
                listener=listener,
                reason=error.strerror,
                hint=hint,
            )
        return True
