"""The pid file: one line with the pid of the generation in charge."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from contextlib import suppress

from endless_py._support.descriptors import keep_off_standard_streams
from endless_py.exceptions import PidFileError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional, Union

    Inode = tuple[int, int]  # and its device, which comes first

PID_FILE_VARIABLE = "ENDLESS_PY_PID_FILE"  # for servers that name no pid file themselves
_LONGEST = 64  # bytes; a longer file is not a pid file


class PidFile:
    """A pid file. Only its owner, the process whose pid is in it, removes it.

    The path may not be a symlink itself (its folders may). A file that is not a pid file is
    never replaced nor removed.

    Root keeps the file open. A program that gives its privileges up, and its successors, to which
    the descriptor is handed on, write into it where they may not put another one in its place.
    """

    def __init__(self, path: Union[str, os.PathLike[str]], held: Optional[int] = None) -> None:
        """A relative path starts at the present working directory; held is the file, open."""
        self.path = os.path.abspath(os.fspath(path))
        self.held = held
        self._mine: Optional[Inode] = None
        self._made: Optional[Inode] = None  # an empty one

    def check(self, ours: Collection[int] = ()) -> None:
        """Raise PidFileError unless the file can be written.

        The pid in it may be this process's, one of `ours`, or one of no living process.
        """
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise _error(errno.ENOENT, "there is no such folder for the pid file", folder)
        effective = os.access in os.supports_effective_ids
        if not os.access(folder, os.W_OK, effective_ids=effective) and not self._holds():
            raise _error(errno.EACCES, "the pid file's folder cannot be written to", folder)
        found = self._read()
        pid = found[0] if found is not None else None
        if pid is not None and pid != os.getpid() and pid not in ours and is_alive(pid):
            raise _error(
                errno.EEXIST, f"the pid file is that of process {pid}, which is alive", self.path
            )

    def write(self, pid: int, ours: Collection[int] = ()) -> None:
        """Put `pid` there in one step, under the conditions of `check()`; PidFileError if not."""
        self.check(ours)
        inode = self._replace(pid)
        self._mine = inode if pid == os.getpid() else None

    def hold(self) -> None:
        """As root, open it while that is possible; an empty one is made where there is none."""
        if self.held is not None or not _is_root():
            return
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(OSError):
            try:
                self._keep(os.open(self.path, flags))
            except FileNotFoundError:
                self._keep(os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o644))
                self._made = _inode(os.stat(self.path))

    def _keep(self, descriptor: int) -> None:
        self.close()
        self.held = keep_off_standard_streams(descriptor)

    def close(self) -> None:
        """Keep the file open no longer."""
        if self.held is not None:
            os.close(self.held)
            self.held = None

    def _holds(self) -> bool:
        """Whether the descriptor is that of the file at the path, as far as this user can see."""
        if self.held is None:
            return False
        try:
            return _inode(os.lstat(self.path)) == _inode(os.fstat(self.held))
        except PermissionError:
            return True
        except OSError:
            return False

    def _read(self) -> Optional[tuple[Optional[int], Inode]]:
        try:
            return _read(self.path)
        except PidFileError as error:
            if error.errno != errno.EACCES or self.held is None or not self._holds():
                raise
            return _parse(self.held, self.path)

    def _replace(self, pid: int) -> Inode:
        """Put another file there in one step; where that is not allowed, write into this one."""
        folder, name = os.path.split(self.path)
        new = os.path.join(folder, f".{name}.{os.getpid()}.{os.urandom(4).hex()}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(new, flags, 0o644)
            try:
                os.write(descriptor, b"%d\n" % pid)
                inode = _inode(os.fstat(descriptor))
                os.rename(new, self.path)
            except BaseException:
                os.close(descriptor)
                with suppress(OSError):
                    os.unlink(new)
                raise
            if _is_root() or self.held is not None:
                self._keep(descriptor)
            else:
                os.close(descriptor)
            return inode
        except OSError as error:
            denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            if denied and self.held is not None and self._holds():
                return self._write_into(self.held, pid)
            text = f"the pid file cannot be written ({error.strerror})"
            raise _error(error.errno or errno.EIO, text, self.path) from error

    def _write_into(self, held: int, pid: int) -> Inode:
        # Never shorter than what was there before: whoever reads meanwhile finds one number.
        length = os.fstat(held).st_size
        os.pwrite(held, (b"%d\n" % pid).ljust(min(length, _LONGEST), b"\n"), 0)
        os.ftruncate(held, len(b"%d\n" % pid))
        return _inode(os.fstat(held))

    def take(self) -> bool:
        """Own the file with this pid that another generation wrote; whether there is one."""
        with suppress(PidFileError):
            found = self._read()
            if found is not None and found[0] == os.getpid():
                self._mine = found[1]
        if _is_root() and not self._holds():  # that generation has put another one there
            self.close()
            self.hold()
        return self._mine is not None

    def remove(self) -> None:
        """Remove the file if it is this process's; never raises."""
        with suppress(OSError):
            found = self._read()
            if found is not None and found in ((os.getpid(), self._mine), (None, self._made)):
                try:
                    os.unlink(self.path)
                except PermissionError:
                    if self.held is not None and self._holds():
                        os.ftruncate(self.held, 0)  # nobody is there: as good as none
        self._mine = self._made = None


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


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


def _read(path: str) -> Optional[tuple[Optional[int], Inode]]:
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
        return _parse(descriptor, path)
    finally:
        os.close(descriptor)


def _parse(descriptor: int, path: str) -> tuple[Optional[int], Inode]:
    status = os.fstat(descriptor)
    data = os.pread(descriptor, _LONGEST + 1, 0) if stat.S_ISREG(status.st_mode) else b"?"
    word, inode = data.strip(), _inode(status)
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
