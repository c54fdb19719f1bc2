"""The standard library's wsgiref.simple_server, with servers that can be replaced while they run.

As there, the default is HTTP/1.0 and one request for each connection. A subclass of
WSGIRequestHandler with `protocol_version = "HTTP/1.1"` keeps connections alive: a body of
unknown length is then sent in chunks, and a request's body is read within its bounds
(RFC 9112, sections 6 and 7).
"""

from __future__ import annotations

import wsgiref.simple_server as _std
from wsgiref.simple_server import demo_app, server_version, software_version, sys_version

from endless_py._server.wsgi import ServerHandler, WSGIRequestHandler
from endless_py.http.server import HTTPServer, ThreadingHTTPServer

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, TypeVar, overload

    from _typeshed.wsgi import WSGIApplication

    _S = TypeVar("_S", bound=_std.WSGIServer)

__all__ = [
    "ServerHandler",
    "ThreadingWSGIServer",
    "WSGIRequestHandler",
    "WSGIServer",
    "demo_app",
    "make_server",
    "server_version",
    "software_version",
    "sys_version",
]


class WSGIServer(HTTPServer, _std.WSGIServer):
    """wsgiref.simple_server.WSGIServer, replaceable while it runs."""


class ThreadingWSGIServer(WSGIServer, ThreadingHTTPServer):
    """A WSGIServer that handles each connection in a thread, as ThreadingHTTPServer does."""


if TYPE_CHECKING:

    @overload
    def make_server(
        host: str,
        port: int,
        app: WSGIApplication,
        *,
        handler_class: type[_std.WSGIRequestHandler] = ...,
    ) -> WSGIServer: ...

    @overload
    def make_server(
        host: str,
        port: int,
        app: WSGIApplication,
        server_class: type[_S],
        handler_class: type[_std.WSGIRequestHandler] = ...,
    ) -> _S: ...


def make_server(
    host: str,
    port: int,
    app: WSGIApplication,
    server_class: Any = WSGIServer,
    handler_class: Any = WSGIRequestHandler,
) -> Any:
    """Return a new WSGI server for `app`, as wsgiref.simple_server.make_server does."""
    server = server_class((host, port), handler_class)
    server.set_app(app)
    return server
