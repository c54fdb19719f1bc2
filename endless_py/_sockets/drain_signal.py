"""A drain made visible to every handler of a server that waits, forked ones included."""

from __future__ import annotations

import socket
import time
import weakref
from collections import deque
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

# Every thread that waits for the interpreter asks for it each 5 ms (sys.getswitchinterval()). Of a
# thousand that are woken at once each gets its turn late, because the others ask.
_CROWD = 64  # threads that are told at once
_PAUSE = 0.005  # seconds from one crowd to the next; who tells them needs a turn as well


class Crowd:
    """Those who wait on one socket pair; it lives as long as one of them does."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._reader.fileno()

    def tell(self, word: bytes) -> None:
        with suppress(OSError):
            self._writer.send(word)
        self._writer.close()

    def heard(self) -> bytes:
        """Return what was told, to others as well; raises OSError when nothing was."""
        return self._reader.recv(1, socket.MSG_PEEK)

    def leave_to_parent(self) -> None:
        """In a forked child: only the serving process tells."""
        self._writer.close()

    def __del__(self) -> None:
        try:  # not suppress(), which may be gone when a daemon thread has kept it to the very end
            self._reader.close()
            self._writer.close()
        except AttributeError:  # there was no descriptor for it
            pass


class DrainSignal:
    """The handlers wait in crowds, which are told one after the other.

    What a crowd waits on becomes readable, for all and for good, when the serving process says a
    byte and closes the writing end, or dies. The byte says whether idle connections can migrate,
    and whether they have a grace; everybody only peeks at it. A forked handler is always in the
    first crowd.
    """

    def __init__(self) -> None:
        self.drain = object()  # what it tells of, for who must not keep the sockets open
        self._first = Crowd()
        self._others: dict[int, weakref.ref[Crowd]] = {}
        self._untold: deque[Crowd] = deque()  # once it was sent
        self._joined = 0
        self.due: Optional[float] = None  # when the next crowd is told (time.monotonic)
        self._local = True
        self._sent = False
        self._migrate = False
        self.hurries = False  # known once was_sent() is true

    def _living(self) -> list[Crowd]:
        others = [found() for found in list(self._others.values())]
        return [self._first, *(crowd for crowd in others if crowd is not None)]

    def join(self, handlers: int) -> Crowd:
        """Return the crowd of one more handler of so many, which keeps it while it waits."""
        if not self._local or self._sent:
            return self._first
        crowds = self._living()
        if handlers > _CROWD * len(crowds):
            with suppress(OSError):  # without descriptors the crowds are larger
                crowds.append(self._add())
        self._joined += 1
        # Who sends takes those that it sees once it was sent, which may be without this one.
        return self._first if self._sent else crowds[self._joined % len(crowds)]

    def _add(self) -> Crowd:
        crowd, others = Crowd(), self._others
        key = id(crowd)
        others[key] = weakref.ref(crowd, lambda _: others.pop(key, None))
        return crowd

    def send(self, migrate: bool, hurry: bool = False) -> None:
        """Start the drain for every handler of this server: `tell()` is to be called when due."""
        if not self._sent:
            self._migrate, self.hurries, self._sent = migrate, hurry, True
            self._untold.extend(self._living())
            self.tell()

    def tell(self) -> None:
        """Tell the next crowd."""
        with suppress(IndexError):
            self._untold.popleft().tell(b"M" if self._migrate else b"H" if self.hurries else b"D")
        self.due = time.monotonic() + _PAUSE if self._untold else None

    def tell_all(self) -> None:
        """Nobody will call `tell()` any more; those who were not told look as well."""
        while self._untold:
            self.tell()

    def in_forked_child(self) -> None:
        """In a forked handler: only the serving process can send it."""
        self._local = False
        for crowd in self._living():
            crowd.leave_to_parent()

    def was_sent(self) -> bool:
        """Whether the drain has begun; costs a system call in a forked handler only."""
        if not self._sent and not self._local:
            with suppress(OSError):
                word = self._first.heard()
                self._migrate, self.hurries, self._sent = word == b"M", word == b"H", True
        return self._sent

    def migrate(self) -> bool:
        """Whether it was sent and idle connections can migrate."""
        return self.was_sent() and self._migrate
