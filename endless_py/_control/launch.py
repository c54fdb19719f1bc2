"""Starting a server in the background, and waiting until it serves."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from endless_py._control import compare
from endless_py._control.client import Deadline, Failed, TimedOut, state_of
from endless_py._control.output import show
from endless_py._control.owner import OWNED, judge
from endless_py._supervisor.pidfile import PID_FILE_VARIABLE
from endless_py._supervisor.pidrecord import look
from endless_py._support import filelock
from endless_py.exceptions import PidFileError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

_TAIL = 65536  # bytes of a log of which the last lines are shown


def _open_log(path: str) -> int:
    """Open a log to append to. OSError at once for a symlink, and for a FIFO that nobody reads.

    Whoever may make a name in the log's folder must not choose which file is written.
    """
    if os.path.islink(path):
        raise OSError(errno.ELOOP, "it is a symlink")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    log = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    mode = os.fstat(log).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
        os.close(log)
        raise OSError(errno.EINVAL, "it is not a regular file")
    os.set_blocking(log, True)
    return log


@contextmanager
def one_at_a_time(path: str, deadline: Deadline) -> Iterator[None]:
    """Keep other starts with this pid file out; they wait, and find the server then.

    Where there are no locks, nobody waits. Raises Failed when the lock cannot be made.
    """
    name = f"{path}.lock"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            lock = os.open(name, flags, 0o600)
        except OSError as error:
            raise Failed(f"cannot write the lock {name}: {error.strerror}") from error
        # Who had it before has removed the file, and with it what was waited for here.
        if filelock.acquire(lock) is not False and _leads_to(name, lock):
            break
        os.close(lock)
        try:
            deadline.pause()
        except TimedOut:
            raise TimedOut(
                f"another command starts the server of {path}, and holds {name}"
            ) from None
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(name)
        os.close(lock)


def _leads_to(path: str, descriptor: int) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    return False


def start(path: str, command: list[str], log_path: str, deadline: Deadline) -> tuple[int, float]:
    """Start a command; return the pid that serves, and after how many seconds it does.

    path is the pid file that it is to write, log_path the file that its output is appended to.
    Raises Failed, after printing the last lines of the log, when the command ends instead.
    """
    try:
        log = _open_log(log_path)
    except OSError as error:
        raise Failed(f"cannot write the log {log_path}: {error.strerror}") from error
    begins = os.fstat(log).st_size
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                **compare.variable(command),
                PID_FILE_VARIABLE: os.path.abspath(path),
            },
            start_new_session=True,
        )
    except OSError as error:
        raise Failed(f"cannot start {command[0]}: {error.strerror}") from error
    finally:
        os.close(log)
    began = time.monotonic()
    try:
        while True:
            pid = _serving(path, deadline)
            if pid is not None:
                break
            status = child.poll()
            if status:  # a command that makes a daemon ends with 0
                _show_tail(log_path, begins)
                raise Failed(f"the command exited with status {status} before it served")
            deadline.pause()
    except TimedOut:
        raise TimedOut(f"pid {child.pid} runs, but does not serve; its log is {log_path}") from None
    seconds = time.monotonic() - began
    child.returncode = 0  # it is not ours to wait for
    return pid, seconds


def _serving(path: str, deadline: Deadline) -> Optional[int]:
    """Return the pid of the process that serves and owns this pid file, if there is one."""
    with suppress(Failed, PidFileError):
        record = look(path)
        if record is not None and record.pid is not None:
            owned = judge(record, deadline)[0] == OWNED
            if owned and state_of(record.pid, deadline)[0]["phase"] == "serving":
                return record.pid
    return None


def _show_tail(path: str, begins: int) -> None:
    with open(path, "rb") as file:
        start = max(begins, os.fstat(file.fileno()).st_size - _TAIL)
        file.seek(start)
        lines = file.read(_TAIL).decode(errors="replace").splitlines()
    show(lines[start > begins :])
