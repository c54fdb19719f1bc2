"""What a handler keeps of its connection: whether another one could go on in its place."""

from __future__ import annotations

import functools
import os
import sys
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

from endless_py._support.remember import remember

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Iterator

# What the standard classes assign for each connection, and for each request.
OF_A_CONNECTION = {"client_address", "connection", "request", "rfile", "server", "wfile"}
OF_A_REQUEST = {
    "cgi_info",
    "close_connection",
    "command",
    "headers",
    "path",
    "raw_requestline",
    "request_version",
    "requestline",
    "_headers_buffer",
    "_request_length",
}
_STANDARD = {"socketserver", "http.server", "wsgiref.simple_server", "xmlrpc.server"}
_IMMUTABLE = (
    *(bool, int, float, complex, str, bytes, type(None), type, os.PathLike),
    *(BuiltinFunctionType, FunctionType, ModuleType),
)

UNKNOWN = object()


class Shared:
    """Something that may change; it may be everybody's."""

    def __init__(self, value: Any) -> None:
        self.value = value


def frozen(value: Any, depth: int = 4) -> Any:
    """Return something that is equal as long as the value has not changed."""
    if isinstance(value, _IMMUTABLE):
        return value
    kind = type(value)
    if depth and kind in (list, tuple, set, frozenset, dict):
        items = value.items() if kind is dict else value
        with suppress(RuntimeError):  # another thread changes it
            return kind, [frozen(item, depth - 1) for item in items]
    return Shared(value)


def is_shared(handler: Any, value: Any) -> bool:
    """Whether it is of the program's or the server's, and not of this handler alone."""
    server = handler.server
    return any(
        value is known
        for holder in (server, sys.modules.get(type(handler).__module__), *type(handler).__mro__)
        for known in list(getattr(holder, "__dict__", {}).values())
    ) or any(value is known for known in _reached(server.RequestHandlerClass))


def _reached(made_by: Any) -> Iterator[Any]:
    """Yield what a class, or whatever else makes handlers, gives to each of them."""
    if isinstance(made_by, functools.partial):
        yield from (*made_by.args, *made_by.keywords.values())
        yield from _reached(made_by.func)
    elif isinstance(made_by, MethodType):
        yield made_by.__self__
        yield from _reached(made_by.__self__)
        yield from _reached(made_by.__func__)
    elif isinstance(made_by, FunctionType):
        yield from made_by.__defaults__ or ()
        yield from (made_by.__kwdefaults__ or {}).values()
        yield from made_by.__globals__.values()
        for cell in made_by.__closure__ or ():
            with suppress(ValueError):  # it is empty
                yield cell.cell_contents
    elif not isinstance(made_by, type):
        yield from getattr(made_by, "__dict__", {}).values()


@remember
def is_standard(handler: Any, name: str) -> bool:
    """Whether a handler class has the standard library's method, or one of ours."""
    for cls in handler.__mro__:
        if name in vars(cls):
            module = cls.__module__
            if module not in _STANDARD and not module.startswith("endless_py._server."):
                return False
    return True


@remember
def of_a_request(handler: type) -> frozenset[str]:
    """Return what the standard classes assign to a handler of this class for each request.

    From Python 3.13 on a class knows what its methods assign, so that nothing that a later version
    adds is taken for something that the program's handler has learnt.
    """
    standard = [cls for cls in handler.__mro__ if cls.__module__ in _STANDARD]
    known = (vars(cls).get("__static_attributes__", ()) for cls in standard)
    return frozenset(OF_A_REQUEST.union(*known))
