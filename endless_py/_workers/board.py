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
_LOAD = struct.Struct("=q")  # how many connections it has, and one more; 0: it does not accept
_NONE = dict.fromkeys(NAMES, 0)


class Board:
    """Two rows for each worker: one that is replaced lives on for a while beside the new one."""

    def __init__(self, count: int) -> None:
        self.count = count  # of workers
        self._rows = range(2 * count)
        self._memory = mmap.mmap(-1, _ROW.size * len(self._rows))
        self._loads = mmap.mmap(-1, _LOAD.size * len(self._rows))

    def number(self, row: int) -> int:
        """Return the number of the worker that a row is of."""
        return row % self.count

    def other(self, row: int) -> int:
        """Return the row for who is to have the place of this one."""
        return (row + self.count) % len(self._rows)

    def write(
        self, row: int, since: float, counts: tuple[int, int, int], counted: dict[str, int]
    ) -> None:
        """Say how it is with this process; counts are the active, the idle, and all served."""
        fields = os.getpid(), since, *counts, self._row(row)[5] + 1
        rest = (counted[name] for name in NAMES)
        _ROW.pack_into(self._memory, row * _ROW.size, *fields, *rest)

    def clear(self, row: int) -> None:
        """Its process has ended. What it has served and counted stays in the sums."""
        found = self._row(row)
        _LOAD.pack_into(self._loads, row * _LOAD.size, 0)
        cleared = 0, 0.0, 0, 0, found[4], found[5] + 1, *found[6:]
        _ROW.pack_into(self._memory, row * _ROW.size, *cleared)

    def living(self) -> list[int]:
        """Return the rows that have a process."""
        return [row for row in self._rows if self._row(row)[0]]

    def say_load(self, row: int, connections: int) -> None:
        """Say how many connections this process has, which accepts."""
        _LOAD.pack_into(self._loads, row * _LOAD.size, connections + 1)

    def loads_beside(self, row: int) -> list[int]:
        """Return how many connections each of the others who accept has."""
        found = [load for (load,) in _LOAD.iter_unpack(self._loads)]
        return [load - 1 for other, load in enumerate(found) if load and other != row]

    def written(self) -> list[int]:
        """Return how often each was written."""
        return [self._row(row)[5] for row in self._rows]

    def served_before(self, row: int) -> int:
        """Return how many those who had this row before have served."""
        return int(self._row(row)[4])

    def counted(self, row: int) -> dict[str, int]:
        """Return what those with this row have counted."""
        return dict(zip(NAMES, self._row(row)[6:]))

    def counted_beside(self, row: int) -> dict[str, int]:
        """Return what all the others have counted."""
        found = dict(_NONE)
        for other in self._rows:
            if other != row:
                for name, value in self.counted(other).items():
                    found[name] += value
        return found

    def wait(self, before: list[int], rows: list[int], seconds: float) -> None:
        """Wait until these have written anew, but no longer than that."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            now = self.written()
            if all(now[row] > before[row] for row in rows):
                return
            time.sleep(0.001)

    def report(self) -> list[dict[str, Any]]:
        """Return what all have written, as `endless_py.state()` shows it."""
        found = []
        for row in sorted(self._rows, key=self.number):
            pid, since, active, idle, served, _ = self._row(row)[:6]
            if not pid:
                continue
            other = self._row(self.other(row))
            found.append(
                {
                    "number": self.number(row),
                    "pid": pid,
                    "since": since,
                    "active": active,
                    "idle": idle,
                    "served": served if other[0] else served + other[4],
                    "memory": memory(pid),
                }
            )
        return found

    def _row(self, row: int) -> tuple[Any, ...]:
        return _ROW.unpack_from(self._memory, row * _ROW.size)


def memory(pid: int) -> Optional[int]:
    """Return the bytes that a process uses, what it shares counted in parts; None: not known."""
    with suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return None
