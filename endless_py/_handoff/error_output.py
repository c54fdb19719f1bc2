"""The last lines of error output of a successor whose outcome somebody waits for.

Its standard error is a pipe then, from which the incumbent passes everything on to its own.
When the successor is ready it takes the real one back and reads the pipe itself, until
what it has started meanwhile has no use for the pipe any more. If the incumbent ends before,
a thread of the successor reads it until then.
"""

from __future__ import annotations

import _thread
import os
from contextlib import suppress

from endless_py._sockets.poller import READ, Waiter

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

ORIGINAL = "endless_py: standard error"
READER = "endless_py: captured standard error"
_KEPT = 4096  # bytes


class ErrorOutput:
    """The reading end, in whichever process has it."""

    def __init__(self, reader: int, target: int) -> None:
        """What comes out of `reader` is written to `target`; the reader is closed at its end."""
        os.set_blocking(reader, False)
        self._reader = reader
        self._target = target
        self._last = b""
        self._guard: Optional[tuple[int, Waiter, _thread.LockType]] = None
        self.restored = False

    def fileno(self) -> int:
        """Return the reader's descriptor, -1 once it is closed."""
        return self._reader

    def pass_on(self) -> None:
        """Write what has come to where it belongs. Never waits for more."""
        while self._reader >= 0:
            try:
                data = os.read(self._reader, 65536)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            self._last = (self._last + data)[-_KEPT:]
            with suppress(OSError):
                while data:
                    data = data[os.write(self._target, data) :]

    def lines(self) -> list[str]:
        """Return the last lines."""
        text = self._last.decode(errors="replace")
        found = text.splitlines()
        return found[-20:] if len(self._last) < _KEPT else found[1:][-20:]

    def guard(self, channel: int) -> None:
        """In the successor: read the pipe once the process at the channel's other end is gone.

        A program that writes more than a pipe holds before it is ready would else wait for ever.
        """
        with suppress(OSError, RuntimeError):  # no room for it: the incumbent should live then
            waiter, runs = Waiter(), _thread.allocate_lock()
            waiter.watch({channel: 0})  # its end is told all the same
            runs.acquire()
            self._guard = os.getpid(), waiter, runs
            try:
                _thread.start_new_thread(self._stand_guard, (waiter, runs))
            except RuntimeError:
                self._guard = None
                waiter.close()
                raise

    def _stand_guard(self, waiter: Waiter, runs: _thread.LockType) -> None:
        try:
            while not waiter.wait(None)[1] and self._reader >= 0:
                self.pass_on()
                waiter.watch({self._reader: READ} if self._reader >= 0 else {})
        finally:
            runs.release()

    def _end_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        pid, waiter, runs = guard
        if pid == os.getpid():  # else the program has forked, and the thread is the parent's
            waiter.wake()
            with runs:  # the thread holds it until it ends
                pass
        waiter.close()

    def restore(self) -> None:
        """In the successor: make the target the standard error of this process again."""
        self._end_guard()
        self.restored = True
        with suppress(OSError):
            os.dup2(self._target, 2)
            os.close(self._target)
            self._target = 2

    def close(self) -> None:
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1


class Capture:
    """The incumbent's side: a pipe that is to be a successor's standard error."""

    def __init__(self) -> None:
        """Raises OSError when there is no standard error, or no descriptor left."""
        self.original = os.dup(2)
        try:
            reader, self.writer = os.pipe()
        except OSError:
            os.close(self.original)
            raise
        self.output = ErrorOutput(reader, 2)
        self.files = {ORIGINAL: self.original, READER: reader}

    def given(self) -> None:
        """The successor has its ends."""
        os.close(self.writer)

    def close(self) -> None:
        """The successor has read everything so far, or is gone."""
        self.output.pass_on()
        self.output.close()
        os.close(self.original)


def taken_back(files: dict[str, int]) -> Optional[ErrorOutput]:
    """In the successor: find out whether its standard error is captured."""
    original, reader = files.pop(ORIGINAL, None), files.pop(READER, None)
    if original is None or reader is None:
        return None
    return ErrorOutput(reader, original)
