"""The last lines of error output of a successor, which say why it has not started.

Its standard error is a pipe, unless it is a terminal and nobody waits for the outcome. The
incumbent passes everything on to its own. When the successor is ready it makes the original one its
standard error again, and reads the pipe itself: programs that it has started meanwhile still write
to it. If the incumbent ends before that, a thread of the successor reads the pipe until then.

What is passed on and cannot be written at once is dropped, as a log line is: see log.py.
"""

from __future__ import annotations

import _thread
import os
import stat
import sys
from contextlib import suppress

from endless_py._sockets.poller import READ, WRITE, Poller
from endless_py._support import log
from endless_py._support.descriptors import keep_off_standard_streams, pipe
from endless_py._support.escape import escaped

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

ORIGINAL = "endless_py: standard error"
READER = "endless_py: captured standard error"
_KEPT = 4096  # bytes
_ERROR = 400  # characters of a reason


class ErrorOutput:
    """The reading end, in whichever process has it."""

    def __init__(self, reader: int, target: int) -> None:
        """What comes out of `reader` is written to `target`; the reader is closed at its end.

        A target other than 2 is closed when it is restored.
        """
        os.set_blocking(reader, False)
        self._reader = reader
        self._target = target
        self._last = b""
        self._left = b""  # read, and not written yet: there was no room
        self._guard: Optional[tuple[int, Poller, _thread.LockType]] = None
        self.restored = False
        self._restoring = _thread.allocate_lock()

    def fileno(self) -> int:
        """Return the reader's descriptor, -1 once it is closed."""
        return self._reader

    def watched(self) -> dict[int, int]:
        """Return the descriptors that lead to `pass_on()`; none where nothing more will come."""
        if self._left:
            return {self._target: WRITE}
        return {self._reader: READ} if self._reader >= 0 else {}

    def pass_on(self) -> None:
        """Write what has come to where it belongs. Never waits, neither for more nor for room.

        Where there is no room nothing more is read: the new code waits then, as without us.
        """
        while self._write_left() and self._read():
            pass

    def _read(self) -> bool:
        """Take in what has come; whether there was something."""
        data = b""
        if self._reader >= 0:
            try:
                data = os.read(self._reader, 65536)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                pass
        if not data:
            self.close()
        self._left += data
        self._last = (self._last + data)[-_KEPT:]
        return bool(data)

    def _write_left(self) -> bool:
        """Whether all that was read is written."""
        if self._left and self._target == 2:
            self._left = log.standard_error.pass_on(self._left)
        elif self._left:
            data, self._left = self._left, b""
            with suppress(OSError):  # nobody reads it any more, or the disk is full
                self._left = data[len(data) - log.write_at_once(self._target, data) :]
        return not self._left

    def take_in(self) -> None:
        """Read what is there, though there may be no room to write it: its last lines count."""
        self._write_left()
        while self._read():
            pass
        self._write_left()

    def lines(self) -> list[str]:
        """Return the last lines."""
        text = self._last.decode(errors="replace")
        found = text.splitlines()
        return found[-20:] if len(self._last) < _KEPT else found[1:][-20:]

    def error(self) -> str:
        """Return the last line of a traceback, "" where it does not end with one.

        That is what tells an operator most of why a program has not started, in one line.
        """
        lines = self.lines()
        if not any(line.startswith((" ", "\t")) for line in lines):
            return ""  # no traceback has only one line
        last = next((line for line in reversed(lines) if line.strip()), "")
        return "" if last.startswith((" ", "\t")) else escaped(last, _ERROR)

    def guard(self, channel: int) -> None:
        """In the successor: read the pipe once the process at the channel's other end is gone.

        A program that writes more than a pipe holds before it is ready would else wait for ever.
        """
        with suppress(OSError, RuntimeError):  # no room for it: the incumbent should live then
            poller, runs = Poller(), _thread.allocate_lock()
            poller.watch({channel: 0})  # its end is told all the same
            runs.acquire()
            self._guard = os.getpid(), poller, runs
            try:
                _thread.start_new_thread(self._stand_guard, (poller, runs))
            except RuntimeError:
                self._guard = None
                poller.close()
                raise

    def _stand_guard(self, poller: Poller, runs: _thread.LockType) -> None:
        try:
            while not poller.wait(None)[1] and self._reader >= 0:
                self.pass_on()
                poller.watch(self.watched())
        finally:
            runs.release()

    def leave_unguarded(self) -> None:
        """In the successor: end the thread, if there is one, for good.

        Should the incumbent be killed, what the pipe holds has to be enough.
        """
        if self._guard is not None:
            with self._restoring:
                self._end_guard()

    def _end_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        pid, poller, runs = guard
        if pid == os.getpid():  # else the program has forked, and the thread is the parent's
            poller.interrupt()
            with runs:  # the thread holds it until it ends
                pass
        poller.close()

    def restore(self) -> None:
        """In the successor: make the target the standard error of this process again.

        It is done once; another thread that asks for it meanwhile waits until it is done.
        """
        with self._restoring:
            if self.restored:
                return
            self._end_guard()
            self.restored = True
            target = self._target
            if self._is_captured():
                try:
                    os.dup2(target, 2)
                except OSError:
                    return  # 2 is the pipe still, into which what comes out of it must not go
                log.standard_error.accept()
            self._target = 2
            if target != 2:
                with suppress(OSError):
                    os.close(target)

    def _is_captured(self) -> bool:
        """Whether 2 is the pipe still; the program may have a standard error of its own now."""
        try:
            found = os.fstat(2)
            if not stat.S_ISFIFO(found.st_mode):
                return False
            # Elsewhere the two ends of a pipe do not have the same number.
            linux = sys.platform.startswith("linux")
            return not linux or found.st_ino == os.fstat(self._reader).st_ino
        except OSError:
            return False

    def close(self) -> None:
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1


class Capture:
    """The incumbent's side: a pipe that is to be a successor's standard error."""

    def __init__(self) -> None:
        """Raises OSError when there is no standard error, or no descriptor left."""
        if not log.standard_error.is_there():
            raise OSError("there is no standard error")
        self.original = keep_off_standard_streams(os.dup(2))
        try:
            reader, self.writer = pipe()
        except OSError:
            os.close(self.original)
            raise
        self.output = ErrorOutput(reader, 2)
        self.files = {ORIGINAL: self.original, READER: reader}

    def given(self) -> None:
        """The successor has its ends, or there is none."""
        if self.writer >= 0:
            os.close(self.writer)
        self.writer = -1

    def close(self) -> None:
        """The successor has read everything so far, is gone, or could not be started."""
        self.given()
        self.output.pass_on()
        self.output.close()
        os.close(self.original)


def taken_back(files: dict[str, int]) -> Optional[ErrorOutput]:
    """In the successor: find out whether its standard error is captured."""
    original, reader = files.pop(ORIGINAL, None), files.pop(READER, None)
    if original is None or reader is None:
        return None
    return ErrorOutput(keep_off_standard_streams(reader), keep_off_standard_streams(original))
