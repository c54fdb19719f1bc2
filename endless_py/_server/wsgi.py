"""WSGI on connections that can be kept: what wsgiref does for HTTP/1.0, for HTTP/1.1.

A response body of unknown length is sent in chunks, and a request's body is read within its
bounds. A request whose end is not clear is answered with 400, and its connection ends.
"""

from __future__ import annotations

import functools
import io
import socket
import socketserver
import sys
import wsgiref.simple_server as _std
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Optional, cast

from endless_py._server import framing
from endless_py._server import idle as boundary

_LONGEST_LINE = 65536


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
    error_body: bytes
    environ: Any
    request_body: Optional[framing.Body] = None
    result: Any

    def send_headers(self, *arguments: Any, **keywords: Any) -> None:
        request = self.request_handler
        self.http_version = request.protocol_version.partition("/")[2]
        self._in_body = False
        if request.protocol_version >= "HTTP/1.1":
            self._frame(request)
        super().send_headers(*arguments, **keywords)
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
        if self.request_body is not None and self.request_body.failed:
            request.close_connection = True  # whatever the application made of the exception
        if self.headers.get("Connection", "").lower() == "close":
            request.close_connection = True
        if request.close_connection:
            self.headers["Connection"] = "close"
        elif "Connection" in self.headers:
            pass
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

    def finish_content(self, *arguments: Any, **keywords: Any) -> None:
        super().finish_content(*arguments, **keywords)
        if self._chunked:
            self._in_body = False
            self._write(b"0\r\n\r\n")
            self._flush()
        if self._body_length is not None and self.bytes_sent < self._body_length:
            self.request_handler.close_connection = True

    def handle_error(self, *arguments: Any, **keywords: Any) -> None:
        """As wsgiref's; but a body that cannot be read is the client's fault."""
        request, error = self.request_handler, sys.exc_info()[1]
        if not isinstance(error, framing.FramingError):
            super().handle_error(*arguments, **keywords)
            return
        request.close_connection = True
        request.log_error("%s", error)
        if not self.headers_sent:
            self.error_status = "400 Bad Request"
            self.error_body = b"The request's body cannot be read."
            with suppress(ConnectionError):  # most that stop in the middle have left
                self.result = self.error_output(self.environ, self.start_response)
                self.finish_response()

    def log_exception(self, *arguments: Any, **keywords: Any) -> None:
        if self.headers_sent:
            self.request_handler.close_connection = True  # how else would the client know
        super().log_exception(*arguments, **keywords)


class WSGIRequestHandler(_std.WSGIRequestHandler):
    """wsgiref.simple_server.WSGIRequestHandler; keeps connections alive as HTTP/1.1 if asked to."""

    close_connection = True
    _checks_framing = True
    _request_length: Optional[int] = 0

    def handle(self) -> None:
        self.close_connection = True
        self.handle_one_request()
        while not self.close_connection:
            self.handle_one_request()

    def parse_request(self, *arguments: Any, **keywords: Any) -> bool:
        """As BaseHTTPRequestHandler's; with HTTP/1.1 a head that is not clear is answered here."""
        if self.protocol_version < "HTTP/1.1":
            return super().parse_request(*arguments, **keywords)
        parse = functools.partial(super().parse_request, *arguments, **keywords)
        parsed, lines = framing.parse_request(self, parse)
        if not parsed:
            self.close_connection = True  # what is left of the head is no request
            return False
        if self.request_version == "HTTP/0.9":
            return True  # it has neither headers nor a next request
        try:
            framing.check_head(self.raw_requestline, lines)
            self._request_length = framing.body_length(self.headers, self.request_version)
        except framing.FramingError as error:
            self.send_error(HTTPStatus.BAD_REQUEST, str(error))
            self.close_connection = True
            return False
        return True

    def handle_one_request(self) -> None:
        self._request_length = 0
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
            elif self._request_length != 0:
                self.close_connection = True  # a subclass has answered, and nobody reads the body
        except socket.timeout as error:  # before 3.10 not a TimeoutError
            self.log_error("Request timed out: %r", error)
            self.close_connection = True

    def _run_application(self) -> None:
        body: Optional[framing.Body] = None
        stream: Any = self.rfile
        if self.protocol_version >= "HTTP/1.1":
            body = framing.Body(self.rfile, self._request_length)
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
        handler.request_body = body
        handler.run(cast(Any, self.server).get_app())
        if body is not None and not self.close_connection:
            self.close_connection = not body.skip()
