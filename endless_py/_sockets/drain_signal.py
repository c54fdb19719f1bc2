"""A drain made visible to every handler of a server that waits, forked ones included."""

from __future__ import annotations

import socket
import time
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
    serving process closes the writing end, or dies. One byte before that says that idle
    connections can migrate, or that they have no grace; everybody only peeks at it. A forked
    handler is always in the first crowd.
    """

    def __init__(self) -> None:
        self.drain = object()  # what it tells of, for who must not keep the sockets open
        self._crowds = [self._crowd()]  # only ever appended to
        self._joined = 0
        self._told = 0  # crowds
        self.due: Optional[float] = None  # when the next one is told (time.monotonic)
        self._local = True
        self._sent = False
        self._migrate = False
        self.hurries = False  # known once was_sent() is true

    def _crowd(self) -> tuple[socket.socket, socket.socket]:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        return reader, writer

    def join(self, handlers: int) -> int:
        """Return the descriptor on which one more handler of so many is to wait."""
        if not self._local or self._sent:
            return self._crowds[0][0].fileno()
        if handlers > _CROWD * len(self._crowds):
            with suppress(OSError):  # without descriptors the crowds are larger
                self._crowds.append(self._crowd())
                if self._sent:  # meanwhile, and who sends may have seen the last of them
                    return self._crowds[0][0].fileno()
        self._joined += 1
        crowds = self._crowds
        return crowds[self._joined % len(crowds)][0].fileno()

    def send(self, migrate: bool, hurry: bool = False) -> None:
        """Start the drain for every handler of this server: `tell()` is to be called when due."""
        if not self._sent:
            self._migrate, self.hurries, self._sent = migrate, hurry, True
            self.tell()

    def tell(self) -> None:
        """Tell the next crowd."""
        if self._told < len(self._crowds):
            writer = self._crowds[self._told][1]
            self._told += 1
            if self._migrate or self.hurries:
                with suppress(OSError):
                    writer.send(b"M" if self._migrate else b"H")
            writer.close()
        more = self._told < len(self._crowds)
        self.due = time.monotonic() + _PAUSE if more else None

    def tell_all(self) -> None:
        """The drain has ended: those who were not told look again as well."""
        while self.due is not None:
            self.tell()

    def in_forked_child(self) -> None:
        """In a forked handler: only the serving process can send it."""
        self._local = False
        for _, writer in self._crowds:
            writer.close()

    def was_sent(self) -> bool:
        """Whether the drain has begun; costs a system call in a forked handler only."""
        if not self._sent and not self._local:
            try:
                word = self._crowds[0][0].recv(1, socket.MSG_PEEK)
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
            for reader, writer in self._crowds:
                reader.close()
                writer.close()
        except AttributeError:  # there was no descriptor for it
            pass
