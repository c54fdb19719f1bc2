"""A listener in an asyncio loop, that other processes wait for as well: who is woken for a client.

asyncio's own way is that a client wakes all of them, one of which gets it: nearly always the same
few, since the kernel wakes them in one order; and who gets it takes in all that wait. Here the
loop's epoll is told EPOLLEXCLUSIVE for this one descriptor, and who was woken goes to the end of
the queue (see `exclusive`). That needs the epoll object inside of asyncio's selector; a loop that
has none is left as it is, and there a client wakes all.
"""

from __future__ import annotations

import select
from contextlib import suppress

from endless_py._sockets.exclusive import EXCLUSIVE
from endless_py._sockets.poller import READ

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable


class LoopPoller:
    """Stands where a loop of ours has its poller. Any thread may call it."""

    def __init__(self, loop: Any, sock: Any, accepts: Callable[[], bool]) -> None:
        """accepts() says whether this process is to accept just now. In the loop's thread."""
        self._loop = loop
        self._sock = sock
        self._accepts = accepts
        self._exclusive = False
        self._waits = True  # as asyncio has registered it

    def interrupt(self) -> None:
        """Look whether this process is to accept."""
        self._soon(self._look)

    def wake_one(self, exclusive: bool) -> None:
        self._exclusive = exclusive
        self.look_again()

    def look_again(self) -> None:
        self._soon(self.queue_up)

    def close(self) -> None:
        """The loop ends by itself."""

    def _soon(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(call)

    # -- in the loop's thread ---------------------------------------------

    def _look(self) -> None:
        if self._waits != self._accepts():
            self.queue_up()

    def begin_turn(self) -> None:
        """It was woken for a client; until that has its handler the others take what comes."""
        self._register(False)

    def queue_up(self) -> None:
        """Go to the end of the queue, or out of it; who waits to be let in is seen at once."""
        self._register(self._accepts())

    def _register(self, waits: bool) -> None:
        selector: Any = getattr(self._loop, "_selector", None)
        epoll: Any = getattr(selector, "_selector", None)
        descriptor = self._sock.fileno()
        if not hasattr(select, "epoll") or type(epoll) is not select.epoll or descriptor < 0:
            return
        if descriptor not in selector.get_map():
            return  # it is not served yet, or not any more
        with suppress(OSError):
            epoll.unregister(descriptor)
        self._waits = waits
        if waits:
            epoll.register(descriptor, READ | (EXCLUSIVE if self._exclusive else 0))
