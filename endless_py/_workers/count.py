"""How many workers there are to be: what `workers = "auto"` means, and where there can be none."""

from __future__ import annotations

import math
import os
import threading
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional, Union

_GROUPS = "/sys/fs/cgroup"
# Threads of ours that look whether something has changed: they wait, or read files.
_OURS = {"endless_py watch", "endless_py updater"}


def wanted(setting: Union[int, str]) -> int:
    """Return the number of processes that a setting asks for."""
    return setting if isinstance(setting, int) else processors()


def refuse_other_threads(count: int) -> None:
    """Raise RuntimeError where threads of the program run, which names them."""
    this = threading.current_thread()
    others = [t.name for t in threading.enumerate() if t is not this and t.name not in _OURS]
    if others:
        raise RuntimeError(
            f"workers = {count}: other threads run ({', '.join(others)}), and a fork beside them "
            "is not safe; start them in a function for endless_py.on_worker_start(), or use "
            "endless_py.run_workers()"
        )


def processors(proc: str = "/proc", groups: str = _GROUPS) -> int:
    """Return how many processors this process may use: by its affinity, and by its groups' quota.

    A quota of one and a half counts as two: rounded down it would leave a third of it unused.
    """
    count: Optional[int] = None
    if hasattr(os, "process_cpu_count"):
        count = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    found = count or os.cpu_count() or 1
    return max(1, min(found, math.ceil(_quota(proc, groups))))


def _quota(proc: str, groups: str) -> float:
    """Return how many processors' time the control groups of this process allow."""
    least = float(os.cpu_count() or 1)
    with suppress(OSError, ValueError), open(f"{proc}/self/cgroup") as file:
        for line in file.read().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":  # version 2: each folder on the way up may have a limit
                parts = path.strip("/").split("/")
                for depth in range(len(parts) + 1):
                    folder = "/".join([groups, *parts[:depth]])
                    least = min(least, _read_2(f"{folder}/cpu.max"))
            elif "cpu" in controllers.split(","):
                for folder in (f"{groups}/{controllers}{path}", f"{groups}/{controllers}"):
                    least = min(least, _read_1(folder))
    return least


def _read_2(path: str) -> float:
    with suppress(OSError, ValueError), open(path) as file:
        quota, period = file.read().split()
        if quota != "max":
            return int(quota) / int(period)
    return math.inf


def _read_1(folder: str) -> float:
    with suppress(OSError, ValueError):
        with open(f"{folder}/cpu.cfs_quota_us") as file:
            quota = int(file.read())
        with open(f"{folder}/cpu.cfs_period_us") as file:
            period = int(file.read())
        if quota > 0:
            return quota / period
    return math.inf
