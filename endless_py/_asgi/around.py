"""What `python -m endless_py asgi` puts around an application: who the client is, and a log."""

from __future__ import annotations

import time

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any

    from endless_py._asgi.graceful import Application, Message, Receive, Send
    from endless_py._wsgi.access_log import AccessLog
    from endless_py._wsgi.forwarded import Trust

_SCHEMES = {"http": "ws", "https": "wss"}


def _headers(scope: Any, *wanted: bytes) -> dict[bytes, str]:
    """Return those of these headers that are there; several of one name are joined."""
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in wanted:
            text = value.decode("latin-1")
            found[name] = f"{found[name]}, {text}" if name in found else text
    return found


class Forwarded:
    """Believes the proxies that are to be believed, as the `wsgi` command does."""

    def __init__(self, app: Application, trust: Trust) -> None:
        self._app, self._trust = app, trust

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            given = _headers(scope, b"x-forwarded-for", b"x-forwarded-proto")
            peer = scope.get("client")
            if given and self._trust.believes(peer[0] if peer else ""):
                scope = self._apply(scope, given)
        await self._app(scope, receive, send)

    def _apply(self, scope: Any, given: dict[bytes, str]) -> Any:
        names = {b"x-forwarded-for": "HTTP_X_FORWARDED_FOR"}
        names[b"x-forwarded-proto"] = "HTTP_X_FORWARDED_PROTO"
        environ = {names[name]: value for name, value in given.items()}
        self._trust.apply(environ)
        found = dict(scope)
        if "REMOTE_ADDR" in environ:
            found["client"] = environ["REMOTE_ADDR"], 0
        scheme = environ.get("wsgi.url_scheme")
        if scheme is not None:
            found["scheme"] = _SCHEMES[scheme] if scope["type"] == "websocket" else scheme
        return found


class Logged:
    """Writes a line for each request, and one for each WebSocket when it has ended."""

    def __init__(self, app: Application, log: AccessLog) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        counted, start = _Counted(send), time.monotonic()
        try:
            await self._app(scope, receive, counted)
        except BaseException:
            counted.status = counted.status or 500
            raise
        finally:
            self._write(scope, counted, start)

    def _write(self, scope: Any, counted: _Counted, start: float) -> None:
        path = scope.get("raw_path") or scope["path"].encode()
        query = b"?" + scope["query_string"] if scope.get("query_string") else b""
        target = (path + query).decode("latin-1")
        line = f"{scope.get('method', 'GET')} {target} HTTP/{scope.get('http_version', '1.1')}"
        given = _headers(scope, b"referer", b"user-agent")
        environ = {"REMOTE_ADDR": (scope.get("client") or ("",))[0]}
        for name, variable in ((b"referer", "HTTP_REFERER"), (b"user-agent", "HTTP_USER_AGENT")):
            if name in given:
                environ[variable] = given[name]
        self._log.write(environ, line, str(counted.status or "-"), counted.size, start)


class _Counted:
    """A send() that keeps the status, and the size of the body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = self.size = 0

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
        elif kind == "http.response.body":
            self.size += len(message.get("body", b""))
        elif kind == "websocket.accept":
            self.status = 101
        elif kind == "websocket.close":
            self.status = self.status or 403
        await self._send(message)
