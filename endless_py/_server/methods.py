"""Which of a server's methods are the standard library's own, and so known never to wait.

They are looked for where Python looks for them: on the object first.
"""

from __future__ import annotations

import socketserver

from endless_py._server import forking

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any

_BASE = socketserver.BaseServer.service_actions
_ACTIONS = (_BASE, getattr(forking.StdForkingMixIn, "service_actions", _BASE))


def is_method(server: Any, name: str, method: Any) -> bool:
    """Whether this is what a call of the server's method calls."""
    return getattr(getattr(server, name, None), "__func__", None) is method


def acts(server: Any) -> bool:
    """Whether the program has a service_actions() of its own."""
    method = getattr(getattr(server, "service_actions", None), "__func__", None)
    return method not in _ACTIONS


def verifies(server: Any) -> bool:
    """Whether the program has a verify_request() of its own."""
    return not is_method(server, "verify_request", socketserver.BaseServer.verify_request)


def starts_threads(server: Any) -> bool:
    """Whether each request gets a thread, and the program has no say in that."""
    return is_method(server, "process_request", socketserver.ThreadingMixIn.process_request)


def serves_as_standard(server: Any) -> bool:
    """Whether the program has no say in how a thread serves a connection and lets go of it."""
    methods = ("process_request_thread", "finish_request", "shutdown_request", "close_request")
    return _are_standard(server, methods)


def closes_nothing(server: Any) -> bool:
    """Whether the end of a request is nothing but that: a datagram's, of which the program's
    classes know nothing.
    """
    udp = isinstance(server, socketserver.UDPServer)
    return udp and _are_standard(server, ("shutdown_request", "close_request"))


def _are_standard(server: Any, names: tuple[str, ...]) -> bool:
    """Whether each definition of these methods, the ones that others call included, is the standard
    library's or ours.
    """
    places = [vars(server), *map(vars, type(server).__mro__)]
    found = [place[name] for place in places for name in names if name in place]
    modules = [str(getattr(method, "__module__", "")) for method in found]
    return all(m == "socketserver" or m.startswith("endless_py._server.") for m in modules)


def handles_inline(server: Any) -> bool:
    """Whether a request is over when process_request() returns."""
    return is_method(server, "process_request", socketserver.BaseServer.process_request)
