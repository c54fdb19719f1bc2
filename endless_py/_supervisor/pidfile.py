"""The pid file: one line with the pid of the generation in charge."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection
from contextlib import suppress

from endless_py._supervisor.pidrecord import (
    LONGEST,
    Record,
    inode_of,
    is_alive,
    look,
    parse,
    pid_of,
    refusal,
)
from endless_py._support import filelock
from endless_py._support.descriptors import keep_off_standard_streams
from endless_py.exceptions import PidFileError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Callable, Optional, Union

    from endless_py._supervisor.pidrecord import Inode

    Judge = Callable[[Record], str]

PID_FILE_VARIABLE = "ENDLESS_PY_PID_FILE"  # for servers that name no pid file themselves
_WRITES = 0.5  # seconds in which another start that has the lock writes


def why_not_its(record: Record) -> str:
    """Return why the living process of a record's number is not the file's owner, "" if it is.

    By the file's lock alone: who can ask the process knows more.
    """
    return "" if record.locked is not False else f"process {record.pid} does not own it"


class PidFile:
    """A pid file. Only its owner, the process whose pid is in it, removes it.

    A number is not a process: that of one that was killed is another one's some day. So the owner
    holds the file's lock (see `filelock`) for as long as it lives. It is taken before the file gets
    its name, so that at no moment one of ours is there without it, and it is handed on with the
    descriptor: every generation of a server has it. Between one generation's file and the next
    one's, each at the same path, both locks are held by the server. A forked child gives the
    descriptor up (see `Supervisor.in_forked_child`), and a program that is started does not get it.
    What a library forks behind Python's back may keep the lock beyond the server's end; so a lock
    alone proves nothing for a number that has no process. And where there are no locks (some
    network file systems), or the file was copied over, the process is asked (see `_control.owner`).

    The path may not be a symlink itself (its folders may). A file that is not a pid file is
    never replaced nor removed.

    The file is kept open. A program that gives root's privileges up, and its successors, to which
    the descriptor is handed on, write into it where they may not put another one in its place.
    """

    def __init__(self, path: Union[str, os.PathLike[str]], held: Optional[int] = None) -> None:
        """A relative path starts at the present working directory; held is the file, open.

        One that is open and is not the file at this path is left to the caller.
        """
        self.path = os.path.abspath(os.fspath(path))
        self.held = held
        self.lost: Optional[int] = None  # a number that the program has closed, and may use now
        self.since = 0.0  # time.time() at which this process became its owner
        self._locked: Optional[bool] = None  # as acquire() said of what is held
        self._mine: Optional[Inode] = None
        self._made: Optional[Inode] = None  # an empty one
        self._stale: Optional[tuple[Record, str]] = None  # what was found out, and why
        self._opened: Optional[Inode] = None  # what is held
        self._free = False  # there was no file when this object looked for one to hold
        if held is not None:
            if self._holds():
                self._opened = inode_of(os.fstat(held))
                self._locked = filelock.acquire(held)
            else:
                self.held = None

    def check(self, ours: Collection[int] = (), judge: Judge = why_not_its) -> None:
        """Raise PidFileError unless the file can be written.

        The pid in it may be this process's, one of `ours`, or one of no living process. That of
        another one that lives is asked about: judge says why it does not own the file, "" if it
        does, which is an error.
        """
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise refusal(errno.ENOENT, "there is no such folder for the pid file", folder)
        effective = os.access in os.supports_effective_ids
        if not os.access(folder, os.W_OK, effective_ids=effective) and not self._holds():
            raise refusal(errno.EACCES, "the pid file's folder cannot be written to", folder)
        found = self._read()
        if found is None or not self._names_another(found, ours):
            self._stale = None
        elif not (self._locked and self._holds()):  # else it is this server's, whatever is in it
            known = self._stale
            if known is None or not known[0].same(found) or found.locked:
                why = judge(found)
                if not why:
                    raise self._owned(f"is that of process {found.pid}, which is alive")
                self._stale = found, why

    def _names_another(self, found: Record, ours: Collection[int]) -> bool:
        """Whether what it names is a living process that is none of this server's."""
        return _is_of_another(found, ours) and is_alive(found.pid or 0)

    def _owned(self, text: str) -> PidFileError:
        return refusal(errno.EEXIST, f"the pid file {text}", self.path)

    def write(self, pid: int, ours: Collection[int] = (), judge: Judge = why_not_its) -> str:
        """Put `pid` there in one step, under the conditions of `check()`; PidFileError if not.

        Returns why what was there was stale, "" if it was not.
        """
        self.check(ours, judge)
        self.hold(ours, make=False)
        inode = self._replace(pid)
        self._mine = inode if pid == os.getpid() else None
        self.since = time.time()
        stale, self._stale = self._stale, None
        return "" if stale is None else stale[1]

    def hold(self, ours: Collection[int] = (), make: bool = True) -> None:
        """Open and lock it while that is possible; root makes an empty one where there is none.

        Of several that start at once, one gets the lock. Raises PidFileError for the others.
        """
        self._free = False
        if self._holds():
            return
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        opened = False
        with suppress(OSError):
            try:
                self._keep(os.open(self.path, flags))
            except FileNotFoundError:
                if not (make and _is_root()):
                    self._free = True
                    return
                self._keep(os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o644))
                self._made = inode_of(os.stat(self.path))
            opened = True
        if opened and (self._locked is False or not self._holds()):
            found = self._read()
            dead = found and _is_of_another(found, ours) and not is_alive(found.pid or 0)
            if dead and self._locked is False:
                # Whoever has the lock of a file with a dead number is about to write its own, or
                # is a child that has outlived the server.
                until = time.monotonic() + _WRITES
                while self._holds() and time.monotonic() < until:
                    time.sleep(_WRITES / 50)
                found = self._read()
            if found and (found.pid is None or self._names_another(found, ours)):
                self.close()
                self._made = None
                raise self._owned("is another process's by now")

    def _keep(self, descriptor: int) -> None:
        """Hold this one from now on, under the number of what was held before.

        Other threads hand that number on: it always leads to the file.
        """
        if self.held is not None and not self._is_open():
            self.lost, self.held = self.held, None
        if self.held is None:
            self.held = keep_off_standard_streams(descriptor)
        else:
            os.dup2(descriptor, self.held, inheritable=False)
            os.close(descriptor)
        self._opened = inode_of(os.fstat(self.held))
        self._locked = filelock.acquire(self.held)

    def close(self) -> None:
        """Keep the file open no longer."""
        if self.held is not None and self._is_open():
            os.close(self.held)
        self.held = self._locked = None

    def _is_open(self) -> bool:
        """Whether the number is still that of what was opened: a program may close everything."""
        with suppress(OSError):
            return self.held is not None and inode_of(os.fstat(self.held)) == self._opened
        return False

    def _holds(self) -> bool:
        """Whether the descriptor is that of the file at the path, as far as this user can see."""
        return self.held is not None and self._is_there(self.held)

    def _is_there(self, descriptor: int) -> bool:
        try:
            opened = inode_of(os.fstat(descriptor))
            return inode_of(os.lstat(self.path)) == opened
        except PermissionError:
            return True
        except OSError:
            return False

    def _read(self) -> Optional[Record]:
        try:
            return look(self.path)
        except PidFileError as error:
            if error.errno != errno.EACCES or self.held is None or not self._holds():
                raise
            return parse(self.held, self.path)

    def _replace(self, pid: int) -> Inode:
        """Put another file there in one step; where that is not allowed, write into this one."""
        folder, name = os.path.split(self.path)
        new = os.path.join(folder, f".{name}.{os.getpid()}.{os.urandom(4).hex()}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(new, flags, 0o644)
            try:
                filelock.acquire(descriptor)
                os.write(descriptor, b"%d\n" % pid)
                inode = inode_of(os.fstat(descriptor))
                self._name(new)
            except BaseException:
                os.close(descriptor)
                with suppress(OSError):
                    os.unlink(new)
                raise
            self._keep(descriptor)
            return inode
        except OSError as error:
            denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            if denied and self.held is not None and self._holds():
                return self._write_into(self.held, pid)
            text = f"the pid file cannot be written ({error.strerror})"
            raise refusal(error.errno or errno.EIO, text, self.path) from error

    def _name(self, new: str) -> None:
        """Give the new file its name: that of the file that is held, or one that is free.

        Whoever has found it free looked before: by now it may be another process's.
        """
        if self._free or not os.path.lexists(self.path):
            try:
                os.link(new, self.path)
                os.unlink(new)
                return
            except FileExistsError:
                raise
            except OSError:  # no hard links here
                if self._free and os.path.lexists(self.path):
                    raise
        os.rename(new, self.path)

    def _write_into(self, held: int, pid: int) -> Inode:
        # Never shorter than what was there before: whoever reads meanwhile finds one number.
        length = os.fstat(held).st_size
        os.pwrite(held, (b"%d\n" % pid).ljust(min(length, LONGEST), b"\n"), 0)
        os.ftruncate(held, len(b"%d\n" % pid))
        return inode_of(os.fstat(held))

    def take(self, descriptor: Optional[int] = None) -> bool:
        """Own the file with this pid that another generation wrote; whether there is one.

        descriptor is that file, open and locked, from now on this object's.
        """
        if descriptor is not None:
            if self._is_there(descriptor):
                self._keep(descriptor)
            else:
                os.close(descriptor)
        with suppress(PidFileError):
            found = self._read()
            if found is not None and found.pid == os.getpid():
                self._mine, self.since = found.inode, time.time()
                self.hold([os.getpid()])
        return self._mine is not None and self._locked is not False

    def is_owned(self, inode: object) -> bool:
        """Whether the file with this device and inode is this process's."""
        if self._mine is not None and inode == list(self._mine):
            return True
        with suppress(PidFileError):  # the incumbent may have written it just now
            found = self._read()
            pid = os.getpid()
            return found is not None and found.pid == pid and inode == list(found.inode)
        return False

    def remove(self) -> None:
        """Remove the file if it is this process's; never raises."""
        with suppress(OSError):
            found = self._read()
            named = found and (found.pid, found.inode)
            if named is not None and named in ((os.getpid(), self._mine), (None, self._made)):
                try:
                    os.unlink(self.path)
                except PermissionError:
                    if self.held is not None and self._holds():
                        os.ftruncate(self.held, 0)  # nobody is there: as good as none
        self._mine = self._made = None


def read_pid(path: Union[str, os.PathLike[str]]) -> int:
    """Return the pid in a pid file; PidFileError with one clear line when there is none."""
    name = os.fspath(path)
    return pid_of(look(name), name)


def _is_of_another(found: Record, ours: Collection[int]) -> bool:
    """Whether its number is none of this server's."""
    return found.pid not in (None, os.getpid(), *ours)


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
