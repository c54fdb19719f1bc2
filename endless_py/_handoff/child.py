"""Children on their way to their end, until they are reaped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

_REAP_FIRST, _REAP_LAST = 0.005, 0.5  # seconds from one look at a child to the next


class Child:
    """A child process on its way to its end."""

    def __init__(self, pid: int, generation: Optional[int] = None) -> None:
        self.pid = pid
        self.generation = generation
        self.status: Optional[str] = None
        self._kill_at: Optional[float] = None
        self._interval = _REAP_FIRST

    def __str__(self) -> str:
        if self.generation is None:
            return f"a rehearsal (pid {self.pid})"
        return f"generation {self.generation} (pid {self.pid})"

    def kill_after(self, seconds: float) -> None:
        """Kill it unless it ends by itself in that time."""
        self._kill_at = time.monotonic() + seconds

    def reap(self) -> bool:
        """Whether it has ended; `status` then says how. Kills it when its time is over."""
        if self.status is not None:
            return True
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
            self._kill_at = None
        try:
            # Not Popen.poll(): when others took the status, that calls it 0.
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            self.status = "its exit status was taken by another part of the program"
            return True
        if pid == 0:
            return False
        self.status = describe(os.waitstatus_to_exitcode(status))
        return True

    def next_reap(self) -> float:
        """The moment of the next `reap()`; its end should be near, but may not be."""
        self._interval = min(2 * self._interval, _REAP_LAST)
        again = time.monotonic() + self._interval
        return again if self._kill_at is None else min(again, self._kill_at)


def describe(returncode: int) -> str:
    """Say an exit status as an operator wants to read it."""
    if returncode < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-returncode).name}"
        return f"killed by signal {-returncode}"
    return f"exited with status {returncode}"


class Children:
    """Successors that failed, and what the process was before had started.

    A successor that is well is none of these: the end of its channel comes first.
    """

    def __init__(self) -> None:
        self.leaving: list[Child] = []
        self.orphans: list[Child] = []  # of the process that this one has replaced
        self.due: Optional[float] = None  # when `reap()` has something to do (time.monotonic)

    def __len__(self) -> int:
        return len(self.leaving) + len(self.orphans)

    def soon(self) -> None:
        """Have a look at them in this step or the next."""
        self.due = time.monotonic()

    def leave(self, child: Child) -> None:
        """This one will end, or be killed."""
        if child not in self.leaving and child.status is None:
            self.leaving.append(child)
            self.soon()

    def reap(self, draining: set[int]) -> Iterator[Child]:
        """Take out those that have ended; return the failed successors among them one by one.

        draining are the pids of predecessors, some of which may be orphans of ours.
        """
        self.due = None
        for orphan in list(self.orphans):
            if orphan.pid in draining:
                continue  # the end of its channel comes first
            if orphan.reap():
                self.orphans.remove(orphan)
            else:
                self._again(orphan)
        for child in list(self.leaving):
            if child.reap():
                self.leaving.remove(child)
                yield child
            else:
                self._again(child)

    def _again(self, child: Child) -> None:
        again = child.next_reap()
        self.due = again if self.due is None else min(self.due, again)
