"""A rehearsal: the program is started once more, as far as its first server, and serves nothing.

A bridge does one before it hands back: what is on the disk may have changed since the bridge
itself was started, and the watched process must not become a program that does not start.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from endless_py._handoff import starter
from endless_py._handoff.command_line import CommandLine
from endless_py._reload import dry_start
from endless_py._sockets.poller import READ
from endless_py._support.descriptors import pipe

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

    from endless_py._handoff.started import Started

_CLEAN_UP = 5.0  # seconds a program has for its own end after its answer


class Rehearsal:
    """One start, which is watched until it has ended."""

    def __init__(
        self, command: CommandLine, environment: dict[str, str], started: Started, timeout: float
    ) -> None:
        """timeout is in seconds. Raises OSError when the program cannot be started."""
        self._timeout = timeout
        self._ends = time.monotonic() + timeout
        self._token = os.urandom(16).hex()
        self._heard = b""
        self._reader, theirs = pipe()
        self._reap_at = self._ends
        try:
            os.set_blocking(self._reader, False)
            theirs = starter.keep_off(theirs, started.descriptors()[1])
            environment[dry_start.VARIABLE] = f"{theirs}:{self._token}"
            self.child = starter.start(command, environment, theirs, started)
            self.child.begin(wait=True)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(theirs)

    @property
    def passed(self) -> bool:
        return self._heard == dry_start.answer(self._token)

    def watched(self) -> dict[int, int]:
        """Return the descriptor that leads to `problem()`."""
        return {} if self._reader < 0 else {self._reader: READ}

    def deadline(self) -> float:
        """Return the moment (time.monotonic) at which `problem()` has something to do."""
        return self._ends if self._reader >= 0 else self._reap_at

    def problem(self) -> Optional[str]:
        """Return what went wrong, "" once it has passed; None: it is not known yet."""
        if time.monotonic() >= self._ends:
            self.child.kill_after(0.0)
            self.close()
            return f"it reached no server within {self._timeout:g} s"
        with suppress(BlockingIOError, InterruptedError):
            while self._reader >= 0:
                data = os.read(self._reader, 256)
                self._heard += data
                if self.passed:
                    self.child.kill_after(_CLEAN_UP)
                    self.close()
                    return ""
                if not data or len(self._heard) > 256:
                    self.close()
        if self._reader >= 0:
            return None
        if not self.child.reap():  # who closed the pipe is about to end
            self._reap_at = self.child.next_reap()
            return None
        return f"it {self.child.status} before it reached a server"

    def close(self) -> None:
        """Listen no more."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
