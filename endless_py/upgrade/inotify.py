"""Linux's word that something changed, through ctypes; only ever a hint to look again."""

from __future__ import annotations

import ctypes
import functools
import os
import select
import sys
from collections.abc import Mapping
from contextlib import suppress

# From <sys/inotify.h>: moved from and to, created, deleted, itself deleted, itself moved;
# and: modified, attributes, closed after writing.
NAMES = 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
CONTENT = NAMES | 0x2 | 0x4 | 0x8
_ADD = 0x20000000  # two paths may lead to the same folder
# File systems that others can change without this kernel's knowledge.
_REMOTE = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "afs", "lustre", "glusterfs", "vboxsf")


class Inotify:
    """Watches folders and files. OSError when this system has none of it."""

    def __init__(self) -> None:
        if not sys.platform.startswith("linux"):
            raise OSError("inotify is Linux's")
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except AttributeError:
            raise OSError("this C library has no inotify") from None
        if self._fd < 0:
            raise self._error("inotify_init1")
        self._watches: dict[str, int] = {}

    @staticmethod
    def _error(what: str) -> OSError:
        number = ctypes.get_errno()
        return OSError(number, f"{what}: {os.strerror(number)}")

    def watch(self, paths: Mapping[str, int]) -> None:
        """Watch these paths, for NAMES or CONTENT, and no others. OSError when one cannot be.

        All are added anew: a path may lead to another file than before.
        """
        watches = {}
        for path, events in paths.items():
            number: int = self._libc.inotify_add_watch(self._fd, os.fsencode(path), events | _ADD)
            if number < 0:
                error = self._error(path)
                if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                    raise error
                continue  # gone meanwhile; the folder it was in says so
            watches[path] = number
        for number in set(self._watches.values()) - set(watches.values()):
            self._libc.inotify_rm_watch(self._fd, number)
        self._watches = watches

    def wait(self, other: int) -> None:
        """Wait for an event, or for `other` to be readable."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(other, select.POLLIN)
        poll.poll()
        with suppress(BlockingIOError):
            while os.read(self._fd, 1 << 16):
                pass

    def close(self) -> None:
        os.close(self._fd)


def is_remote(path: str) -> bool:
    """Whether changes of this file system may come from elsewhere, unseen by inotify."""
    try:
        return _is_remote(os.stat(path).st_dev)
    except OSError:
        return False  # not there; if it comes, it is asked again


@functools.lru_cache(maxsize=64)
def _is_remote(device: int) -> bool:
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split()
                if fields[2] == wanted:
                    return fields[fields.index("-") + 1].startswith(_REMOTE)
    except (OSError, ValueError, IndexError):
        pass
    return True
