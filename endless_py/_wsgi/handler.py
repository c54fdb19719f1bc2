"""One connection of a WSGI server: its requests, one after the other."""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import time
from urllib.parse import unquote_to_bytes

from endless_py._server import idle as boundary
from endless_py._sockets.connection import say_address
from endless_py._wsgi.body import SKIPPED, Body, open_body
from endless_py._wsgi.head import Head, Limits, RequestError, check_beginning, parse, split_target
from endless_py._wsgi.response import FileWrapper, Response
from endless_py._wsgi.transport import ClientGone, ClientTimeout, Idle, TLSTransport, Transport

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from endless_py._wsgi.access_log import AccessLog
    from endless_py._wsgi.forwarded import Trust

logger = logging.getLogger("endless_py.wsgi")


class Service:
    """What the handlers of all addresses have in common; times are in seconds."""

    keep_alive = 5.0
    header_timeout = 10.0
    body_timeout = 30.0
    access_log: Optional[AccessLog] = None
    multithread = True
    multiprocess = False

    def __init__(self, application: Any, limits: Limits, trust: Trust) -> None:
        self.application = application
        self.limits = limits
        self.trust = trust


class Handler(socketserver.BaseRequestHandler):
    """Serves the requests of one connection with the application of `server.service`."""

    server: Any
    transport: Transport

    def setup(self) -> None:
        self.service: Service = self.server.service
        patience = self.service.body_timeout
        sock = self.request
        if type(sock) is socket.socket:
            self.connection: Any = sock
            self.transport = Transport(sock, patience)
        else:
            self.transport = TLSTransport(sock, patience)
        address = self.client_address
        self.peer = address[0] if type(address) is tuple else ""
        self.place = boundary.of(self)
        # Nothing of a request is kept for the next one, so another handler may go on.
        self.place.may_park = lambda: True
        self.place.count.alone = 0

    def handle(self) -> None:
        try:
            self._be_patient(self._first_patience())
            if self.place.arrived_with is None:
                self.transport.data = self.transport.read() or b""
            while self.handle_one():
                pass
        except ClientGone:
            pass
        except socket.timeout:  # at a boundary; before 3.10 not a TimeoutError
            pass

    def _first_patience(self) -> float:
        """How long a client may be silent at first: a fresh one has its first request to send."""
        fresh = self.place.arrived_with is None
        return self.service.header_timeout if fresh else self.service.keep_alive

    def _be_patient(self, seconds: float) -> None:
        """Set for how long a client may say nothing at a boundary."""
        if type(self.transport) is Transport:
            if self.request.gettimeout() != seconds:
                self.request.settimeout(seconds)
        else:
            self.connection = Idle(self.request, seconds)

    def handle_one(self) -> bool:
        """Serve the next request; whether there may be another one."""
        transport = self.transport
        if not transport.data:
            if not self.place.wait(self):
                return False
            transport.data = transport.receive(time.monotonic() + self.service.header_timeout)
            if not transport.data:
                return False
        start = time.monotonic()
        self.place.count.requests += 1
        try:
            head = self._read_head(start)
            if head is None:
                return False
            path, query = split_target(head)
        except RequestError as error:
            self._refuse(error, start)
            return False
        self.place.count.line = head.line
        return self._serve(head, path, query, start)

    def _read_head(self, start: float) -> Optional[Head]:
        """Return the next request's head, None where the client has left instead."""
        transport, limits = self.transport, self.service.limits
        data = transport.data.lstrip(b"\r\n") if transport.data[0] in b"\r\n" else transport.data
        end = data.find(b"\r\n\r\n")
        deadline = start + self.service.header_timeout
        while end < 0:
            check_beginning(data, limits)
            try:
                more = transport.receive(deadline)
            except ClientTimeout:
                if not data:
                    return None
                text = "the request's head did not come in time"
                raise RequestError("408 Request Timeout", text) from None
            if not more:
                return None
            before = max(0, len(data) - 3)
            data += more
            end = data.find(b"\r\n\r\n", before)
        transport.data = data[end + 4 :]
        return parse(data[:end], limits)

    def _refuse(self, error: RequestError, start: float) -> None:
        """Answer what is no request, and end."""
        logger.warning("%s: %s; answered %s", self._client(), error, error.status)
        transport = self.transport
        transport.data = b""
        self._send_error(transport, error.status, str(error))
        log = self.service.access_log
        if log is not None:
            log.write({"REMOTE_ADDR": self.peer}, "-", error.status[:3], 0, start)
        transport.linger()

    def _client(self) -> str:
        return say_address(self.client_address)

    @staticmethod
    def _send_error(transport: Transport, status: str, text: str, with_body: bool = True) -> None:
        body = f"{text}\n".encode("latin-1", "replace")
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\nServer: endless_py\r\n\r\n"
        )
        transport.send(head.encode("latin-1") + (body if with_body else b""))

    def _environ(self, head: Head, path: str, query: str) -> dict[str, Any]:
        environ: dict[str, Any] = {**self.server.base_environ, **head.environ}
        if "%" in path:
            path = unquote_to_bytes(path.encode("latin-1")).decode("latin-1")
        environ["REQUEST_METHOD"] = head.method
        environ["PATH_INFO"] = path
        environ["QUERY_STRING"] = query
        environ["RAW_URI"] = environ["REQUEST_URI"] = head.target
        environ["SERVER_PROTOCOL"] = "HTTP/1.1" if head.modern else "HTTP/1.0"
        environ["REMOTE_ADDR"] = self.peer
        if self.peer:
            environ["REMOTE_PORT"] = str(self.client_address[1])
        environ["wsgi.errors"] = sys.stderr
        environ["wsgi.file_wrapper"] = FileWrapper
        if "HTTP_X_FORWARDED_FOR" in environ or "HTTP_X_FORWARDED_PROTO" in environ:
            trust = self.service.trust
            if trust.believes(self.peer):
                trust.apply(environ)
        return environ

    def _serve(self, head: Head, path: str, query: str, start: float) -> bool:
        """Have the application answer; whether the connection goes on."""
        service, transport = self.service, self.transport
        environ = self._environ(head, path, query)
        stream, body = open_body(transport, head, service.limits, service.body_timeout)
        environ["wsgi.input"] = stream

        def ends() -> bool:
            """Whether the connection ends with this response; asked when its head is sent."""
            if body is not None:
                if body.failed or body.unread > SKIPPED or body.awaits_go:
                    body.forget_go()
                    return True
                body.forget_go()
            place = self.place
            return (
                not head.keeps
                or not service.keep_alive
                or (place.draining() and not place.can_migrate(self))
                or self.server.is_crowded()
            )

        response = Response(transport, head.method, head.modern, ends)
        self._run(environ, response, body, head)
        log = service.access_log
        if log is not None:
            log.write(environ, head.line, response.status[:3] or "-", response.sent, start)
        if transport.gone:
            return False
        if response.complaint:
            logger.error("%s: %s", head.line, response.complaint)
        if response.closes or (body is not None and not body.at_end and not body.skip()):
            if transport.data or (body is not None and not body.at_end):
                transport.data = b""
                transport.linger()  # what was not read would make it a reset
            return False
        self._be_patient(service.keep_alive)
        return True

    def _run(
        self, environ: dict[str, Any], response: Response, body: Optional[Body], head: Head
    ) -> None:
        """Call the application and send what it returns; whatever it does, the client is told."""
        result: Any = None
        try:
            try:
                result = self.service.application(environ, response.start)
                response.send_all(result)
            finally:
                close: Optional[Callable[[], object]] = getattr(result, "close", None)
                if close is not None:
                    close()
        except (Exception, SystemExit) as error:  # a sys.exit() ends no server
            self._failed(error, response, body, head)

    def _failed(
        self, error: BaseException, response: Response, body: Optional[Body], head: Head
    ) -> None:
        """The application has raised, or its client has left."""
        transport = self.transport
        response.closes = True
        if transport.gone:
            logger.debug("%s: %s has left: %s", head.line, self._client(), error)
            return
        refused = body.error if body is not None else None
        if refused is not None:
            logger.warning("%s: %s: %s", self._client(), head.line, refused)
        else:
            logger.error("%s: the application failed", head.line, exc_info=error)
        if response.head_sent:
            return  # it is not whole, and the end of the connection says so
        status, text = "500 Internal Server Error", "The application failed; its log says why."
        if refused is not None:
            status, text = refused.status, str(refused)
        response.status = status
        try:
            self._send_error(transport, status, text, head.method != "HEAD")
        except ClientGone:
            return
        if body is not None and not body.at_end:
            transport.linger()
