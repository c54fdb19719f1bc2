"""What each process of a generation says of itself, in memory that all of them share.

Each writes its own row only, and any may read them all; who wants to know how it is now has the
others write theirs anew, and looks until they have.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

_ROW = struct.Struct("=qdqqqq")  # pid, since, active, idle, served, how often it was written


class Board:
    """One row for each worker."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._memory = mmap.mmap(-1, _ROW.size * count)

    def write(self, number: int, since: float, counts: tuple[int, int, int]) -> None:
        """Say how it is with this process; counts are the active, the idle, and all served."""
        row = os.getpid(), since, *counts, self._row(number)[5] + 1
        _ROW.pack_into(self._memory, number * _ROW.size, *row)

    def clear(self, number: int) -> None:
        """Its process has ended. What it has served stays in the sum."""
        row = self._row(number)
        _ROW.pack_into(self._memory, number * _ROW.size, 0, 0.0, 0, 0, row[4], row[5] + 1)

    def written(self) -> list[int]:
        """Return how often each was written."""
        return [self._row(number)[5] for number in range(self.count)]

    def served_before(self, number: int) -> int:
        """Return how many those who had this number before have served."""
        return int(self._row(number)[4])

    def wait(self, before: list[int], numbers: list[int], seconds: float) -> None:
        """Wait until these have written anew, but no longer than that."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            now = self.written()
            if all(now[number] > before[number] for number in numbers):
                return
            time.sleep(0.001)

    def report(self) -> list[dict[str, Any]]:
        """Return what all have written, as `endless_py.state()` shows it."""
        rows = [(number, *self._row(number)) for number in range(self.count)]
        return [
            {
                "number": number,
                "pid": pid,
                "since": since,
                "active": active,
                "idle": idle,
                "served": served,
                "memory": memory(pid),
            }
            for number, pid, since, active, idle, served, _ in rows
            if pid
        ]

    def _row(self, number: int) -> tuple[Any, ...]:
        return _ROW.unpack_from(self._memory, number * _ROW.size)


def memory(pid: int) -> Optional[int]:
    """Return the bytes that a process uses, what it shares counted in parts; None: not known."""
    with suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return None
