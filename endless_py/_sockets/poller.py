"""Waiting without polling: a poll() that any thread or signal handler can wake."""

from __future__ import annotations

import math
import select
import socket
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

READ: int = getattr(select, "POLLIN", 1)
WRITE: int = getattr(select, "POLLOUT", 4)


class Waker:
    """A self-pipe: `wake()` makes `fileno()` readable, from any thread, at any time."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def fileno(self) -> int:
        return self._receiver.fileno()

    def sender(self) -> int:
        """The descriptor that wakes when a byte is written to it."""
        return self._sender.fileno()

    def wake(self) -> None:
        # A full pipe wakes as well as one byte more would; a closed one has nobody to wake.
        with suppress(OSError):
            self._sender.send(b"\0")

    def clear(self) -> bytes:
        """Return what was written: a zero for each wake(), a number for each signal."""
        found = b""
        with suppress(OSError):
            while True:
                data = self._receiver.recv(4096)
                found += data
                if len(data) < 4096:
                    break
        return found

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()


class Waiter:
    """poll() and a waker. Only the thread that waits may call anything but `wake()`."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._known: dict[int, int] = {}
        self._waker = Waker()
        self._poll.register(self._waker.fileno(), READ)

    def wake(self) -> None:
        self._waker.wake()

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
        """Return the descriptors that are ready, and whether somebody called `wake()`.

        timeout is in seconds, None waits for ever.
        """
        milliseconds = None if timeout is None else max(0, math.ceil(timeout * 1000))
        ready = {descriptor for descriptor, _ in self._poll.poll(milliseconds)}
        woken = self._waker.fileno() in ready
        if woken:
            ready.discard(self._waker.fileno())
            self._waker.clear()
        return ready, woken

    def close(self) -> None:
        self._waker.close()


Poller = Waiter
SelfPipe = Waker
