"""The listener for health checks: a small HTTP server in a thread, beside those of the program.

It takes part in a reload as they do. Its client is told the end of the connection with each
answer, so that nothing of it drains.
"""

from __future__ import annotations

import http.server
import socket
import socketserver
import threading

from endless_py._reload import health, process, settings
from endless_py.exceptions import HealthError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable

_TIMEOUT = 10.0  # seconds that a client may take for its request
_MOST = 16  # clients at a time


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the three pages, and nothing else."""

    timeout = _TIMEOUT
    server_version, sys_version = "endless_py", ""

    def do_GET(self) -> None:
        if not answer(self):
            send(self, (404, health.TEXT, b"there are /livez, /readyz and /metrics\n"))

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def answer(handler: Any) -> bool:
    """Whether the request was for one of the three pages, which is sent."""
    if handler.command not in ("GET", "HEAD"):
        return False
    found = health.page(process.current, handler.path.partition("?")[0])
    if found is None:
        return False
    send(handler, found)
    return True


def send(handler: Any, page: health.Page) -> None:
    status, kind, body = page
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.send_header("Cache-Control", "no-store")
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def begin(base: type, address: tuple[str, int], owner: Any) -> Callable[[], None]:
    """Serve the pages at this address in a thread; return what ends that.

    base is GracefulMixIn, and owner what has the settings of the program's server. Raises
    HealthError where nothing can listen there.
    """
    own = {
        "allow_reuse_address": True,
        "address_family": socket.AF_INET6 if ":" in address[0] else socket.AF_INET,
        "daemon_threads": True,
        "server_bind": _bind,
        **{name: getattr(owner, name) for name in settings.NAMES if hasattr(owner, name)},
        "health": None,
        "handler_warn_after": None,
        "max_handlers": _MOST,
        "max_requests": None,
        "max_rss": None,
        "ready_on_serve": True,
        "reuse_threads": False,
        "workers": 1,
    }
    kind: Any = type("HealthServer", (base, http.server.ThreadingHTTPServer), own)
    try:
        server = kind(address, Handler)
    except OSError as error:
        where = f"{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"
        raise HealthError(f"cannot answer health checks on {where}: {error}") from None
    server._listener.beside = True
    thread = threading.Thread(target=server.serve_forever, name="endless_py health", daemon=True)
    thread.start()

    def end() -> None:
        # A drained one returns by itself, and its socket stays for a predecessor to be resumed.
        if not process.current.released:
            server.shutdown()
            thread.join()
            server.server_close()

    return end


def _bind(server: Any) -> None:
    """Without HTTPServer's look for a name, which may take long."""
    server.socket.keeper.claims = False  # the program's own were bound before
    socketserver.TCPServer.server_bind(server)
    server.server_name, server.server_port = server.server_address[:2]
