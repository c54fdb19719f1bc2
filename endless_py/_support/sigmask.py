"""Holding signals back, and seeing which ones a process held back to its end."""

from __future__ import annotations

import signal
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Iterable


def block(numbers: Iterable[int]) -> set[int]:
    """Hold signals back in this thread; returns what was held back before.

    They stay pending across a spawn or an exec.
    """
    return set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, set(numbers))))


def left_by(pid: int) -> set[int]:
    """Return the signals that a process held back to its end; Linux tells until it is reaped."""
    masks = {b"SigPnd": 0, b"ShdPnd": 0, b"SigBlk": 0}
    with suppress(OSError, ValueError), open(f"/proc/{pid}/status", "rb") as file:
        for name, _, value in (line.partition(b":") for line in file):
            if name in masks:
                masks[name] = int(value, 16)
    # One that ended the process is pending as well.
    left = (masks[b"SigPnd"] | masks[b"ShdPnd"]) & masks[b"SigBlk"]
    return {bit + 1 for bit in range(left.bit_length()) if left >> bit & 1}


def unblock(numbers: Iterable[int]) -> None:
    """Let signals in."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(numbers))
