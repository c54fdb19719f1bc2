"""The standard library's server classes, and all that derive from them, made replaceable.

A server is made an instance of a class that has GracefulMixIn to the left of its own, wherever
that one was defined and whoever makes it: socketserver.BaseServer is the one class through which
all of them are made. Nothing in the program's classes changes, nor in the standard library's, but
for how an instance of them comes to be; so methods that call each other by the class's name, bases
bound as default arguments and isinstance() hold.
"""

from __future__ import annotations

import functools
import socketserver
import types

from endless_py._reload import process
from endless_py._server import forking
from endless_py._server.mixin import GracefulMixIn
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any


class Grafted(GracefulMixIn):
    """What is put to the left of a class that its author did not write for this package."""

    # Its attributes may have the names of settings, or ones that look misspelt, and mean others.
    _settings = GracefulMixIn

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Not the program's, which counts its own subclasses."""
        forking.collect_own(cls)


@functools.cache
def graceful(kind: Any) -> Any:
    """Return the class that stands for a server class; itself where it is one of ours.

    It has the same name, and says that it is the other one where it is asked for its class: what
    a program sets on `self.__class__` is set where it looks for it.
    """
    if issubclass(kind, GracefulMixIn):
        return kind
    names = ("__module__", "__qualname__", "__doc__")
    namespace = {name: getattr(kind, name) for name in names}
    namespace["__class__"] = property(lambda _: kind)
    bases = Grafted, kind
    try:
        return types.new_class(kind.__name__, bases, {}, lambda own: own.update(namespace))
    except Exception as error:  # a metaclass may object to anything
        process.current.log(
            log.WARNING,
            "servers of %(server)s cannot be made replaceable: %(reason)s",
            "not_replaceable",
            server=f"{kind.__module__}.{kind.__qualname__}",
            reason=str(error),
        )
        return kind


def _new(cls: Any, *arguments: Any, **keywords: Any) -> Any:
    return object.__new__(graceful(cls))


def graft() -> None:
    """From now on every server that is made is replaceable."""
    socketserver.BaseServer.__new__ = _new  # type: ignore[method-assign]
