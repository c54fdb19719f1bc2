"""The servers of a WSGI application: one for each address."""

from __future__ import annotations

import select
import socketserver
import time

from endless_py._wsgi.address import Address
from endless_py._wsgi.handler import Handler, Service
from endless_py.http.server import ThreadingHTTPServer, ThreadingHTTPSServer

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any

_LOOK = 0.05  # seconds between two looks at the accept queue


class WSGIMixIn:
    """What makes a threading HTTP server one of a WSGI application.

    Its handler threads are used again, and there are at most max_handlers of them.
    """

    reuse_threads = True
    daemon_threads = True
    request_queue_size = 2048
    service: Service
    base_environ: dict[str, Any]
    _looked = 0.0
    _crowded = False

    def server_bind(self: Any) -> None:
        # Not http.server's, which asks for the name of the host and may wait for an answer.
        socketserver.TCPServer.server_bind(self)
        address = self.server_address
        host, port = address[:2] if isinstance(address, tuple) else ("localhost", 0)
        self.server_name, self.server_port = host, port

    def serve(self: Any, service: Service, scheme: str) -> None:
        """Say what it serves, once it is bound."""
        self.service = service
        name, port = "localhost", "443" if scheme == "https" else "80"
        address = self.server_address
        if isinstance(address, tuple):
            name, port = str(address[0]), str(address[1])
        self.base_environ = {
            "SCRIPT_NAME": "",
            "SERVER_NAME": name,
            "SERVER_PORT": port,
            "SERVER_SOFTWARE": "endless_py",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scheme,
            "wsgi.multithread": service.multithread,
            "wsgi.multiprocess": service.multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }

    def is_crowded(self: Any) -> bool:
        """Whether clients wait for one of the handlers, which idle connections would keep."""
        listener = self._listener
        parking = listener.parking
        if not listener.full or (parking is not None and parking.for_handlers):
            return False
        now = time.monotonic()
        if now - self._looked > _LOOK:
            self._looked = now
            poll = select.poll()
            poll.register(self.fileno(), select.POLLIN)
            self._crowded = bool(poll.poll(0))
        return bool(self._crowded)


class WSGIServer(WSGIMixIn, ThreadingHTTPServer):
    """One address, in the clear."""


class WSGITLSServer(WSGIMixIn, ThreadingHTTPSServer):
    """One address, with TLS."""


def make_server(address: Address, settings: dict[str, Any], tls: dict[str, Any]) -> Any:
    """Return a bound server; settings are attributes of its class.

    Raises OSError, ValueError, PidFileError.
    """
    family, where = address.resolve()
    base: Any = WSGITLSServer if tls else WSGIServer
    kind = type(base.__name__, (base,), {**settings, "address_family": family})
    return kind(where, Handler, **tls)
