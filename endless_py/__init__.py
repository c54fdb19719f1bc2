"""Python's socket servers, replaceable while they run.

Change one import, and `kill -HUP pid` starts the same command line again, hands it the
listening sockets, and lets the old process finish what it is doing:

    from endless_py.http.server import ThreadingHTTPServer

Every server class is also an attribute of this package.
"""

# What the checkers see comes from the modules' own lists.
# ruff: noqa: F405

from __future__ import annotations

import importlib
import os
import socket
import sys

from endless_py._control.entry import runs_command

if not runs_command():
    # At once: this takes the handoff's variable out of the environment, and notes the command
    # line and the directory before the program can change directory. And what a handler may
    # call is there, should the package be replaced on disk while the program runs.
    from endless_py import _api as _api

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any

    from endless_py import exceptions as exceptions
    from endless_py import health as health
    from endless_py import http as http
    from endless_py import socketserver as socketserver
    from endless_py import wsgiref as wsgiref
    from endless_py import xmlrpc as xmlrpc
    from endless_py._api import *  # noqa: F403
    from endless_py._asgi.by_uvicorn import serve_uvicorn as serve_uvicorn
    from endless_py._asgi.graceful import GracefulASGI as GracefulASGI
    from endless_py._asyncio.serve import serve_asyncio as serve_asyncio
    from endless_py._server.idle import await_message as await_message
    from endless_py._workers.whole import run_workers as run_workers
    from endless_py.exceptions import *  # noqa: F403
    from endless_py.http.server import *  # noqa: F403
    from endless_py.socketserver import *  # noqa: F403
    from endless_py.wsgiref.simple_server import *  # noqa: F403
    from endless_py.xmlrpc.server import *  # noqa: F403

__version__ = "0.1.0"

# What `from endless_py import *` binds; written out, as type checkers read it.
__all__ = [
    "BaseHTTPRequestHandler",
    "BaseRequestHandler",
    "BaseServer",
    "ChannelClosed",
    "ChannelError",
    "DatagramRequestHandler",
    "DocXMLRPCServer",
    "EndlessError",
    "GracefulASGI",
    "GracefulMixIn",
    "HTTPSServer",
    "HTTPServer",
    "HealthError",
    "MultiPathXMLRPCServer",
    "PidFileError",
    "SimpleHTTPRequestHandler",
    "SimpleXMLRPCServer",
    "StreamRequestHandler",
    "TCPServer",
    "ThreadingHTTPSServer",
    "ThreadingHTTPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "ThreadingWSGIServer",
    "UDPServer",
    "UnsupportedPlatform",
    "WSGIServer",
    "after_signal",
    "await_message",
    "before_reload",
    "before_signal",
    "check",
    "drained",
    "generation",
    "is_draining",
    "is_reloaded",
    "listen",
    "make_server",
    "on_drained",
    "on_draining",
    "on_ready",
    "on_worker_exit",
    "on_worker_start",
    "pass_file",
    "passed_file",
    "ready",
    "reload",
    "run_workers",
    "serve_asyncio",
    "serve_uvicorn",
    "set_signals",
    "state",
    "stop",
    "wait_for_predecessor",
]
if hasattr(socket, "AF_UNIX"):
    __all__ += [
        "ThreadingUnixDatagramServer",
        "ThreadingUnixStreamServer",
        "UnixDatagramServer",
        "UnixStreamServer",
    ]
if hasattr(os, "fork"):
    __all__ += [
        "ForkingMixIn",
        "ForkingTCPServer",
        "ForkingUDPServer",
    ]
if hasattr(socket, "AF_UNIX") and hasattr(os, "fork"):
    __all__ += [
        "ForkingUnixDatagramServer",
        "ForkingUnixStreamServer",
    ]
if sys.version_info < (3, 15):
    __all__ += ["CGIHTTPRequestHandler"]

# The module of each of these names, and of the modules that are attributes. It is imported
# when the name is asked for: a program pays for what it uses.
_MODULE_OF = {
    **dict.fromkeys(__all__, "endless_py.socketserver"),
    "after_signal": "endless_py._api",
    "before_reload": "endless_py._api",
    "before_signal": "endless_py._api",
    "check": "endless_py._api",
    "drained": "endless_py._api",
    "generation": "endless_py._api",
    "is_draining": "endless_py._api",
    "is_reloaded": "endless_py._api",
    "listen": "endless_py._api",
    "on_drained": "endless_py._api",
    "on_draining": "endless_py._api",
    "on_ready": "endless_py._api",
    "on_worker_exit": "endless_py._api",
    "on_worker_start": "endless_py._api",
    "pass_file": "endless_py._api",
    "passed_file": "endless_py._api",
    "ready": "endless_py._api",
    "reload": "endless_py._api",
    "set_signals": "endless_py._api",
    "state": "endless_py._api",
    "stop": "endless_py._api",
    "wait_for_predecessor": "endless_py._api",
    "GracefulASGI": "endless_py._asgi.graceful",
    "serve_uvicorn": "endless_py._asgi.by_uvicorn",
    "serve_asyncio": "endless_py._asyncio.serve",
    "await_message": "endless_py._server.idle",
    "run_workers": "endless_py._workers.whole",
    "ChannelClosed": "endless_py.exceptions",
    "ChannelError": "endless_py.exceptions",
    "EndlessError": "endless_py.exceptions",
    "HealthError": "endless_py.exceptions",
    "PidFileError": "endless_py.exceptions",
    "UnsupportedPlatform": "endless_py.exceptions",
    "BaseHTTPRequestHandler": "endless_py.http.server",
    "CGIHTTPRequestHandler": "endless_py.http.server",
    "HTTPSServer": "endless_py.http.server",
    "HTTPServer": "endless_py.http.server",
    "SimpleHTTPRequestHandler": "endless_py.http.server",
    "ThreadingHTTPSServer": "endless_py.http.server",
    "ThreadingHTTPServer": "endless_py.http.server",
    "ThreadingWSGIServer": "endless_py.wsgiref.simple_server",
    "WSGIServer": "endless_py.wsgiref.simple_server",
    "make_server": "endless_py.wsgiref.simple_server",
    "DocXMLRPCServer": "endless_py.xmlrpc.server",
    "MultiPathXMLRPCServer": "endless_py.xmlrpc.server",
    "SimpleXMLRPCServer": "endless_py.xmlrpc.server",
}
_SUBMODULES = {
    "exceptions": "endless_py.exceptions",
    "health": "endless_py.health",
    "http": "endless_py.http.server",
    "socketserver": "endless_py.socketserver",
    "wsgiref": "endless_py.wsgiref.simple_server",
    "xmlrpc": "endless_py.xmlrpc.server",
}


if not TYPE_CHECKING:  # to checkers it would be a module that has every name

    def __getattr__(name: str) -> Any:
        if name in _SUBMODULES:  # endless_py.http.server without an import of its own
            importlib.import_module(_SUBMODULES[name])
            return globals()[name]
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        importlib.import_module("endless_py._api")
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES, *__all__})
