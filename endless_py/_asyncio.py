"""Servers of asyncio's, whatever made them: connections counted, drained, and named when cut.

asyncio calls methods of the listener's socket: listen() when it begins to serve, accept() for each
connection. So all that is known here comes from the sockets, and no server needs to know of it.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import time
from collections import deque
from contextlib import suppress

from endless_py._api import ForeignSocket, listen, ready
from endless_py._sockets.connection import Connection
from endless_py._support.reserve import NO_ROOM

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable, Optional, Sequence, Union

    from endless_py._api import Address

_TURNS = 10  # of the event loop, after which what it has accepted has its handler
_PAUSE = 0.5  # seconds without accepting when there is no descriptor left
_FAREWELL = 0.3  # seconds that on_cut() has before the connections are cut
_LAST = 0.5  # seconds that a server has to end by itself when all it had was cut


class AcceptedSocket(socket.socket):
    """A connection's socket, which tells of its end."""

    listener: Optional[CountingSocket] = None

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
            listener.serving.tell()


class AcceptedConnection(Connection):
    """The record of one, whose server may say goodbye before it is cut."""

    def cut(self) -> None:
        listener = self.request.listener
        if listener is not None and not listener.serving.cut_later(self):
            super().cut()

    def cut_now(self) -> None:
        super().cut()


class CountingSocket(ForeignSocket):
    """A listener, which notes each connection until that is closed."""

    listens = drains = False
    serving: Serving
    _tried_until = 0.0  # time.monotonic()

    def begin(self, serving: Serving) -> None:
        self.serving = serving
        self.record = self._record
        self.connections = self.record.connections
        self.record.on_cut = serving.say_cut

    def drain(self) -> None:
        """Called in a drain, in another thread."""
        self.drains = True
        self.serving.tell()

    def listen(self, *arguments: int) -> None:
        super().listen(*arguments)
        self.listens = True
        self.serving.tell()

    def let_go(self) -> None:
        """Nobody accepts any more: who connects is refused, and does not wait for the drain's end.

        Its server has the descriptor, so that stays: of a socket that nobody can connect to.
        """
        with socket.socket(self.family, self.type) as other:
            os.dup2(other.fileno(), self.fileno(), inheritable=False)

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
        self.connections.active[id(accepted)] = AcceptedConnection(accepted, address)
        return accepted, address


class Serving:
    """One server's listeners, and the coroutine that waits for what happens to them."""

    def __init__(self, on_cut: Optional[Callable[[], Any]]) -> None:
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        self._on_cut = on_cut
        self._cut: deque[AcceptedConnection] = deque()
        self._farewell: Optional[asyncio.Future[Any]] = None
        self.listeners: list[CountingSocket] = []

    def add(self, address: Address, settings: dict[str, Any]) -> None:
        begun: list[CountingSocket] = []
        given = listen(address, on_drain=lambda: begun[0].drain(), **settings)
        listener = CountingSocket.of(given, given._record)
        assert isinstance(listener, CountingSocket)
        given.close()
        listener.begin(self)
        begun.append(listener)
        self.listeners.append(listener)

    # -- what is waited for -----------------------------------------------

    def tell(self) -> None:
        """Something has changed for who waits; safe in any thread."""
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._news.set)

    async def until(self, done: Callable[[], object]) -> None:
        while not done():
            self._news.clear()
            await self._news.wait()

    async def within(self, seconds: float, done: Callable[[], object]) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.until(done), seconds)

    def listens(self) -> bool:
        return all(listener.listens for listener in self.listeners)

    def drains(self) -> bool:
        return all(listener.drains for listener in self.listeners)

    def empty(self) -> bool:
        """Whether no connection is open."""
        return not any(len(listener.connections) for listener in self.listeners)

    def is_cut(self) -> bool:
        """Whether the drain's time is over, and nothing is open any more."""
        return self.empty() and all(listener.record.cut for listener in self.listeners)

    # -- a drain ----------------------------------------------------------

    async def accept_no_more(self) -> None:
        """What was accepted a moment ago gets its handler; a server's close() would cut it."""
        for listener in self.listeners:
            self._loop.remove_reader(listener)
            if listener.record.closing:
                listener.let_go()
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def grace(self) -> float:
        """Return for how many seconds a connection may stay idle."""
        return max(listener.record.setting("keepalive_grace") for listener in self.listeners)

    def say_cut(self) -> None:
        """The drain's time is over; called in any thread."""
        if self._on_cut is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._say_goodbye)

    def _say_goodbye(self) -> None:
        if self._farewell is None:  # it is one cut, however many listeners tell of it
            self._farewell = asyncio.ensure_future(self._goodbye())

    async def _goodbye(self) -> None:
        assert self._on_cut is not None
        done = time.monotonic() + _FAREWELL
        try:
            said = self._on_cut()
            if inspect.isawaitable(said):
                await asyncio.wait_for(said, _FAREWELL)
        except Exception as error:
            what = {"message": "on_cut() has failed", "exception": error}
            self._loop.call_exception_handler(what)
        await self.within(max(0.0, done - time.monotonic()), self.empty)
        self._farewell = None
        while self._cut:
            self._cut.popleft().cut_now()

    def cut_later(self, connection: AcceptedConnection) -> bool:
        """Whether this connection is cut in a moment, when its server has said goodbye."""
        if self._on_cut is None or self._loop.is_closed():
            return False
        self._cut.append(connection)
        self.say_cut()
        return True

    def close(self) -> None:
        for listener in self.listeners:
            listener.drained()
            listener.close()


async def serve_asyncio(
    serve: Callable[..., Awaitable[Any]],
    address: Union[Address, Sequence[Address]],
    *,
    stop: Optional[Callable[[], object]] = None,
    close_idle: Optional[Callable[[], object]] = None,
    on_cut: Optional[Callable[[], Any]] = None,
    **settings: Any,
) -> None:
    """Serve an address with an asyncio server, until that ends or this process has drained.

    serve(listener) starts it: `lambda listener: asyncio.start_server(handle, sock=listener)`, or
    a coroutine that serves until its end, as hypercorn's `worker_serve()`. The latter needs stop(),
    which has it accept no more, finish what is active, and return. A list of addresses gives
    serve() as many listeners. This process is ready once it listens on all of them.

    A connection counts as active from accept to its end. In a drain no more are accepted; those
    that are open may stay idle for `keepalive_grace` (seconds, 5). Then close_idle() is called,
    where there is one, and when no connection is left stop(); where there is none stop() is called
    at once, and has to close them. What is open after `drain_timeout` is cut, and named in the log;
    on_cut(), a function or a coroutine function, has 0.3 seconds to say goodbye before. A shorter
    limit of the server's own (hypercorn's `graceful_timeout`) cuts without a line. All three are
    called in the loop, which has to be asyncio's own: uvloop's accepts past the listener, so that
    nothing is counted there.

    address and settings are those of `listen()`. Raises what serve(listener) raises.
    """
    serving = Serving(on_cut)
    try:
        several: Any = address if isinstance(address, list) else [address]
        for each in several:
            serving.add(each, settings)
        await _serve(serving, serve, stop, close_idle)
    finally:
        serving.close()


async def _serve(
    serving: Serving,
    serve: Callable[..., Awaitable[Any]],
    stop: Optional[Callable[[], object]],
    close_idle: Optional[Callable[[], object]],
) -> None:
    running = asyncio.ensure_future(serve(*serving.listeners))
    running.add_done_callback(lambda _: serving.tell())
    try:
        await serving.until(lambda: serving.listens() or running.done())
        if running.done() and not serving.listens():
            await running
            return  # it could not start, which it has said itself
        ready()
        server = await running if stop is None else None
        await serving.until(lambda: serving.drains() or (server is None and running.done()))
        if not serving.drains():
            await running
            return  # it has ended by itself
        await serving.accept_no_more()
        await serving.within(serving.grace(), serving.empty)
        if close_idle is not None:
            close_idle()
            await serving.until(lambda: serving.empty() or (stop and running.done()))
        if stop is None:
            await serving.until(serving.empty)
            if server is not None:
                server.close()
            return
        stop()
        await serving.until(lambda: running.done() or serving.is_cut())
        await asyncio.wait({running}, timeout=_LAST)
        if running.done():
            await running
            await serving.until(serving.empty)
    finally:
        running.cancel()
