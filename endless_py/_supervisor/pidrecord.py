"""What a pid file says, for who only reads it."""

from __future__ import annotations

import errno
import os
import stat

from endless_py._support import filelock
from endless_py.exceptions import PidFileError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

    Inode = tuple[int, int]  # and its device, which comes first

LONGEST = 64  # bytes; a longer file is not a pid file


class Record:
    """What a pid file says, and what can be seen of who wrote it."""

    def __init__(self, pid: Optional[int], status: os.stat_result, locked: Optional[bool]) -> None:
        self.pid = pid  # None in an empty file
        self.inode = inode_of(status)
        self.uid = status.st_uid
        self.written: float = status.st_mtime  # time.time()
        # Whether a living process holds the file's lock; None where that cannot be known.
        self.locked = locked

    def same(self, other: Optional[Record]) -> bool:
        """Whether nobody has written the file since."""
        return other is not None and (self.pid, self.inode) == (other.pid, other.inode)


def refusal(number: int, text: str, path: str) -> PidFileError:
    """Return the error with this text, which names the path as an OSError does."""
    return PidFileError(number, text, path)


def inode_of(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


def look(path: str) -> Optional[Record]:
    """Return what a pid file says, None when there is no file; PidFileError when it is none."""
    try:
        # A FIFO without a writer would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if os.path.islink(path):
            text = "the pid file is a symbolic link, which is not followed"
        else:
            text = f"the pid file cannot be read ({error.strerror})"
        raise refusal(error.errno or errno.EIO, text, path) from error
    try:
        return parse(descriptor, path)
    finally:
        os.close(descriptor)


def pid_of(record: Optional[Record], path: str) -> int:
    """Return the pid in a record of this path; PidFileError with one clear line without one."""
    if record is None:
        raise refusal(errno.ENOENT, "there is no pid file", path)
    if record.pid is None:
        raise refusal(errno.EINVAL, "the pid file is empty", path)
    return record.pid


def parse(descriptor: int, path: str) -> Record:
    """As look(), for one that is open."""
    status = os.fstat(descriptor)
    data = os.pread(descriptor, LONGEST + 1, 0) if stat.S_ISREG(status.st_mode) else b"?"
    word = data.strip()
    if not word and len(data) <= LONGEST:
        return Record(None, status, filelock.is_held(descriptor))
    if len(data) > LONGEST or not word.isdigit() or not 0 < int(word) < 1 << 31:
        raise refusal(errno.EINVAL, "what is there is not a pid file", path)
    return Record(int(word), status, filelock.is_held(descriptor))


def is_alive(pid: int) -> bool:
    """Whether there is such a process; one that waits to be reaped is none."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return not is_zombie(pid)


def is_zombie(pid: int) -> bool:
    """Whether it has ended and was not reaped; in a container some never are."""
    return process_status(pid)[:1] in ([b"Z"], [b"X"])


def process_status(pid: int) -> list[bytes]:
    """Return what Linux says of a process, from its state on (see proc(5)); empty without /proc.

    What comes before is its name, which may have any characters.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []
