"""Where log lines go: the program's own logging if it set one up, else standard error.

A line is an event with a name, a template that is always the same, and fields. The program's
handlers get them as such; on standard error it is text, as a terminal, a file or the journal wants
it.

Nothing here waits. A pipe, a socket or a terminal that nobody reads fills up, and whoever writes to
it then waits until somebody reads; a loop that did so would serve nobody.
"""

from __future__ import annotations

import _thread
import io
import os
import select
import socket
import stat
import sys
import time
from contextlib import suppress

from endless_py._support.escape import escaped

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

DEBUG = 10
INFO = 20
WARNING = 30
ERROR = 40

VARIABLE = "ENDLESS_PY_LOG_LEVEL"
_LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}
_PRIORITIES = {DEBUG: 7, INFO: 6, WARNING: 4, ERROR: 3}  # syslog's
_LONGEST = 262144  # characters of a line
# A pipe that poll() finds writable takes this much at once; a longer line goes in pieces.
_PIECE = getattr(select, "PIPE_BUF", 512)


def write(
    level: int,
    generation: str,
    template: str,
    event: str = "",
    fields: Optional[dict[str, Any]] = None,
) -> None:
    """Write one line that carries the pid and the generation. Never waits, never raises OSError.

    level is one of logging's numbers; the template has a %(name)s for each of the fields that it
    shows. A program that never imported logging cannot have configured it, so that import is not
    paid for here.
    """
    logging: Any = sys.modules.get("logging")
    if hasattr(logging, "getLogger"):  # else another thread is just importing it
        logger = logging.getLogger("endless_py")
        if logger.hasHandlers():
            if logger.isEnabledFor(level):
                _write_to_logger(logger, level, generation, template, event, fields or {})
            return
    if level >= standard_error.least:
        text = template % fields if fields else template
        text = escaped(text.replace("\n", " "), _LONGEST)
        standard_error.write_line(level, generation, text)


def _plain(value: Any) -> Any:
    """Return what a formatter of any kind can show, and no terminal is moved by."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return escaped(str(value).replace("\n", " "), _LONGEST)


def _write_to_logger(
    logger: Any, level: int, generation: str, template: str, event: str, fields: dict[str, Any]
) -> None:
    """Have the program's handlers write it, where none of them would wait for standard error."""
    number, _, bridge = generation.partition(" ")

    def say(level: int, event: str, template: str, fields: dict[str, Any]) -> None:
        given = {name: _plain(value) for name, value in fields.items()}
        template = template if given else template.replace("%", "%%")
        shown = {**given, "pid": os.getpid(), "generation": generation}
        extra = {**shown, "event": event, "generation": int(number), "bridge": bool(bridge)}
        logger.log(level, f"[%(pid)d] generation %(generation)s: {template}", shown, extra=extra)

    if _ends_at_standard_error(logger):
        if not standard_error.has_room():
            standard_error.count_dropped()
            return
        standard_error.draw()
        dropped = standard_error.take_dropped()
        if dropped:
            say(WARNING, "lines_dropped", _DROPPED, {"lines": _say_lines(dropped)})
    say(level, event, template, fields)


def _ends_at_standard_error(logger: Any) -> bool:
    while logger is not None:
        for handler in logger.handlers:
            stream = getattr(handler, "stream", None)
            if stream is not None and _is_plain(stream):
                return True
        logger = logger.parent if logger.propagate else None
    return False


def _is_plain(stream: Any) -> bool:
    """Whether this is Python's own kind of text file, on descriptor 2 and not replaced."""
    # Exactly that class: another one may do more than to write what it is given.
    if type(stream) is not io.TextIOWrapper:
        return False
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):
        return False


_DROPPED = "%(lines)s dropped: standard error could not be written at once"


def _say_lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"


class StandardError:
    """Standard error of this process, and what could not be written to it.

    There is one for the process, `log.standard_error`: what descriptor 2 was when this module was
    imported, and how many lines were dropped since the last one that got through.
    """

    def __init__(self) -> None:
        self._dropped = 0
        self._cut = False  # a line was written in part
        self._drawn = False  # a line is there that the next one takes the place of
        word = os.environ.get(VARIABLE, "").strip().lower()
        self.least = _LEVELS.get(word, INFO)  # the level that a line has to have
        self.problem = "" if word in ("", *_LEVELS) else f"{word[:40]!r} is no level"
        self._journal = _journal(os.environ.get("JOURNAL_STREAM", ""))
        self._identity = _identity(2)
        # Its own thread may take it again: a signal's handler may log as well.
        self._lock = _thread.RLock()

    def renew_lock(self) -> None:
        """In a forked child: another thread may have held it."""
        self._lock = _thread.RLock()

    def accept(self) -> None:
        """What descriptor 2 is now is standard error."""
        self._identity = _identity(2)

    def is_there(self) -> bool:
        """Whether descriptor 2 is standard error.

        Where the program has closed it, whatever was opened next has this number: a client's
        connection, a database. Python makes those close-on-exec; who makes another descriptor
        2 on purpose (os.dup2()) makes it inheritable.
        """
        identity = _identity(2)
        if identity is None:
            return False
        if identity == self._identity or os.get_inheritable(2):
            return True
        # Opened when the number was free, and assigned to sys.stderr.
        return sys.stderr is not sys.__stderr__ and _is_plain(sys.stderr)

    def write_line(self, level: int, generation: str, text: str) -> None:
        """Write a line to sys.stderr, or drop and count it."""
        stream = sys.stderr
        if stream is None:
            return
        if not _is_plain(stream):
            self._write_to_stream(stream, _form(level, generation, text))
            return
        form = _form if self._journal is None or self._journal != _identity(2) else _journal_form
        encoding = stream.encoding or "utf-8"
        with self._lock:
            if self._dropped:
                lines = {"lines": _say_lines(self._dropped)}
                notice = form(WARNING, generation, _DROPPED % lines)
                if not self._send(notice.encode(encoding, "backslashreplace")):
                    self._dropped += 1
                    return
                self._dropped = 0
            if not self._send(form(level, generation, text).encode(encoding, "backslashreplace")):
                self._dropped += 1

    @staticmethod
    def _write_to_stream(stream: Any, line: str) -> None:
        """A stream of the program's own gets its lines as from print()."""
        try:
            stream.write(line)
            stream.flush()
        except Exception:  # whatever that class raises, the server goes on
            pass

    def draw(self, text: str = "") -> None:
        """On a terminal, show a line until another one comes; none takes back what is there."""
        with self._lock:
            if text or self._drawn:
                self._drawn = False
                if self._send(f"\r{text}\x1b[K".encode("ascii", "replace")):
                    self._drawn = bool(text)

    def pass_on(self, data: bytes) -> bytes:
        """Write what another process has written to its standard error; return what has no room.

        Where descriptor 2 is not standard error nothing is written, and nothing is left.
        """
        with self._lock, suppress(OSError):  # nobody reads it any more, or the disk is full
            left = write_at_once(2, data) if self.is_there() else 0
            return data[len(data) - left :]
        return b""

    def _send(self, data: bytes) -> bool:
        """Whether all of it was written."""
        if not self.is_there():
            return False
        if self._cut:
            data = b"\n" + data
        if self._drawn:
            data, self._drawn = b"\r\x1b[K" + data, False
        left = len(data)
        with suppress(OSError):
            left = write_at_once(2, data)
        if left < len(data):
            self._cut = left > 0
        return not left

    def has_room(self) -> bool:
        """Whether a short line can be written now."""
        return self.is_there() and _has_room(2, os.fstat(2).st_mode)

    def count_dropped(self) -> None:
        """A line for the program's own logging was dropped."""
        with self._lock:
            self._dropped += 1

    def take_dropped(self) -> int:
        """Return how many lines were dropped, and count anew."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        return dropped


def _form(level: int, generation: str, text: str) -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    name = next(name for name, number in _LEVELS.items() if number == level).upper()
    return f"{now} {name} endless_py[{os.getpid()}] generation {generation}: {text}\n"


def _journal_form(level: int, generation: str, text: str) -> str:
    """As sd-daemon(3) has it; the journal knows the time and the pid by itself."""
    return f"<{_PRIORITIES[level]}>endless_py generation {generation}: {text}\n"


def _journal(word: str) -> Optional[tuple[int, int]]:
    """Return device and inode of the stream to the journal, of which systemd.exec(5) tells."""
    device, _, inode = word.partition(":")
    try:
        return int(device), int(inode)
    except ValueError:
        return None


def _identity(descriptor: int) -> Optional[tuple[int, int]]:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def write_at_once(descriptor: int, data: bytes) -> int:
    """Write as much as can be written without waiting; return for how many bytes there is no room.

    Raises OSError where there will never be any: nobody reads a pipe any more, a disk is full.
    O_NONBLOCK cannot just be set: it belongs to the open file, which other processes share.
    """
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            return _send_at_once(descriptor, data)
        if not (stat.S_ISFIFO(mode) or os.isatty(descriptor)):
            return _write(descriptor, data)  # a file takes everything
        # The same pipe or terminal, as an open file of our own. It is not kept: whoever reads a
        # pipe waits for its end, which comes when nobody has it open any more.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        own = os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # another user's, or no /proc
        return _write_if_room(descriptor, data)
    try:
        return _write(own, data)
    finally:
        os.close(own)


def _write(descriptor: int, data: bytes) -> int:
    with suppress(BlockingIOError):
        while data:
            # No more in one piece than a pipe takes as a whole.
            data = data[os.write(descriptor, data[:_PIECE]) :]
    return len(data)


def _send_at_once(descriptor: int, data: bytes) -> int:
    dontwait = getattr(socket, "MSG_DONTWAIT", 0)
    if not dontwait or socket.getdefaulttimeout() is not None:  # that would set O_NONBLOCK
        return _write_if_room(descriptor, data)
    sock = socket.socket(fileno=descriptor)
    try:
        while data:
            data = data[sock.send(data, dontwait | getattr(socket, "MSG_NOSIGNAL", 0)) :]
    except BlockingIOError:
        pass
    finally:
        sock.detach()
    return len(data)


def _write_if_room(descriptor: int, data: bytes) -> int:
    with suppress(BlockingIOError):
        while data and _has_room(descriptor, os.fstat(descriptor).st_mode):
            data = data[os.write(descriptor, data[:_PIECE]) :]
    return len(data)


def _has_room(descriptor: int, mode: int) -> bool:
    if stat.S_ISREG(mode):
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def where(error: BaseException) -> str:
    """Return the place in the code at which an exception was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return "?"
    return f"{os.path.basename(traceback.tb_frame.f_code.co_filename)}:{traceback.tb_lineno}"


standard_error = StandardError()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=standard_error.renew_lock)
