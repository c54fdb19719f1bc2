"""Health checks and metrics: for load balancers, Kubernetes and Prometheus.

Three pages tell them how this process is:

/livez      200 as long as it answers at all
/readyz     200, or 503 as soon as it was told to stop, and before it serves; during a reload, when
            one of two generations serves, it is 200
/metrics    what is going on, in Prometheus's text format; what the program itself counts with
            prometheus_client follows, where it has imported that

The server attribute `health = ("127.0.0.1", 9100)` has them answered on a listener of their own,
and so has `--health`. The functions of this module put them into a program's own server instead,
or beside one that is not socketserver's. Whoever reaches the pages can read them: nothing in them
is secret, but /metrics says how busy a server is.
"""

from __future__ import annotations

from endless_py._reload import health as _pages
from endless_py._reload import process as _process
from endless_py._reload import settings as _settings
from endless_py._server import health as _server
from endless_py._server.mixin import GracefulMixIn as _GracefulMixIn

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler
    from typing import Any, Callable, Iterable, Optional, Union

    Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

__all__ = ["answer", "application", "is_ready", "mount", "page", "serve"]


def is_ready() -> bool:
    """Whether load balancers should send clients to this process, as /readyz says it."""
    return not _pages.why_not_ready(_process.current)


def page(path: str) -> Optional[tuple[int, str, bytes]]:
    """Return status, content type and body for one of the three paths; None for another one.

    For frameworks that none of the other functions fits. path is without a query.
    """
    return _pages.page(_process.current, path)


def answer(handler: BaseHTTPRequestHandler) -> bool:
    """Answer a GET or HEAD of one of the three pages; whether the request was one.

    Call it at the start of a handler's `do_GET()`, and of its `do_HEAD()`:

        def do_GET(self):
            if health.answer(self):
                return
    """
    return _server.answer(handler)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The three pages as a WSGI application, to be mounted where one likes; 404 for another path.

    The path is what the mounting has left of it, PATH_INFO.
    """
    return _wsgi(environ, start_response) or _send(
        environ, start_response, (404, _pages.TEXT, b"there are /livez, /readyz and /metrics\n")
    )


def mount(wrapped: Application) -> Application:
    """Return a WSGI application that answers the three pages, and has the rest from `wrapped`."""

    def mounted(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        found = _wsgi(environ, start_response)
        return wrapped(environ, start_response) if found is None else found

    return mounted


def serve(address: Union[tuple[str, int], str, int]) -> Callable[[], None]:
    """Answer the three pages at an address, in a thread; return a function that ends that.

    For programs whose servers are not socketserver's, such as those on `listen()`; others set the
    attribute `health`. Call it when those are bound, before `ready()`. It takes part in reloads as
    they do, and ends with the process. address is (host, port), "HOST:PORT" or a port. Raises
    HealthError when nothing can listen there, ValueError for what is no address.
    """
    return _server.begin(_GracefulMixIn, _settings.parse_address(address), None)


def _wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Optional[list[bytes]]:
    found = page(environ.get("PATH_INFO", ""))
    if found is None or environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
        return None
    return _send(environ, start_response, found)


def _send(
    environ: dict[str, Any], start_response: Callable[..., Any], found: tuple[int, str, bytes]
) -> list[bytes]:
    status, kind, body = found
    words = {200: "OK", 404: "Not Found", 500: "Internal Server Error", 503: "Service Unavailable"}
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    start_response(f"{status} {words[status]}", [*headers, ("Cache-Control", "no-store")])
    return [b""] if environ.get("REQUEST_METHOD") == "HEAD" else [body]
