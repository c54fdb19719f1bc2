"""Python's socket servers, replaceable while they run.

Change one import, and `kill -HUP pid` starts the same command line again, hands it the
listening sockets, and lets the old process finish what it is doing:

    from endless_py.http.server import ThreadingHTTPServer

Every server class is also an attribute of this package.
"""

from __future__ import annotations

import importlib
import sys

from endless_py import socketserver
from endless_py._api import (
    after_signal,
    before_reload,
    before_signal,
    check,
    drained,
    generation,
    is_reloaded,
    listen,
    on_drained,
    on_draining,
    on_ready,
    pass_file,
    passed_file,
    ready,
    reload,
    set_signals,
    state,
    stop,
    wait_for_predecessor,
)
from endless_py._server.idle import await_message
from endless_py._server.mixin import GracefulMixIn
from endless_py.exceptions import (
    ChannelClosed,
    ChannelError,
    EndlessError,
    PidFileError,
    UnsupportedPlatform,
)
from endless_py.socketserver import *  # noqa: F403
from endless_py.socketserver import __all__ as _socketserver_names

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any

    from endless_py import http as http
    from endless_py.http.server import *  # noqa: F403

__version__ = "0.1.0"

__all__ = [
    "ChannelClosed",
    "ChannelError",
    "EndlessError",
    "GracefulMixIn",
    "PidFileError",
    "UnsupportedPlatform",
    "after_signal",
    "await_message",
    "before_reload",
    "before_signal",
    "check",
    "drained",
    "generation",
    "is_reloaded",
    "listen",
    "on_drained",
    "on_draining",
    "on_ready",
    "pass_file",
    "passed_file",
    "ready",
    "reload",
    "set_signals",
    "socketserver",
    "state",
    "stop",
    "wait_for_predecessor",
]
__all__ += [name for name in _socketserver_names if name not in __all__]

# What costs time to import is imported when it is asked for.
_LATE = {
    "BaseHTTPRequestHandler": "endless_py.http.server",
    "HTTPSServer": "endless_py.http.server",
    "HTTPServer": "endless_py.http.server",
    "SimpleHTTPRequestHandler": "endless_py.http.server",
    "ThreadingHTTPSServer": "endless_py.http.server",
    "ThreadingHTTPServer": "endless_py.http.server",
    "DocXMLRPCServer": "endless_py.xmlrpc.server",
    "MultiPathXMLRPCServer": "endless_py.xmlrpc.server",
    "SimpleXMLRPCServer": "endless_py.xmlrpc.server",
    "ThreadingWSGIServer": "endless_py.wsgiref.simple_server",
    "WSGIServer": "endless_py.wsgiref.simple_server",
    "make_server": "endless_py.wsgiref.simple_server",
}
if sys.version_info < (3, 15):
    _LATE["CGIHTTPRequestHandler"] = "endless_py.http.server"
__all__ += ["http", *_LATE]


def __getattr__(name: str) -> Any:
    if name == "http":  # endless_py.http.server without an import of its own
        importlib.import_module("endless_py.http.server")
        return globals()[name]
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), "http", *_LATE})
