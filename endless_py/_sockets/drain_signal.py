"""A drain made visible to every handler of a server that waits, forked ones included."""

from __future__ import annotations

import socket
import time
from collections import deque
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

# Every thread that waits for the interpreter asks for it each 5 ms (sys.getswitchinterval()). Of a
# thousand that are woken at once each gets its turn late, because the others ask.
_CROWD = 64  # threads that are told at once
_PAUSE = 0.005  # seconds from one crowd to the next; who tells them needs a turn as well


class DrainSignal:
    """The handlers wait in crowds, which are told one after the other.

    Each crowd has a socket pair: its reading end becomes readable, for all and for good, when the
    serving process says a byte and closes the writing end, or dies. The byte says whether idle
    connections can migrate, and whether they have a grace; everybody only peeks at it. A forked
    handler is always in the first crowd.
    """

    def __init__(self) -> None:
        self.drain = object()  # what it tells of, for who must not keep the sockets open
        self._crowds: list[socket.socket] = []  # their reading ends; only ever appended to
        self._untold: deque[socket.socket] = deque()  # the writing ends, which one thread takes
        self._joined = 0
        self.due: Optional[float] = None  # when the next crowd is told (time.monotonic)
        self._local = True
        self._sent = False
        self._migrate = False
        self.hurries = False  # known once was_sent() is true
        self._add_crowd()

    def _add_crowd(self) -> None:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        self._untold.append(writer)
        self._crowds.append(reader)

    def join(self, handlers: int) -> int:
        """Return the descriptor on which one more handler of so many is to wait."""
        crowds = self._crowds
        if self._local and not self._sent:
            if handlers > _CROWD * len(crowds):
                with suppress(OSError):  # without descriptors the crowds are larger
                    self._add_crowd()
            self._joined += 1
            if not self._sent:  # else who sends may have seen the last crowd before this one
                return crowds[self._joined % len(crowds)].fileno()
        return crowds[0].fileno()

    def send(self, migrate: bool, hurry: bool = False) -> None:
        """Start the drain for every handler of this server: `tell()` is to be called when due."""
        if not self._sent:
            self._migrate, self.hurries, self._sent = migrate, hurry, True
            self.tell()

    def tell(self) -> None:
        """Tell the next crowd."""
        with suppress(IndexError):
            writer = self._untold.popleft()
            with suppress(OSError):
                writer.send(b"M" if self._migrate else b"H" if self.hurries else b"D")
            writer.close()
        self.due = time.monotonic() + _PAUSE if self._untold else None

    def tell_all(self) -> None:
        """Nobody will call `tell()` any more; those who were not told look as well."""
        while self._sent and self._untold:
            self.tell()

    def in_forked_child(self) -> None:
        """In a forked handler: only the serving process can send it."""
        self._local = False
        for writer in self._untold:
            writer.close()

    def was_sent(self) -> bool:
        """Whether the drain has begun; costs a system call in a forked handler only."""
        if not self._sent and not self._local:
            try:
                word = self._crowds[0].recv(1, socket.MSG_PEEK)
                self._migrate, self.hurries, self._sent = word == b"M", word == b"H", True
            except OSError:
                pass
        return self._sent

    def migrate(self) -> bool:
        """Whether it was sent and idle connections can migrate."""
        return self.was_sent() and self._migrate

    def __del__(self) -> None:
        # Handlers may look at it for longer than its server lives.
        for each in (*self._crowds, *self._untold):
            each.close()
