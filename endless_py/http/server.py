"""The standard library's http.server, with servers that can be replaced while they run."""

from __future__ import annotations

import http.server as _std
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler

from endless_py._server.mixin import GracefulMixIn
from endless_py._server.tls import TLSMixIn

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "BaseHTTPRequestHandler",
    "HTTPSServer",
    "HTTPServer",
    "SimpleHTTPRequestHandler",
    "ThreadingHTTPSServer",
    "ThreadingHTTPServer",
]


class HTTPServer(GracefulMixIn, _std.HTTPServer):
    """http.server.HTTPServer, replaceable while it runs."""


class ThreadingHTTPServer(HTTPServer, _std.ThreadingHTTPServer):
    """http.server.ThreadingHTTPServer, replaceable while it runs."""


_StdHTTPSServer: Any = getattr(_std, "HTTPSServer", object)  # from 3.14 on
_StdThreadingHTTPSServer: Any = getattr(_std, "ThreadingHTTPSServer", object)


class HTTPSServer(TLSMixIn, HTTPServer, _StdHTTPSServer):  # type: ignore[misc]
    """http.server.HTTPSServer as of Python 3.14, on every Python, replaceable while it runs."""


class ThreadingHTTPSServer(HTTPSServer, ThreadingHTTPServer, _StdThreadingHTTPSServer):  # type: ignore[misc]
    """http.server.ThreadingHTTPSServer as of Python 3.14, likewise."""


if hasattr(_std, "CGIHTTPRequestHandler"):  # gone from 3.15 on
    from http.server import CGIHTTPRequestHandler

    __all__ += ["CGIHTTPRequestHandler"]
