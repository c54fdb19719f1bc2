"""Children on their way to their end, until they are reaped."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

from endless_py._supervisor.pidrecord import is_alive

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

_FIRST = 22  # bytes of what a watcher says first; its second word is shorter
_START_TIMEOUT = 5.0  # seconds that an order to stop waits to know whom it is for
_REAP_FIRST, _REAP_LAST = 0.005, 0.5  # seconds from one look at a child to the next


class Child:
    """A child process on its way to its end."""

    def __init__(
        self, pid: int, generation: Optional[int] = None, report: Optional[int] = None
    ) -> None:
        """report is where the watcher tells its pid and its status, and pid the starter's so far.

        Without it this is a child of this process, or was one of the process's before an exec.
        """
        self.pid = pid
        self.generation = generation
        self.watcher = 0  # the pid of its parent, if that one is there only to watch: see `starter`
        self.begun = report is None  # its own pid is known
        self._report = -1 if report is None else report
        self.status: Optional[str] = None
        self._kill_at: Optional[float] = None
        self._interval = _REAP_FIRST

    def let_go(self) -> None:
        """It is not for this process to know how it ends.

        At the process's end another thread may be about to reap it: only one closes the number.
        """
        report, self._report = self._report, -1
        if report >= 0:
            os.close(report)

    def watched(self) -> int:
        """Return the descriptor that tells when it can `begin()`; -1 when it has."""
        return -1 if self.begun else self._report

    def begin(self, wait: bool = False) -> bool:
        """Whether the starter has started it, so that its pid is known."""
        if not self.begun:
            if wait:
                poll = select.poll()
                poll.register(self._report, select.POLLIN)
                poll.poll(_START_TIMEOUT * 1000)
            data = self._read()
            if data is None:
                return False
            self.begun = True
            words = data.split()
            if len(words) == 2:
                with suppress(ChildProcessError):
                    os.waitpid(self.pid, 0)  # the starter has ended
                self.watcher, self.pid = map(int, words)
            else:  # it is no interpreter, or cannot begin: it is looked after as it is
                self.let_go()
        return True

    def _read(self) -> Optional[bytes]:
        """Return what the watcher has said since; None: nothing, empty: it has ended."""
        try:
            return os.read(self._report, _FIRST)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

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
        if self.begin() and self._report >= 0 and self._told():
            return True
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
            self._kill_at = None
        if self._report >= 0:
            return False
        try:
            # Not Popen.poll(): when others took the status, that calls it 0.
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            if is_alive(self.pid):
                return False
            self.status = "has ended"  # it is no child, or others have taken its status
            return True
        if pid == 0:
            return False
        self.status = describe(os.waitstatus_to_exitcode(status))
        return True

    def _told(self) -> bool:
        """Whether its watcher has told its end; one that is gone itself is not listened to."""
        data = self._read()
        if data is None:
            return False
        self.let_go()
        if not data:
            return False
        self.status = describe(os.waitstatus_to_exitcode(int(data)))
        with suppress(ChildProcessError):  # it is this process's where orphans become its children
            os.waitpid(self.watcher, 0)
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

        draining are the pids of predecessors. While there are any, orphans can wait: the end of
        a bridge's channel comes first.
        """
        self.due = None
        for orphan in [] if draining else list(self.orphans):
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

    def in_forked_child(self) -> None:
        """None of these is a forked child's."""
        for child in self.leaving:
            child.let_go()
        self.leaving = []

    def _again(self, child: Child) -> None:
        again = child.next_reap()
        self.due = again if self.due is None else min(self.due, again)
