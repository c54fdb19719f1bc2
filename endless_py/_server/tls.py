"""HTTPS: each handler makes its own handshake, so that a silent client makes no other one wait."""

from __future__ import annotations

import http.server as _std
import os
import select
import socket
import sys
import time
from contextlib import suppress

from endless_py._reload import process
from endless_py._reload.settings import from_environment, seconds, set_defaults
from endless_py._sockets.connection import say_address
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from socketserver import BaseRequestHandler
    from typing import Any, Callable, Optional, Sequence, Union

    Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
    Password = Union[str, bytes, bytearray, Callable[[], Union[str, bytes, bytearray]]]
    Host = Union[str, bytes, bytearray]
    Address = Union[tuple[Host, int], tuple[Host, int, int, int]]
    Handlers = Callable[[Any, Any, Any], BaseRequestHandler]


class TLSMixIn:
    """Put to the left of an HTTP server class; speaks TLS on accepted connections.

    The arguments are those of http.server.HTTPSServer from Python 3.14 on. The certificate
    is read before the address is bound: a reload with one that cannot be used fails.

    handshake_timeout   seconds a client has to complete the TLS handshake, None for no limit;
                        default 10
    """

    handshake_timeout: Optional[float] = 10.0

    def __init__(
        self,
        server_address: Address,
        RequestHandlerClass: Handlers,
        bind_and_activate: bool = True,
        *,
        certfile: Path,
        keyfile: Optional[Path] = None,
        password: Optional[Password] = None,
        alpn_protocols: Optional[Sequence[str]] = None,
    ) -> None:
        """Raises OSError (ssl.SSLError is one) for a certificate or key that cannot be used."""
        try:
            import ssl
        except ImportError as error:
            raise RuntimeError("this Python has no ssl module, so it cannot serve HTTPS") from error
        self.ssl = ssl
        self.certfile, self.keyfile, self.password = certfile, keyfile, password
        self.alpn_protocols = ["http/1.1"] if alpn_protocols is None else list(alpn_protocols)
        self.context = self._create_context()
        more = {}
        if hasattr(_std, "HTTPSServer"):
            more = {
                "certfile": certfile,
                "keyfile": keyfile,
                "password": password,
                "alpn_protocols": self.alpn_protocols,
            }
        super().__init__(server_address, RequestHandlerClass, bind_and_activate, **more)  # type: ignore[call-arg]

    def _create_context(self) -> Any:
        context = self.ssl.create_default_context(self.ssl.Purpose.CLIENT_AUTH)
        password = self.password
        if password is None and not (sys.stdin and sys.stdin.isatty()):
            password = ""  # else OpenSSL would wait for somebody to type one
        try:
            context.load_cert_chain(self.certfile, self.keyfile, password)
        except FileNotFoundError as error:  # it does not say which
            paths = [path for path in (self.certfile, self.keyfile) if path is not None]
            error.filename = next((path for path in paths if not os.path.exists(path)), None)
            raise
        context.set_alpn_protocols(self.alpn_protocols)
        return context

    def server_activate(self: Any) -> None:
        """Listen. The listener itself stays plain: accepting must never wait for a client."""
        self.socket.listen(self.request_queue_size)

    def finish_request(self: Any, request: Any, client_address: Any) -> None:
        """Make the handshake, then handle the request on the encrypted connection."""
        connection = self._listener.connections.get(request)
        encrypted = self.context.wrap_socket(
            request, server_side=True, do_handshake_on_connect=False
        )
        if connection is not None:
            connection.transport = encrypted
        try:
            try:
                self._handshake(encrypted)
            except (OSError, ValueError) as error:
                process.current.log(
                    log.DEBUG,
                    "no TLS handshake with %(client)s: %(reason)s; it is closed",
                    "no_handshake",
                    client=say_address(client_address),
                    reason=str(error),
                )
                return
            super().finish_request(encrypted, client_address)  # type: ignore[misc]
            self._say_goodbye(encrypted)
        finally:
            encrypted.close()

    def _handshake(self: Any, encrypted: Any) -> None:
        timeout = encrypted.gettimeout()
        patience = seconds(self, "handshake_timeout")
        deadline = time.monotonic() + patience
        encrypted.settimeout(0.0)
        poll = select.poll()
        while True:
            try:
                encrypted.do_handshake()
                break
            except self.ssl.SSLWantReadError:
                poll.register(encrypted, select.POLLIN)
            except self.ssl.SSLWantWriteError:
                poll.register(encrypted, select.POLLOUT)
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not poll.poll(min(remaining, 86400) * 1000):
                raise TimeoutError(f"not complete within {patience:g} s")
        encrypted.settimeout(timeout)

    @staticmethod
    def _say_goodbye(encrypted: Any) -> None:
        """Tell the client that nothing was cut off, without waiting for its answer."""
        with suppress(OSError, ValueError):
            encrypted.settimeout(0.0)
            encrypted.unwrap()
        with suppress(OSError):
            encrypted.shutdown(socket.SHUT_WR)


set_defaults(TLSMixIn, from_environment())
