"""What every command says, and its exit status."""

from __future__ import annotations

import sys

from endless_py._control.client import Deadline, is_alive
from endless_py._support.escape import escaped

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Iterable

_SHOWN = 20  # lines
OK, FAILED, TIMED_OUT, CUT = 0, 1, 3, 4


def wait_gone(pids: Iterable[int], deadline: Deadline) -> None:
    """Wait for the processes whose conversations are over: the kernel ends those first."""
    while any(map(is_alive, pids)):
        deadline.pause()


def say(text: str) -> None:
    """Print lines; what in them does not print is escaped."""
    print("\n".join(map(escaped, text.split("\n"))), flush=True)


def complain(text: str) -> None:
    print(f"python -m endless_py: error: {escaped(text)}", file=sys.stderr, flush=True)


def show(lines: Iterable[str]) -> None:
    """Print the last lines of what another program has written, escaped."""
    for line in list(lines)[-_SHOWN:]:
        print(f"    {escaped(line.expandtabs())}", file=sys.stderr)
