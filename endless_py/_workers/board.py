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

from endless_py._reload.counters import NAMES

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

# pid, since, active, idle, served, how often it was written, and what it has counted
_ROW = struct.Struct(f"=qdqqqq{len(NAMES)}q")
_NONE = dict.fromkeys(NAMES, 0)


class Board:
    """One row for each worker."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._memory = mmap.mmap(-1, _ROW.size * count)

    def write(
        self, number: int, since: float, counts: tuple[int, int, int], counted: dict[str, int]
    ) -> None:
        """Say how it is with this process; counts are the active, the idle, and all served."""
        row = os.getpid(), since, *counts, self._row(number)[5] + 1
        rest = (counted[name] for name in NAMES)
        _ROW.pack_into(self._memory, number * _ROW.size, *row, *rest)

    def clear(self, number: int) -> None:
        """Its process has ended. What it has served and counted stays in the sums."""
        row = self._row(number)
        cleared = 0, 0.0, 0, 0, row[4], row[5] + 1, *row[6:]
        _ROW.pack_into(self._memory, number * _ROW.size, *cleared)

    def written(self) -> list[int]:
        """Return how often each was written."""
        return [self._row(number)[5] for number in range(self.count)]

    def served_before(self, number: int) -> int:
        """Return how many those who had this number before have served."""
        return int(self._row(number)[4])

    def counted(self, number: int) -> dict[str, int]:
        """Return what those with this number have counted."""
        return dict(zip(NAMES, self._row(number)[6:]))

    def counted_beside(self, number: int) -> dict[str, int]:
        """Return what all the others have counted."""
        found = dict(_NONE)
        for other in range(self.count):
            if other != number:
                for name, value in self.counted(other).items():
                    found[name] += value
        return found

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
        rows = [(number, *self._row(number)[:6]) for number in range(self.count)]
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
