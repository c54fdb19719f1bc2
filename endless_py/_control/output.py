"""What every command says, and its exit status."""

from __future__ import annotations

import sys

from endless_py._control.client import Deadline, is_alive

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Iterable

OK, FAILED, TIMED_OUT, CUT = 0, 1, 3, 4


def wait_gone(pids: Iterable[int], deadline: Deadline) -> None:
    """Wait for the processes whose conversations are over: the kernel ends those first."""
    while any(map(is_alive, pids)):
        deadline.pause()


def say(text: str) -> None:
    print(text, flush=True)


def complain(text: str) -> None:
    print(f"python -m endless_py: error: {text}", file=sys.stderr, flush=True)
