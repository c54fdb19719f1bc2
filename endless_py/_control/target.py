"""TARGET, a pid or a pid file: which process is meant, and for how long it is waited for.

Nothing is done to a process because its number is in a file: it has to be the file's owner (see
`owner`). Who asks while that one is about to change, starts anew in place, or cannot answer just
now, waits for as long as there is somebody to wait for: a process that answers or that holds the
file's lock.
"""

from __future__ import annotations

import time

from endless_py._control import owner
from endless_py._control.client import Deadline, Failed, TimedOut, Unanswered, is_alive, try_connect
from endless_py._supervisor.pidfile import read_pid
from endless_py._supervisor.pidrecord import Record, look, pid_of
from endless_py.exceptions import PidFileError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Callable, Optional

_FILE_GRACE = 0.5  # seconds in which a successor writes the pid file of the one before it
# Seconds for which a start waits where the process is gone and something has its file's lock still:
# a successor that is about to serve. It may also be a child that the server has left behind.
_LOCK_GRACE = 5.0


def is_pid(word: str) -> bool:
    """Whether TARGET is a pid; else it is the path of a pid file."""
    return word.isascii() and word.isdigit() and len(word) < 10


def run(word: str, deadline: Deadline, act: Callable[[int], int]) -> int:
    """Do something with the process that TARGET means; again where another one was meant by then.

    Returns what `act` does. Raises what it raises, unless that is Unanswered and somebody is there
    to be asked instead; PidFileError and Failed where TARGET means none; TimedOut.
    """
    pid = find(word, deadline)
    while True:
        try:
            return act(pid)
        except Unanswered as error:
            again = _find_again(word, pid, deadline)
            if again is None:
                raise error
            pid = again
            deadline.pause()


def _find_again(word: str, pid: int, deadline: Deadline) -> Optional[int]:
    """Return who is there to be asked where this process did not answer; None: nobody is."""
    if not is_pid(word):
        try:
            return find(word, deadline)
        except (Failed, PidFileError):
            return None
    client = try_connect(pid, deadline)
    if client is None:
        return None
    client.close()
    return pid


def find(word: str, deadline: Deadline) -> int:
    """Return the pid that TARGET means: a file's if that process owns it.

    Raises PidFileError or Failed where there is none, TimedOut when it has been waited for in vain.
    """
    if is_pid(word):
        return int(word)
    seen: Optional[Record] = None
    until = 0.0
    while True:
        record = look(word)
        if record is None or (record.pid is None and not record.locked):
            return pid_of(record, word)  # raises the error
        kind, why = _judge(word, record, deadline)
        if kind == owner.OWNED and record.pid is not None:
            return record.pid
        if kind == owner.ALIVE or (kind == owner.GONE and record.locked):
            _wait(word, why, deadline)
        elif not record.same(seen):
            seen, until = record, time.monotonic() + _FILE_GRACE
        elif time.monotonic() > until:
            stale = kind == owner.STALE
            raise Unanswered(f"the pid file {word} is stale: {why}" if stale else why)
        deadline.pause()


def running(path: str, deadline: Deadline) -> Optional[int]:
    """Return the pid of the server that owns a pid file; None: none runs, and one may be started.

    Raises PidFileError when it is no pid file, Failed when that cannot be known.
    """
    seen: Optional[Record] = None
    until = time.monotonic() + _LOCK_GRACE
    while True:
        record = look(path)
        if record is None or (record.pid is None and not record.locked):
            return None
        kind, why = _judge(path, record, deadline)
        if kind == owner.OWNED:
            return record.pid
        if kind == owner.UNKNOWN:
            raise Failed(why)
        if kind == owner.GONE and (not record.locked or time.monotonic() > until):
            return None
        if kind == owner.STALE:
            if record.same(seen):
                return None
            seen = record  # it may have changed while its process was asked
        else:
            _wait(path, why, deadline)
        deadline.pause()


def names_another(word: str, pid: int, deadline: Deadline) -> bool:
    """Whether TARGET is a pid file that names another process now, or does so in a moment."""
    until = time.monotonic() + _FILE_GRACE
    while not is_pid(word):
        try:
            if read_pid(word) != pid:
                return True
        except PidFileError:
            return False
        if time.monotonic() > until:
            return False
        deadline.pause()
    return False


def _judge(path: str, record: Record, deadline: Deadline) -> tuple[str, str]:
    if record.pid is None:  # the one that starts, as root, has made it
        return owner.ALIVE, "the pid file is empty, and the server that made it does not serve yet"
    try:
        kind, why = owner.judge(record, deadline)
    except TimedOut:
        raise TimedOut(f"process {record.pid}, whose number {path} has, does not answer") from None
    if kind == owner.ALIVE:
        is_alive(record.pid)  # raises Failed when it is another user's
    return kind, why


def _wait(path: str, why: str, deadline: Deadline) -> None:
    """Raise TimedOut, with what was waited for, when the time is over."""
    try:
        deadline.remaining()
    except TimedOut:
        raise TimedOut(f"{why}; the lock of {path} is held") from None
