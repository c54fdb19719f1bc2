"""What every thread is doing, for the log: of this process, and of a successor that hangs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from types import FrameType
    from typing import Optional

# Does nothing to a process that has no use for it, so that one may be asked that cannot answer.
_ASK = "SIGWINCH"
PATIENCE = 1.0  # seconds that a process has to write them, on a machine that may be busy


def lines() -> list[str]:
    """Return a line for each thread of this process, the innermost call last."""
    frames = sys._current_frames()
    return [_line(thread, frames.get(thread.ident or 0)) for thread in threading.enumerate()]


def of(ident: Optional[int]) -> str:
    """Return such a line for one thread; None: which one it is is not known."""
    if ident is None:
        return "in a thread of the program's own"
    for thread in threading.enumerate():
        if thread.ident == ident:
            return _line(thread, sys._current_frames().get(ident))
    return "in a thread that threading does not know"


def _line(thread: threading.Thread, frame: Optional[FrameType]) -> str:
    calls = []
    while frame is not None:
        calls.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    kind = "daemon thread" if thread.daemon else "thread"
    return f"{kind} {thread.name}: {' > '.join(reversed(calls)) or '?'}"


def offer() -> bool:
    """In a process that starts: write them to standard error when asked; whether it will.

    faulthandler does it without the interpreter, which may hang in a call of C.
    """
    if not hasattr(signal, _ASK) or signal.getsignal(getattr(signal, _ASK)) != signal.SIG_DFL:
        return False
    try:
        import faulthandler

        faulthandler.register(getattr(signal, _ASK), file=2, all_threads=True)
    except (ImportError, OSError, RuntimeError, ValueError):
        return False
    return True


def withdraw() -> None:
    """It has started: the signal means what it did."""
    import faulthandler

    # A handler that the program has set since is its own.
    if signal.getsignal(getattr(signal, _ASK)) == signal.SIG_DFL:
        faulthandler.unregister(getattr(signal, _ASK))


def ask(pid: int) -> None:
    """Have a process write them that is about to be killed."""
    if hasattr(signal, _ASK):
        with suppress(OSError):
            os.kill(pid, getattr(signal, _ASK))
