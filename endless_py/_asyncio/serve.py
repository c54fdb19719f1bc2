"""Servers of asyncio's, whatever made them: connections counted, drained, and named when cut."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from contextlib import suppress

from endless_py._api import listen, ready
from endless_py._asyncio.sockets import AcceptedConnection, CountingSocket
from endless_py._reload import process
from endless_py._reload import settings as settings_of

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable, Optional, Sequence, Union

    from endless_py._api import Address

_TURNS = 10  # of the event loop, after which what it has accepted has its handler
_FAREWELL = 0.3  # seconds that on_cut() has before the connections are cut
_LAST = 0.5  # seconds that a server has to end by itself when all it had was cut


class Serving:
    """One server's listeners, and the coroutine that waits for what happens to them."""

    def __init__(self, on_cut: Optional[Callable[[], Any]]) -> None:
        self.loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        self._on_cut = on_cut
        self._cut: deque[AcceptedConnection] = deque()
        self._farewell: Optional[asyncio.Future[Any]] = None
        self._health: Optional[tuple[str, int]] = None
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
            self.loop.call_soon_threadsafe(self._news.set)

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

    # -- other processes --------------------------------------------------

    def bound(self) -> None:
        """The others may begin, who share what was bound; returns when they could serve."""
        if process.current.group is not None:
            process.current.group.begin()

    def share(self) -> None:
        """All listens now."""
        if process.current.runs_main:
            for listener in self.listeners:
                listener.share(self.loop)

    def leave_to_others(self) -> None:
        """A client that cannot be let in here may have woken nobody else."""
        if process.current.group is not None:
            process.current.group.left_waiting()
            process.current.wake()

    # -- a drain ----------------------------------------------------------

    async def accept_no_more(self) -> None:
        """What was accepted a moment ago gets its handler; a server's close() would cut it."""
        for listener in self.listeners:
            with suppress(ValueError):  # a force stop has closed it meanwhile
                self.loop.remove_reader(listener)
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
                self.loop.call_soon_threadsafe(self._say_goodbye)

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
            self.loop.call_exception_handler(what)
        await self.within(max(0.0, done - time.monotonic()), self.empty)
        self._farewell = None
        while self._cut:
            self._cut.popleft().cut_now()

    def cut_later(self, connection: AcceptedConnection) -> bool:
        """Whether this connection is cut in a moment, when its server has said goodbye."""
        if self._on_cut is None or self.loop.is_closed():
            return False
        self._cut.append(connection)
        self.say_cut()
        return True

    # -- beside it --------------------------------------------------------

    def answer_health_checks(self, address: tuple[str, int]) -> None:
        """Do so until the end; once its own listeners are bound, and before it is ready."""
        from endless_py._server import health  # few programs want it
        from endless_py._server.mixin import GracefulMixIn

        owner = self.listeners[0].record.server
        process.current.beside.begin(address, lambda: health.begin(GracefulMixIn, address, owner))
        self._health = address

    def close(self) -> None:
        machine = process.current.machine
        if self._health is not None and not (machine.drains or machine.over):
            process.current.beside.end(self._health)
        for listener in self.listeners:
            listener.drained()
            listener.close()
            if machine.accepting and not listener.record.ready:  # it has never been served
                listener.record.server.socket.close()


async def serve_asyncio(
    serve: Callable[..., Awaitable[Any]],
    address: Union[Address, Sequence[Address]],
    *,
    stop: Optional[Callable[[], object]] = None,
    close_idle: Optional[Callable[[], object]] = None,
    on_cut: Optional[Callable[[], Any]] = None,
    health: Union[tuple[str, int], str, int, None] = None,
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

    health is (host, port) or "HOST:PORT" at which health checks are answered meanwhile, in a thread
    (see `endless_py.health`); default None, or ENDLESS_PY_HEALTH. address and settings are those of
    `listen()`. Raises what serve(listener) raises, HealthError, and ValueError for what is no
    address.
    """
    where = settings_of.from_environment().get("health") if health is None else health
    if where is not None:
        where = settings_of.parse_address(where)
    serving = Serving(on_cut)
    try:
        several: Any = address if isinstance(address, list) else [address]
        for each in several:
            serving.add(each, settings)
        await asyncio.sleep(0)  # what the program serves beside this is bound as well
        serving.bound()
        if where is not None and not process.current.worker:
            serving.answer_health_checks(where)
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
        serving.share()
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
