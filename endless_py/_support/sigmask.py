"""Holding signals back, and seeing which ones a process held back to its end."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # its enumerations take longer than the call
import signal
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Iterable


def block(numbers: Iterable[int]) -> set[int]:
    """Hold signals back in this thread; returns what was held back before.

    They stay pending across a spawn or an exec.
    """
    before: set[int] = _signal.pthread_sigmask(signal.SIG_BLOCK, set(numbers))
    return before


def restore(numbers: set[int]) -> None:
    """Hold back these in this thread and let all others in: what `block()` returned."""
    _signal.pthread_sigmask(signal.SIG_SETMASK, numbers)


def left_by(pid: int) -> set[int]:
    """Return the signals that a process held back to its end; Linux tells until it is reaped."""
    masks = _masks(str(pid))
    # One that ended the process is pending as well.
    return (masks["SigPnd"] | masks["ShdPnd"]) & masks["SigBlk"]


def caught() -> set[int]:
    """Return the signals that this process has a handler for, whoever set it; Linux tells."""
    return _masks("self")["SigCgt"]


def _masks(process: str) -> dict[str, set[int]]:
    masks: dict[str, set[int]] = {n: set() for n in ("SigPnd", "ShdPnd", "SigBlk", "SigCgt")}
    with suppress(OSError, ValueError), open(f"/proc/{process}/status", "rb") as file:
        for name, _, value in (line.decode("ascii", "replace").partition(":") for line in file):
            if name in masks:
                bits = int(value, 16)
                masks[name] = {bit + 1 for bit in range(bits.bit_length()) if bits >> bit & 1}
    return masks


def unblock(numbers: Iterable[int]) -> None:
    """Let signals in."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(numbers))
