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
    """Those who wait on one socket pair. It must have no __del__(): a weak reference to it would
    still be found while that runs.
    """

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair()
        self.reader.setblocking(False)


class DrainSignal:
    """The handlers wait in crowds, which are told one after the other.

    A crowd's reading end becomes readable, for all and for good, when the serving process says a
    byte and closes the writing end, or dies. The byte says whether idle connections can migrate,
    and whether they have a grace; everybody only peeks at it. A forked handler is always in the
    first crowd; another one is there for as long as a handler of it is.
    """

    def __init__(self) -> None:
        self.drain = object()  # what it tells of, for who must not keep the sockets open
        self._first = Crowd()
        self._others: dict[int, weakref.ref[Crowd]] = {}
        self._untold: deque[Crowd] = deque()  # once it was sent
        self._joined = 0
        self.due: Optional[float] = None  # when the next crowd is told (time.monotonic)
        self.local = True  # else this process is a forked child: only the serving one sends it
        self._sent = False
        self._migrate = False
        self.hurries = False  # known once was_sent() is true

    def _living(self) -> list[Crowd]:
        others = [found() for found in list(self._others.values())]
        return [self._first, *(crowd for crowd in others if crowd is not None)]

    def _add_crowd(self) -> Crowd:
        crowd, others = Crowd(), self._others
        key, reader, writer = id(crowd), crowd.reader, crowd.writer

        def gone(_: object) -> None:
            others.pop(key, None)
            reader.close()
            writer.close()

        others[key] = weakref.ref(crowd, gone)
        return crowd

    def join(self, handlers: int) -> Crowd:
        """Return the crowd of one more handler of so many, which keeps it while it waits."""
        if not self.local or self._sent:
            return self._first
        crowds = self._living()
        if handlers > _CROWD * len(crowds):
            with suppress(OSError):  # without descriptors the crowds are larger
                crowds.append(self._add_crowd())
        self._joined += 1
        # Who sends takes the crowds that it sees once it was sent, which may be without this one.
        return self._first if self._sent else crowds[self._joined % len(crowds)]

    def send(self, migrate: bool, hurry: bool = False) -> None:
        """Start the drain for every handler of this server: `tell()` is to be called when due."""
        if not self._sent:
            self._migrate, self.hurries, self._sent = migrate, hurry, True
            self._untold.extend(self._living())
            self.tell()

    def tell(self) -> None:
        """Tell the next crowd."""
        with suppress(IndexError):
            writer = self._untold.popleft().writer
            with suppress(OSError):
                writer.send(b"M" if self._migrate else b"H" if self.hurries else b"D")
            writer.close()
        self.due = time.monotonic() + _PAUSE if self._untold else None

    def tell_all(self) -> None:
        """Nobody will call `tell()` any more; those who were not told look as well."""
        while self._untold:
            self.tell()

    def in_forked_child(self) -> None:
        """In a forked child; a handler may have given up the `descriptors()` instead."""
        self.local = False
        for crowd in self._living():
            crowd.writer.close()

    def descriptors(self) -> list[int]:
        """Return those of the writing ends, which a forked child has to give up."""
        return [crowd.writer.fileno() for crowd in self._living()]

    def was_sent(self) -> bool:
        """Whether the drain has begun; costs a system call in a forked handler only."""
        if not self._sent and not self.local:
            try:
                word = self._first.reader.recv(1, socket.MSG_PEEK)
                self._migrate, self.hurries, self._sent = word == b"M", word == b"H", True
            except OSError:
                pass
        return self._sent

    def migrate(self) -> bool:
        """Whether it was sent and idle connections can migrate."""
        return self.was_sent() and self._migrate

    def __del__(self) -> None:
        # Handlers may look at it for longer than its server lives.
        try:  # not suppress(), which may be gone when a daemon thread has kept it to the very end
            self._first.reader.close()
            self._first.writer.close()
        except AttributeError:  # there was no descriptor for it
            pass
