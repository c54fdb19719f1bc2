"""A poll for a listener that several processes wait for: each client wakes one of them, in turn.

The kernel has a queue of those who wait for a listener. With EPOLLEXCLUSIVE a client wakes the
first in it that is not at work just now, and no other one. Who is woken leaves the queue here, and
goes to its end: without that the same one would be woken each time. Who was woken and takes nothing
in, since it is busy, has to have the others look, who wait as if nobody had come. That is for one
generation. While two of them wait, one of which may stop accepting or be gone at any moment, a
client wakes all.
"""

from __future__ import annotations

import select

from endless_py._sockets.poller import LONGEST, READ, Poller

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

EXCLUSIVE: int = getattr(select, "EPOLLEXCLUSIVE", 0)


class ExclusivePoller(Poller):
    """As a Poller; `listener` is the descriptor that other processes wait for as well.

    left_waiting() is called when this one no longer waits for it although a client is there.
    """

    def __init__(self, listener: int, left_waiting: Callable[[], None]) -> None:
        super().__init__()
        self._left_waiting = left_waiting
        self._exclusive = False
        self._listener = listener
        self._woken = False  # by a client, the last time
        self._stale = False  # what the kernel waits for may not be what is known
        self._poll: Any = select.epoll()
        self._poll.register(self._self_pipe.fileno(), READ)

    def watch(self, descriptors: dict[int, int]) -> None:
        for descriptor in self._known.keys() - descriptors.keys():
            self._leave(descriptor)
        for descriptor, events in descriptors.items():
            if descriptor not in self._known:
                self._register(descriptor, events)
            elif descriptor != self._listener:
                self._confirm(descriptor, events)
        self._known = dict(descriptors)

    def add(self, descriptor: int) -> None:
        self._known[descriptor] = READ
        self._register(descriptor, READ)

    def discard(self, descriptor: int) -> None:
        if self._known.pop(descriptor, None) is not None:
            self._leave(descriptor)

    def wake_one(self, exclusive: bool) -> None:
        """Whether a client is to wake one of the processes, or all. Any thread may call this."""
        self._exclusive = exclusive
        self.look_again()

    def look_again(self) -> None:
        """Go to the end of the queue, and see who waits to be let in. Any thread may call this."""
        self._woken = True
        self.interrupt()

    def wait(self, timeout: Optional[float]) -> tuple[set[int], bool]:
        if self._stale:
            self._renew()
        if self._woken:
            self._woken = False
            if self._listener in self._known:
                self._unregister(self._listener)
                self._register(self._listener, READ)
        seconds = -1.0 if timeout is None else max(0.0, min(timeout, LONGEST))
        ready = {descriptor for descriptor, _ in self._poll.poll(seconds)}
        self._woken = self._woken or self._listener in ready
        interrupted = self._self_pipe.fileno() in ready
        if interrupted:
            ready.discard(self._self_pipe.fileno())
            self._self_pipe.clear()
        return ready, interrupted

    def _register(self, descriptor: int, events: int) -> None:
        if descriptor == self._listener and self._exclusive:
            events |= EXCLUSIVE
        try:
            self._poll.register(descriptor, events)
        except OSError:
            self._stale = True

    def _confirm(self, descriptor: int, events: int) -> None:
        """It is waited for already, if it still is the same file that has this number."""
        try:
            self._poll.modify(descriptor, events)
        except OSError:
            self._stale = True

    def _renew(self) -> None:
        """Something was closed before it was left, and the kernel may wait for it all the same.

        It does so as long as another process has the same file: a worker has what its leader has
        had. Then only another epoll knows nothing of it.
        """
        try:
            fresh: Any = select.epoll()
        except OSError:  # no descriptor for it; tried again with the next wait
            return
        self._stale = False
        left, self._poll = self._poll, fresh
        self._poll.register(self._self_pipe.fileno(), READ)
        for descriptor, events in self._known.items():
            self._register(descriptor, events)
        left.close()

    def _leave(self, descriptor: int) -> None:
        self._unregister(descriptor)
        if descriptor == self._listener:
            poll = select.poll()
            poll.register(descriptor, READ)
            if any(events & READ for _, events in poll.poll(0)):
                self._left_waiting()

    def _unregister(self, descriptor: int) -> None:
        try:
            self._poll.unregister(descriptor)
        except OSError:
            self._stale = True

    def close(self) -> None:
        super().close()
        self._poll.close()


def poller_for(listener: int, left_waiting: Callable[[], None]) -> Poller:
    """Return the poll for a shared listener; where the system has no such queue, a plain one."""
    return ExclusivePoller(listener, left_waiting) if EXCLUSIVE else Poller()
