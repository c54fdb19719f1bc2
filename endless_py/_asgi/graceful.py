"""What an ASGI application's clients are told in a drain, whatever server it runs on."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from endless_py._reload import process

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Any, Receive, Send], Awaitable[Any]]

RESTART = 1012  # a WebSocket's close code: the service restarts, so connect again


class GracefulASGI:
    """An ASGI 3 application whose clients are told of a drain.

    An HTTP/1 response that begins in a drain says `Connection: close`, so that a client which keeps
    its connection asks the new process next. `await close_websockets()` closes what is open then
    with code 1012: give it to `serve_asyncio()` as on_cut.
    """

    def __init__(self, app: Application) -> None:
        """app is the application."""
        self.app = app
        self._websockets: set[WebSocket] = set()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope.get("http_version", "1.1")[:1] == "1":
                send = _Last(send)
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            websocket = WebSocket(send)
            self._websockets.add(websocket)
            try:
                await self.app(scope, receive, websocket)
            finally:
                self._websockets.discard(websocket)
        else:
            await self.app(scope, receive, send)

    async def close_websockets(self, code: int = RESTART) -> None:
        """Close those that are open; code is the close code that their clients see."""
        await asyncio.gather(*[websocket.close(code) for websocket in self._websockets])


class _Last:
    """A send() whose response is its connection's last one, if it begins in a drain."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and process.current.machine.drains:
            given = message.get("headers", ())
            headers = [(name, value) for name, value in given if name.lower() != b"connection"]
            message = {**message, "headers": [*headers, (b"connection", b"close")]}
        await self._send(message)


class WebSocket:
    """A send() that knows whether it can still close."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._open = False

    async def __call__(self, message: Message) -> None:
        if message["type"] in ("websocket.accept", "websocket.close"):
            self._open = message["type"] == "websocket.accept"
        await self._send(message)

    async def close(self, code: int) -> None:
        if self._open:
            self._open = False
            with suppress(Exception):  # its client may be gone, which each server says otherwise
                await self._send({"type": "websocket.close", "code": code})
