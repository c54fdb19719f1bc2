"""A server of asyncio's, whatever made it: its connections counted, drained, and named when cut.

asyncio calls methods of the listener's socket: listen() when it begins to serve, accept() for each
connection. So all that is known here comes from the sockets, and no server needs to know of it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress

from endless_py._api import ForeignSocket, listen, ready
from endless_py._sockets.connection import Connection
from endless_py._support.reserve import NO_ROOM

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable, Optional

    from endless_py._api import Address

_TURNS = 10  # of the event loop, after which what it has accepted has its handler
_PAUSE = 0.5  # seconds without accepting when there is no descriptor left
_GRACE = 5.0  # seconds in which a connection may still say its first word during a drain


class AcceptedSocket(socket.socket):
    """A connection's socket, which knows of its first byte and tells of its end."""

    spoke = False
    listener: Optional[CountingSocket] = None

    def recv(self, *arguments: Any) -> bytes:
        data = super().recv(*arguments)
        self._speaks()
        return data

    def recv_into(self, *arguments: Any) -> int:
        size = super().recv_into(*arguments)
        self._speaks()
        return size

    def _speaks(self) -> None:
        if not self.spoke:
            self.spoke = True
            if self.listener is not None and self.listener.drains:
                self.listener.tell()

    def _real_close(self, *arguments: Any) -> None:
        super()._real_close(*arguments)  # type: ignore[misc]
        self._ends()

    def detach(self) -> int:
        self._ends()
        return super().detach()

    def _ends(self) -> None:
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.connections.active.pop(id(self), None)
            listener.tell()


class CountingSocket(ForeignSocket):
    """The listener, which notes each connection until that is closed."""

    listens = drains = False
    _tried_until = 0.0  # time.monotonic()

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._news = loop, asyncio.Event()
        self.connections = self._record.connections

    def tell(self) -> None:
        """Something has changed for who waits; safe in any thread."""
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._news.set)

    def drain(self) -> None:
        """Called in a drain, in another thread."""
        self.drains = True
        self.tell()

    def listen(self, *arguments: int) -> None:
        super().listen(*arguments)
        self.listens = True
        self.tell()

    def accept(self) -> tuple[socket.socket, Any]:
        """As a socket's. When there is no room asyncio waits for a second, but tries on before."""
        if time.monotonic() < self._tried_until:
            raise BlockingIOError
        try:
            plain, address = super().accept()
        except OSError as error:
            if error.errno in NO_ROOM:
                self._tried_until = time.monotonic() + _PAUSE
            raise
        accepted = AcceptedSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
        accepted.listener = self
        self.connections.active[id(accepted)] = Connection(accepted, address)
        return accepted, address

    def waits(self) -> bool:
        """Whether a connection has not said anything yet."""
        return any(not c.request.spoke for c in list(self.connections.active.values()))

    def is_cut(self) -> bool:
        """Whether the drain's time is over, and nothing is open any more."""
        return self._record.cut and not len(self.connections)

    async def until(self, done: Callable[[], object]) -> None:
        while not done():
            self._news.clear()
            await self._news.wait()


async def serve_asyncio(
    serve: Callable[[Any], Awaitable[Any]],
    address: Address,
    *,
    stop: Optional[Callable[[], object]] = None,
    **settings: Any,
) -> None:
    """Serve an address with an asyncio server, until that ends or this process has drained.

    serve(listener) starts it: `lambda listener: asyncio.start_server(handle, sock=listener)`, or
    a coroutine that serves until its end, as uvicorn's `server.serve(sockets=[listener])`. The
    latter needs stop(), which has it accept no more, finish what is active, and return.

    A connection counts as active from accept to its end. In a drain no more are accepted; one
    that has not said anything yet has 5 seconds for that. What is open after `drain_timeout` is
    cut, and named in the log; a shorter limit of the server's own (hypercorn's `graceful_timeout`,
    uvicorn's `timeout_graceful_shutdown`) cuts before, without a line. The event loop has to be
    asyncio's own: uvloop's accepts past the listener, so that nothing is counted there.

    address and settings are those of `listen()`. Raises what serve(listener) raises.
    """
    loop = asyncio.get_running_loop()
    begun: list[CountingSocket] = []
    given = listen(address, on_drain=lambda: begun[0].drain(), **settings)
    listener = CountingSocket.of(given, given._record)
    assert isinstance(listener, CountingSocket)
    given.close()
    listener.begin(loop)
    begun.append(listener)
    running = asyncio.ensure_future(serve(listener))
    running.add_done_callback(lambda _: listener.tell())
    try:
        await listener.until(lambda: listener.listens or running.done())
        if not running.done() or running.exception() is None:
            ready()
        server = await running if stop is None else None
        await listener.until(lambda: listener.drains or (server is None and running.done()))
        if running.done() and server is None:
            await running
            return  # it has ended by itself
        # What was accepted a moment ago gets its handler; a server's close() would cut it.
        loop.remove_reader(listener)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(listener.until(lambda: not listener.waits()), _GRACE)
        if stop is not None:
            stop()
        await listener.until(lambda: running.done() or listener.is_cut())
        if server is None and running.done():
            await running
        await listener.until(lambda: not len(listener.connections))
        if server is not None:
            server.close()
    finally:
        running.cancel()
        listener.drained()
        listener.close()
