"""The pid file: one line with the pid of the generation in charge."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from contextlib import suppress

from endless_py.exceptions import PidFileError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional, Union

PID_FILE_VARIABLE = "ENDLESS_PY_PID_FILE"  # for servers that name no pid file themselves
_LONGEST = 64  # bytes; a longer file is not a pid file


class PidFile:
    """A pid file. Only its owner, the process whose pid is in it, removes it.

    The path may not be a symlink itself (its folders may). A file that is not a pid file is
    never replaced nor removed.
    """

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:
        """A relative path starts at the present working directory."""
        self.path = os.path.abspath(os.fspath(path))
        self._mine: Optional[tuple[int, int]] = None  # device and inode

    def check(self, ours: Collection[int] = ()) -> None:
        """Raise PidFileError unless the file can be written.

        The pid in it may be this process's, one of `ours`, or one of no living process.
        """
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise _error(errno.ENOENT, "there is no such folder for the pid file", folder)
        if not os.access(folder, os.W_OK):
            raise _error(errno.EACCES, "the pid file's folder cannot be written to", folder)
        found = _read(self.path)
        pid = found[0] if found is not None else None
        if pid is not None and pid != os.getpid() and pid not in ours and is_alive(pid):
            raise _error(
                errno.EEXIST, f"the pid file is that of process {pid}, which is alive", self.path
            )

    def write(self, pid: int, ours: Collection[int] = ()) -> None:
        """Put `pid` there in one step, under the conditions of `check()`; PidFileError if not."""
        self.check(ours)
        folder, name = os.path.split(self.path)
        new = os.path.join(folder, f".{name}.{os.getpid()}.{os.urandom(4).hex()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(new, flags, 0o644)
            try:
                os.write(descriptor, b"%d\n" % pid)
                status = os.fstat(descriptor)
                os.rename(new, self.path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(new)
                raise
            finally:
                os.close(descriptor)
        except OSError as error:
            text = f"the pid file cannot be written ({error.strerror})"
            raise _error(error.errno or errno.EIO, text, self.path) from error
        self._mine = (status.st_dev, status.st_ino) if pid == os.getpid() else None

    def take(self) -> bool:
        """Own the file with this pid that another generation wrote; whether there is one."""
        with suppress(PidFileError):
            found = _read(self.path)
            if found is not None and found[0] == os.getpid():
                self._mine = found[1]
        return self._mine is not None

    def remove(self) -> None:
        """Remove the file if it is this process's; never raises."""
        with suppress(OSError):
            if self._mine is not None and _read(self.path) == (os.getpid(), self._mine):
                os.unlink(self.path)
        self._mine = None


def read_pid(path: Union[str, os.PathLike[str]]) -> int:
    """Return the pid in a pid file; PidFileError with one clear line when there is none."""
    name = os.fspath(path)
    found = _read(name)
    if found is None:
        raise _error(errno.ENOENT, "there is no pid file", name)
    if found[0] is None:
        raise _error(errno.EINVAL, "the pid file is empty", name)
    return found[0]


def _error(number: int, text: str, path: str) -> PidFileError:
    return PidFileError(number, text, path)


def _read(path: str) -> Optional[tuple[Optional[int], tuple[int, int]]]:
    """Return the pid (None in an empty file) and the inode; None when there is no file."""
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
        raise _error(error.errno or errno.EIO, text, path) from error
    try:
        status = os.fstat(descriptor)
        data: Any = os.read(descriptor, _LONGEST + 1) if stat.S_ISREG(status.st_mode) else b"?"
    finally:
        os.close(descriptor)
    word = data.strip()
    inode = (status.st_dev, status.st_ino)
    if not word and len(data) <= _LONGEST:
        return None, inode
    if len(data) > _LONGEST or not word.isdigit() or not 0 < int(word) < 1 << 31:
        raise _error(errno.EINVAL, "what is there is not a pid file", path)
    return int(word), inode


def is_alive(pid: int) -> bool:
    """Whether there is such a process; one that waits to be reaped is none."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether it has ended and was not reaped; in a container some never are."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return False  # no /proc
