"""HTTP's notion of an idle connection, and of telling a client that it ends.

A handler class derived from BaseHTTPRequestHandler is used through a subclass made
here: its message boundaries are before each request.
"""

from __future__ import annotations

import functools
import socketserver
import sys

from endless_py._server import idle as boundary

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional


class HTTPConnectionMixIn(boundary.MigratingMixIn):
    """Put to the left of a handler class."""

    _at_start = True
    _status: Optional[int] = None
    _connection_said = False

    def handle(self: Any) -> None:
        if self._await_request():
            super().handle()  # type: ignore[misc]

    def handle_one_request(self: Any) -> None:
        if self._at_start:
            self._at_start = False  # handle() has waited already
        elif not self._await_request():
            self.close_connection = True
            return
        super().handle_one_request()  # type: ignore[misc]

    def _await_request(self: Any) -> bool:
        try:
            return boundary.of(self).wait(self)
        except TimeoutError as error:  # as BaseHTTPRequestHandler says it
            self.log_error("Request timed out: %r", error)
            return False

    def send_response_only(self: Any, code: int, message: Optional[str] = None) -> None:
        self._status = code
        self._connection_said = False
        super().send_response_only(code, message)  # type: ignore[misc]

    def send_header(self: Any, keyword: str, value: str) -> None:
        if keyword.lower() == "connection":
            self._connection_said = True
        super().send_header(keyword, value)  # type: ignore[misc]

    def end_headers(self: Any) -> None:
        final = self._status is None or self._status >= 200  # None: a head written by hand
        if final and not self._connection_said:
            place = boundary.of(self)
            if place.draining() and not place.can_migrate(self):
                self.send_header("Connection", "close")
        self._status, self._connection_said = None, False
        super().end_headers()  # type: ignore[misc]


def prepare(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return what to call instead of `handler`: a class, or a functools.partial of one.

    Anything else (a function that makes handlers, a datagram's class) is returned as it is.
    """
    if isinstance(handler, functools.partial):
        inner = prepare(handler.func)
        return functools.partial(inner, *handler.args, **handler.keywords)
    if isinstance(handler, type):
        # It takes long to import; whoever has a handler class of its own has done that.
        base: Any = getattr(sys.modules.get("http.server"), "BaseHTTPRequestHandler", ())
        if issubclass(handler, base):
            return boundary.derive(HTTPConnectionMixIn, handler)
        if issubclass(handler, socketserver.StreamRequestHandler):
            return boundary.derive(boundary.MigratingMixIn, handler)  # type: ignore[arg-type]
    return handler
