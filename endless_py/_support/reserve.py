"""Descriptors that are kept back, so that clients cannot use up what a reload and a command need.

They are open and lead nowhere, so neither a connection nor a file that a handler opens can have
their numbers. Nothing is counted: when the rest is in use, accept() fails as it would at the limit,
and who connects waits in the accept queue. Whoever drives the process closes them while it takes a
step, in which it may open what it needs, and opens them again after it.

Somebody else may be faster in between. Then what is missing comes back before the next connection
is accepted.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from endless_py._support.descriptors import (
    keep_off_standard_streams,
    keep_socket_off_standard_streams,
)

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

_FOR_RELOAD = 10  # that many one whose error output is captured has open at once
_LEAST, _MOST = 12, 16  # with some for commands, each of which takes one


class Reserve:
    """The reserve of this process. Any thread may call any of it.

    size is how many are to be kept, None as long as there are none; asks whether who accepts has to
    ask `has_room()` before.
    """

    def __init__(self) -> None:
        self.size: Optional[int] = None
        self._keeps = False
        self.asks = False
        self._held: list[int] = []
        self._nowhere: Optional[socket.socket] = None  # what they are duplicates of
        self._borrowers: set[object] = set()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Give them to whoever opens something now."""
        borrower = object()
        self._borrowers.add(borrower)
        self.asks = True
        self._close()
        try:
            yield
        finally:
            self._borrowers.discard(borrower)
            self.fill()

    def keep(self, keeps: bool) -> None:
        """From now on there is something to keep them from, or not any more."""
        self._keeps = keeps
        self.fill()

    def fill(self) -> bool:
        """Open what is missing; whether nothing is missing any more."""
        if self._borrowers:
            return False
        if not self._keeps:
            self._close()
        try:
            while self._keeps and len(self._held) < self._wanted():
                self._held.append(self._open())
        except OSError:
            self.asks = True
            return False
        if self._keeps:
            self._close(self._wanted())  # another thread may have filled it, too
        self.asks = bool(self._borrowers)  # another thread may have begun meanwhile
        return True

    def has_room(self) -> bool:
        """Whether one connection more leaves the reserve as it is to be."""
        return self.spares((self.size or 0) + 1) if self._borrowers else self.fill()

    def spares_a_reload(self) -> bool:
        """While they are lent: whether a command more leaves what a reload needs."""
        return self.spares(min(_FOR_RELOAD, (self.size or 0) - 1) + 1)

    def spares(self, count: int) -> bool:
        """Whether so many can be opened now."""
        found: list[int] = []
        try:
            while len(found) < count:
                found.append(self._open())
        except OSError:
            return False
        finally:
            for descriptor in found:
                os.close(descriptor)
        return True

    def in_forked_child(self) -> None:
        """A child has nothing to keep them for."""
        self._borrowers.clear()
        self.keep(False)

    def _wanted(self) -> int:
        if self.size is None:
            lowest = self._open()
            os.close(lowest)
            free = max(0, _limit() - lowest)
            self.size = min(_MOST, max(_LEAST, free // 3), free // 2)
        return self.size

    def _open(self) -> int:
        if self._nowhere is None:
            plain = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._nowhere = keep_socket_off_standard_streams(plain)
        return keep_off_standard_streams(os.dup(self._nowhere.fileno()))

    def _close(self, keep: int = 0) -> None:
        while len(self._held) > keep:
            with suppress(IndexError, OSError):  # another thread was faster
                os.close(self._held.pop())


# What accept() fails with where there is no room for what it would return.
NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def _limit() -> int:
    """Return how many descriptors this process may have open."""
    try:
        import resource  # late, as not every system has it

        limit: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return limit if limit != resource.RLIM_INFINITY else 1 << 30
    except (ImportError, OSError, ValueError):
        return 1 << 30


def no_room() -> OSError:
    """Return what accept() raises where no descriptor is left."""
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))
