"""The standard library's wsgiref.simple_server, with servers that can be replaced while they run.

As there, the default is HTTP/1.0 and one request for each connection. A subclass of
WSGIRequestHandler with `protocol_version = "HTTP/1.1"` keeps connections alive: a body of
unknown length is then sent in chunks, and a request's body is read within its bounds
(RFC 9112, sections 6 and 7).
"""

from __future__ import annotations

import io
import socketserver
import wsgiref.simple_server as _std
from http import HTTPStatus
from typing import Any, Callable, Optional, cast
from wsgiref.simple_server import demo_app, server_version, software_version, sys_version

from endless_py._server import idle as boundary
from endless_py.http.server import HTTPServer, ThreadingHTTPServer

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

_LONGEST_LINE = 65536
_LEFT_OVER = 65536  # bytes of an unread request body that are read for the next request's sake


class WSGIServer(HTTPServer, _std.WSGIServer):
    """wsgiref.simple_server.WSGIServer, replaceable while it runs."""


class ThreadingWSGIServer(WSGIServer, ThreadingHTTPServer):
    """A WSGIServer that handles each connection in a thread, as ThreadingHTTPServer does."""


class _Body(io.RawIOBase):
    """A request's body and no byte more; the next request begins behind it."""

    def __init__(self, stream: Any, length: Optional[int]) -> None:
        """length is in bytes; None says that the body comes in chunks."""
        self._stream = stream
        self._chunked = length is None
        self._left = length or 0  # of the body, or of the chunk
        self._at_end = length == 0
        self._first = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._chunked and not self._left and not self._at_end:
            self._next_chunk()
        if self._at_end:
            return 0
        data = self._stream.read1(min(len(buffer), self._left))
        if not data:
            raise ConnectionError("the client left in the middle of a request's body")
        buffer[: len(data)] = data
        self._left -= len(data)
        if not self._left and not self._chunked:
            self._at_end = True
        return len(data)

    def _next_chunk(self) -> None:
        if not self._first:
            self._stream.readline(_LONGEST_LINE)  # the end of the chunk before
        self._first = False
        size = self._stream.readline(_LONGEST_LINE).partition(b";")[0].strip()
        if not size or size.strip(b"0123456789abcdefABCDEF"):
            raise ConnectionError("a chunk of the request's body has no size")
        self._left = int(size, 16)
        if not self._left:
            self._at_end = True
            while self._stream.readline(_LONGEST_LINE) not in (b"\r\n", b"\n", b""):
                pass  # trailers

    def skip(self) -> bool:
        """Read what the application left; whether the stream is at the next request now."""
        most = _LEFT_OVER
        while most > 0 and not self._at_end:
            most -= len(self.read(most) or b"")
        return self._at_end


class ServerHandler(_std.ServerHandler):
    """wsgiref.simple_server.ServerHandler that can leave its connection open."""

    request_handler: Any
    headers: Any
    status: Any
    bytes_sent: int
    headers_sent: bool
    _body_length: Optional[int] = None
    _in_body = False
    _chunked = False
    _bodiless = False

    def send_headers(self) -> None:
        request = self.request_handler
        self.http_version = request.protocol_version.partition("/")[2]
        self._in_body = False
        if request.protocol_version >= "HTTP/1.1":
            self._frame(request)
        super().send_headers()
        self._in_body = True

    def _frame(self, request: Any) -> None:
        """Choose how the client learns where the body ends, and what comes after it."""
        self.cleanup_headers()
        status = int((self.status or "0")[:3])
        self._bodiless = request.command == "HEAD" or status in (204, 304) or status < 200
        if status == HTTPStatus.NO_CONTENT or status < 200:
            del self.headers["Content-Length"]
        length = self.headers["Content-Length"]
        if self._bodiless:
            pass
        elif length is not None:
            self._body_length = int(length)
        elif request.request_version >= "HTTP/1.1" and "Transfer-Encoding" not in self.headers:
            self._chunked = True
            self.headers["Transfer-Encoding"] = "chunked"
        else:
            request.close_connection = True
        place = boundary.of(request)
        if place.draining() and not place.can_migrate(request):
            request.close_connection = True
        if "Connection" in self.headers:
            request.close_connection = self.headers["Connection"].lower() == "close"
        elif request.close_connection:
            self.headers["Connection"] = "close"
        elif request.request_version < "HTTP/1.1":
            self.headers["Connection"] = "keep-alive"

    def _write(self, data: bytes) -> None:
        if self._in_body:
            if self._bodiless or not data:
                return
            if self._body_length is not None:
                # bytes_sent has these already; what exceeds the promise would be a response.
                before = self.bytes_sent - len(data)
                data = data[: max(0, self._body_length - before)]
            elif self._chunked:
                data = b"%x\r\n%s\r\n" % (len(data), data)
        super()._write(data)

    def finish_content(self) -> None:
        super().finish_content()
        if self._chunked:
            self._in_body = False
            self._write(b"0\r\n\r\n")
            self._flush()
        if self._body_length is not None and self.bytes_sent < self._body_length:
            self.request_handler.close_connection = True

    def log_exception(self, exc_info: Any) -> None:
        if self.headers_sent:
            self.request_handler.close_connection = True  # how else would the client know
        super().log_exception(exc_info)


class WSGIRequestHandler(_std.WSGIRequestHandler):
    """wsgiref.simple_server.WSGIRequestHandler; keeps connections alive as HTTP/1.1 if asked to."""

    close_connection = True

    def handle(self) -> None:
        self.close_connection = True
        self.handle_one_request()
        while not self.close_connection:
            self.handle_one_request()

    def handle_one_request(self) -> None:
        try:
            self.raw_requestline = self.rfile.readline(_LONGEST_LINE + 1)
            if len(self.raw_requestline) > _LONGEST_LINE:
                self.requestline = self.request_version = self.command = ""
                self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
                self.close_connection = True
                return
            if not self.raw_requestline:
                self.close_connection = True
                return
            if self.parse_request():
                self._run_application()
        except TimeoutError as error:
            self.log_error("Request timed out: %r", error)
            self.close_connection = True

    def _run_application(self) -> None:
        body: Optional[_Body] = None
        stream: Any = self.rfile
        if self.protocol_version >= "HTTP/1.1":
            body = self._bounded_body()
            if body is None:
                self.send_error(HTTPStatus.BAD_REQUEST, "The length of the body is not clear")
                self.close_connection = True
                return
            stream = io.BufferedReader(body)
        handler = ServerHandler(
            stream,
            cast(Any, self.wfile),
            self.get_stderr(),
            self.get_environ(),
            multithread=isinstance(self.server, socketserver.ThreadingMixIn),
            multiprocess=hasattr(self.server, "active_children"),
        )
        handler.request_handler = self
        handler.run(cast(Any, self.server).get_app())
        if body is not None and not self.close_connection:
            try:
                self.close_connection = not body.skip()
            except OSError:
                self.close_connection = True

    def _bounded_body(self) -> Optional[_Body]:
        """Return the request's body, None when its length is ambiguous (RFC 9112, 6.3)."""
        coding = self.headers.get("Transfer-Encoding")
        lengths = set(self.headers.get_all("Content-Length", ()))
        if coding is not None:
            if coding.strip().lower() != "chunked" or lengths:
                return None
            return _Body(self.rfile, None)
        if not lengths:
            return _Body(self.rfile, 0)
        length = lengths.pop().strip()
        if lengths or not (length.isascii() and length.isdigit()):
            return None
        return _Body(self.rfile, int(length))


def make_server(
    host: str,
    port: int,
    app: Callable[..., Any],
    server_class: Any = WSGIServer,
    handler_class: Any = WSGIRequestHandler,
) -> Any:
    """Return a new WSGI server for `app`, as wsgiref.simple_server.make_server does."""
    server = server_class((host, port), handler_class)
    server.set_app(app)
    return server
