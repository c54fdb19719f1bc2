"""HTTP's notion of an idle connection, and of telling a client that it ends.

A handler class derived from BaseHTTPRequestHandler is used through a subclass made
here: its message boundaries are before each request.
"""

from __future__ import annotations

import functools
import socketserver
import sys

from endless_py._server import framing
from endless_py._server import idle as boundary

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

# What the standard classes assign for each request.
_OF_A_REQUEST = {
    "cgi_info",
    "close_connection",
    "command",
    "headers",
    "path",
    "raw_requestline",
    "request_version",
    "requestline",
    "_headers_buffer",
}
_STANDARD = {"socketserver", "http.server", "wsgiref.simple_server", "xmlrpc.server"}


class HTTPConnectionMixIn(boundary.MigratingMixIn):
    """Put to the left of a handler class."""

    _status: Optional[int] = None
    _connection_said = False
    _ends = False  # this request is the last one of its connection
    _assigned: frozenset[str] = frozenset()  # by __init__() and setup()

    def setup(self: Any) -> None:
        super().setup()
        self._assigned = frozenset(vars(self))

    def handle_one_request(self: Any) -> None:
        self._ends = False
        if not self._await_request():
            self.close_connection = True
            return
        super().handle_one_request()  # type: ignore[misc]
        if self._ends:
            self.close_connection = True

    def _await_request(self: Any) -> bool:
        try:
            return boundary.of(self).wait(self)
        except TimeoutError as error:  # as BaseHTTPRequestHandler says it
            self.log_error("Request timed out: %r", error)
            return False

    def is_stateless(self: Any) -> bool:
        """Whether another handler of this class would serve the next request alike.

        Not one whose class reads something before the first request, or that has learnt
        something since: a proxy's line about the client, a login. `migrates = True` on the
        class says that it may be replaced all the same, and save_state() that it takes care.
        """
        cls: Any = type(self)
        return (
            _is_standard(cls, "setup")
            and _is_standard(cls, "handle")
            and vars(self).keys() <= self._assigned | _OF_A_REQUEST | _OURS
            and self.client_address == boundary.of(self).client_address
        ) or hasattr(self, "save_state")

    # -- where the request ends -------------------------------------------

    def parse_request(self: Any) -> bool:
        """As the class's; where it is not clear where a request ends, its connection does.

        The answer is the class's all the same.
        """
        parse: Callable[[], bool] = super().parse_request  # type: ignore[misc]
        if self.protocol_version < "HTTP/1.1" or getattr(self, "_checks_framing", False):
            return parse()
        parsed, head = framing.parse_request(self, parse)
        if not self.close_connection and not self._is_clear(head):
            self._ends = True
        return parsed

    def _is_clear(self: Any, head: bytes) -> bool:
        try:
            framing.check_head(self.raw_requestline, head)
            length = framing.body_length(self.headers, self.request_version)
        except framing.FramingError:
            return False
        return length == 0 or not self._leaves_bodies()

    def _leaves_bodies(self: Any) -> bool:
        """Whether it is one of http.server's own methods that answers, which read no body."""
        method = getattr(type(self), f"do_{self.command}", None)
        return getattr(method, "__module__", None) == "http.server" and self.command != "POST"

    # -- what the client is told ------------------------------------------

    def send_response_only(self: Any, code: int, message: Optional[str] = None) -> None:
        self._status = code
        self._connection_said = False
        super().send_response_only(code, message)  # type: ignore[misc]

    def send_header(self: Any, keyword: str, value: str, *args: Any, **kwargs: Any) -> None:
        if keyword.lower() == "connection":
            self._connection_said = True
        super().send_header(keyword, value, *args, **kwargs)  # type: ignore[misc]

    def end_headers(self: Any) -> None:
        final = self._status is None or self._status >= 200  # None: a head written by hand
        if final and not self._connection_said:
            place = boundary.of(self)
            if self._ends or (place.draining() and not place.can_migrate(self)):
                self.send_header("Connection", "close")
        self._status, self._connection_said = None, False
        super().end_headers()  # type: ignore[misc]


_OURS = {"_assigned", "_connection_said", "_ends", "_request_length", "_status", boundary.NAME}


@functools.lru_cache(maxsize=256)
def _is_standard(handler: Any, name: str) -> bool:
    """Whether a handler class has the standard library's method, or one of ours."""
    for cls in handler.__mro__:
        if name in vars(cls):
            module = cls.__module__
            if module not in _STANDARD and not module.startswith("endless_py._server."):
                return False
    return True


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
