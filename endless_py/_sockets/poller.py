"""Waiting without polling: a poll() that any thread or signal handler can end."""

from __future__ import annotations

import _socket
import errno
import math
import select
import socket
import time
from contextlib import suppress

from endless_py._support.descriptors import keep_socket_off_standard_streams

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

_close = _socket.socket.close
READ: int = getattr(select, "POLLIN", 1)
WRITE: int = getattr(select, "POLLOUT", 4)
LONGEST = 86400.0  # seconds after which who waits looks again: poll() counts little further
_LOOK = 0.02  # seconds


class SelfPipe:
    """Ends a poll(): `write()` makes `fileno()` readable, from any thread, at any time."""

    def __init__(self) -> None:
        self._receiver, self._sender = map(keep_socket_off_standard_streams, socket.socketpair())
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def fileno(self) -> int:
        return self._receiver.fileno()

    def sender(self) -> int:
        """Return the descriptor for signal.set_wakeup_fd(): a byte written to it is read here."""
        return self._sender.fileno()

    def descriptors(self) -> list[int]:
        """Return both, which a forked child has to give up."""
        return [self._receiver.fileno(), self._sender.fileno()]

    def write(self) -> None:
        # A full one is readable already; nobody waits for a closed one.
        with suppress(OSError):
            self._sender.send(b"\0")

    def clear(self) -> bytes:
        """Return what was written: a zero for each write(), a number for each signal."""
        found = b""
        with suppress(OSError):
            while True:
                data = self._receiver.recv(4096)
                found += data
                if len(data) < 4096:
                    break
        return found

    def close(self) -> None:
        # Not the method, which writes to more of the page that a forked handler would share.
        _close(self._receiver)
        _close(self._sender)


class Poller:
    """poll() and a self-pipe. Only the thread that waits may call anything but `interrupt()`."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._known: dict[int, int] = {}
        self._self_pipe = SelfPipe()
        self._own = self._self_pipe.fileno()
        self._poll.register(self._own, READ)

    def interrupt(self) -> None:
        """End the `wait()` of now, or the next one."""
        self._self_pipe.write()

    def wake_one(self, exclusive: bool) -> None:
        """Whether a client is to wake one of the processes that share a listener, or all."""

    def look_again(self) -> None:
        """See who waits to be let in, though none of what is watched may have told of it."""
        self.interrupt()

    def watch(self, descriptors: dict[int, int]) -> None:
        """Wait for exactly these descriptors (each with READ, WRITE or both) from now on."""
        if descriptors == self._known:
            return
        for descriptor in self._known.keys() - descriptors.keys():
            self._poll.unregister(descriptor)
        for descriptor, events in descriptors.items():
            self._poll.register(descriptor, events)
        self._known = dict(descriptors)

    def add(self, descriptor: int) -> None:
        """Wait for this one too, until it can be read."""
        self._known[descriptor] = READ
        self._poll.register(descriptor, READ)

    def discard(self, descriptor: int) -> None:
        """Wait for this one no more."""
        if self._known.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def wait(self, timeout: Optional[float]) -> tuple[set[int], bool]:
        """Return the descriptors that are ready, and whether somebody called `interrupt()`.

        timeout is in seconds, None waits for ever.
        """
        milliseconds = None if timeout is None else max(0, math.ceil(min(timeout, LONGEST) * 1000))
        try:
            found = self._poll.poll(milliseconds)
            # Nearly always it is one, and a comprehension is a call.
            ready = {found[0][0]} if len(found) == 1 else {descriptor for descriptor, _ in found}
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            ready = self._look_at_each(timeout)
        interrupted = self._own in ready
        if interrupted:
            ready.discard(self._own)
            self._self_pipe.clear()
        return ready, interrupted

    def _look_at_each(self, timeout: Optional[float]) -> set[int]:
        """Wait as well as can be done where poll() takes no more descriptors than RLIMIT_NOFILE.

        That is so once the limit was made less than the number of those that are watched.
        """
        until = None if timeout is None else time.monotonic() + timeout
        watched = {**self._known, self._self_pipe.fileno(): READ}
        while True:
            ready: set[int] = set()
            for descriptor, events in watched.items():
                poll = select.poll()
                poll.register(descriptor, events)
                ready.update(found for found, _ in poll.poll(0))
            left = _LOOK if until is None else min(_LOOK, until - time.monotonic())
            if ready or left <= 0:
                return ready
            time.sleep(left)

    def descriptors(self) -> list[int]:
        """Return those of its own, which a forked child has to give up."""
        return self._self_pipe.descriptors()

    def close(self) -> None:
        self._self_pipe.close()
