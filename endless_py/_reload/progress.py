"""What somebody at the terminal waits for, after a Ctrl-C: redrawn in place until the end."""

from __future__ import annotations

import os
import time

from endless_py._reload.base import BaseProcess
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

_FIRST, _EVERY = 0.3, 1.0  # seconds: what ends at once is not worth a word


class Progress:
    """Of a stop in the foreground of a terminal; anywhere else it does nothing."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        self._due: Optional[float] = None  # time.monotonic()

    def begin(self) -> None:
        """Somebody at the terminal waits from now on for the end of this process."""
        try:
            if os.isatty(2):
                self._due = time.monotonic() + _FIRST
        except OSError:
            pass

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which `check()` has something to do."""
        return self._due if self._process.machine.stops else None

    def check(self) -> None:
        """Draw it anew; a line of the log that comes next takes its place."""
        now = time.monotonic()
        if self._due is None or not self._process.machine.stops or now < self._due:
            return
        self._due = now + _EVERY
        listeners = self._process.listeners.all
        counts = [listener.connections.counts() for listener in listeners]
        active = sum(total - idle for total, idle in counts)
        if not active or any(listener.cut for listener in listeners):
            return
        until = self._process.listeners.until()
        left = "" if until is None else f", at most {max(0, round(until - time.time()))} s"
        noun = "connection" if active == 1 else "connections"
        text = f"{active} {noun}{left}; press Ctrl-C again to end them now"
        log.standard_error.draw(text)
