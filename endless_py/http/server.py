"""The standard library's http.server, with servers that can be replaced while they run."""

from __future__ import annotations

import http.server as _std
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler

from endless_py._server.tls import TLSMixIn
from endless_py.socketserver import TCPServer

TYPE_CHECKING = False  # true for checkers

__all__ = [
    "BaseHTTPRequestHandler",
    "HTTPSServer",
    "HTTPServer",
    "SimpleHTTPRequestHandler",
    "ThreadingHTTPSServer",
    "ThreadingHTTPServer",
]


if TYPE_CHECKING:
    # What checkers see: the constructors, attributes and methods of the standard classes first.
    class HTTPServer(_std.HTTPServer, TCPServer): ...
else:

    class HTTPServer(TCPServer, _std.HTTPServer):
        """http.server.HTTPServer, replaceable while it runs."""


class ThreadingHTTPServer(HTTPServer, _std.ThreadingHTTPServer):
    """http.server.ThreadingHTTPServer, replaceable while it runs."""


if TYPE_CHECKING:

    class HTTPSServer(TLSMixIn, HTTPServer): ...

    class ThreadingHTTPSServer(HTTPSServer, ThreadingHTTPServer): ...
else:
    _StdHTTPSServer = getattr(_std, "HTTPSServer", object)  # from 3.14 on
    _StdThreadingHTTPSServer = getattr(_std, "ThreadingHTTPSServer", object)

    class HTTPSServer(TLSMixIn, HTTPServer, _StdHTTPSServer):
        """http.server.HTTPSServer as of Python 3.14, on every Python, replaceable while it runs."""

    class ThreadingHTTPSServer(HTTPSServer, ThreadingHTTPServer, _StdThreadingHTTPSServer):
        """http.server.ThreadingHTTPSServer as of Python 3.14, likewise."""


if hasattr(_std, "CGIHTTPRequestHandler"):  # gone from 3.15 on
    from http.server import CGIHTTPRequestHandler

    __all__ += ["CGIHTTPRequestHandler"]
