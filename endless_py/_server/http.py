"""HTTP's notion of an idle connection, and of telling a client that it ends.

The message boundaries of a BaseHTTPRequestHandler are before each request. The class stays as the
program made it: while a handler of one of our servers runs, a few of its methods have ours before
them, in the handler itself, wherever it was made.
"""

from __future__ import annotations

import functools
import re
import socketserver
import sys
import time
from types import FunctionType

from endless_py._reload.listener import Listener
from endless_py._server import framing, head, kept, stream
from endless_py._server import idle as boundary
from endless_py._support.remember import remember

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

_MADE_WHEN_ASKED_FOR = {"_headers_buffer", "_default_response_headers"}
# A head that says what becomes of the connection, or is an interim one: 100 Continue.
_SAID = re.compile(rb"connection:|HTTP/[^ ]+ 1[0-9][0-9] ", re.I)


def _defined(cls: type, name: str) -> Any:
    """Return what the class or one of its bases has under this name, as it stands there."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


@remember
def _is_method(cls: Any, name: str, found: Any) -> bool:
    """Whether what a class gives under this name is a plain function of it, no static method."""
    return _defined(cls, name) is found


class Hooks:
    """What stands before methods of one handler as long as it runs."""

    names: tuple[str, ...] = ("setup",)

    def __init__(self, handler: Any, place: boundary.Boundary) -> None:
        self.handler = handler
        self.place = place
        self._attributes: dict[str, Any] = vars(handler)
        self._replaced: dict[str, Any] = {}
        self._attributes[boundary.NAME] = place
        self._attributes.setdefault("migrating", False)
        for name in self.names:  # each of these before the handler's method
            if name in self._attributes:
                self._replaced[name] = self._attributes[name]
            self._attributes[name] = getattr(self, name)

    def theirs(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        """Call the handler's method, looked for at this moment: a program may change its class."""
        method: Any = self._replaced.get(name)
        if method is not None:
            return method(*arguments, **keywords)
        handler = self.handler
        cls: Any = type(handler)
        found = getattr(cls, name, None)
        if type(found) is FunctionType and _is_method(cls, name, found):
            return found(handler, *arguments, **keywords)
        method = _defined(cls, name)
        if hasattr(method, "__get__"):
            method = method.__get__(handler, cls)
        return method(*arguments, **keywords)

    def remove(self) -> None:
        """Leave the handler as it was, so that it goes as soon as nobody refers to it."""
        for name in self.names:
            if getattr(self._attributes.get(name), "__self__", None) is self:
                del self._attributes[name]
                if name in self._replaced:
                    self._attributes[name] = self._replaced[name]
        self._attributes.pop(boundary.NAME, None)
        self.place.is_stateless = self.place.may_park = None

    def setup(self: Any, *arguments: Any, **keywords: Any) -> None:
        self.theirs("setup", *arguments, **keywords)
        restore = stream.own(self.handler, "restore_state")
        if restore is not None and self.place.arrived_with is not None:
            restore(self.place.arrived_with)


class HTTPHooks(Hooks):
    """What stands before the methods of a BaseHTTPRequestHandler."""

    names = ("setup", "handle_one_request", "parse_request", "end_headers", "date_time_string")

    def __init__(self, handler: Any, place: boundary.Boundary) -> None:
        self._ends = False  # this request is the last one of its connection
        self._own = {"setup", "handle", "finish"} & vars(handler).keys()
        self._assigned: dict[str, Any] = {}  # by __init__() and setup()
        super().__init__(handler, place)
        place.is_stateless = self.is_stateless
        place.may_park = self.may_park
        place.reads_ahead = place.arrived_with is None
        place.count.alone = 0
        if hasattr(type(handler), "__getattr__"):
            # It may answer to every name, so that http.server's hasattr() makes no list.
            for name in _MADE_WHEN_ASKED_FOR & kept.of_a_request(handler.__class__):
                self._attributes.setdefault(name, [])

    def setup(self: Any, *arguments: Any, **keywords: Any) -> None:
        super().setup(*arguments, **keywords)
        if self._attributes.keys() <= _KNOWN:  # the usual case, and a quick look
            return
        self._assigned = {
            name: kept.frozen(value)
            for name, value in self._attributes.items()
            if name not in kept.OF_A_CONNECTION and not self._is_ours(name, value)
        }

    def handle_one_request(self: Any, *arguments: Any, **keywords: Any) -> None:
        self._ends = False
        try:
            if not self.place.wait(self.handler):
                self.handler.close_connection = True
                return
        except OSError as error:  # for the handler, where it reads
            with stream.reading_raises(self.handler, error):
                self.theirs("handle_one_request", *arguments, **keywords)
        else:
            self.theirs("handle_one_request", *arguments, **keywords)
        if self._ends:
            self.handler.close_connection = True

    def is_stateless(self: Any) -> bool:
        """Whether another handler of this class would serve the next request alike.

        Not one whose class reads something before the first request, or that has learnt
        something since: a proxy's line about the client, a login. What all handlers share is
        not its own. `migrates = True` on the class says that it may be replaced all the same,
        and save_state() that it takes care.
        """
        handler = self.handler
        cls: Any = type(handler)
        if stream.own(handler, "save_state") is not None:
            return True
        if self._own or not (kept.is_standard(cls, "setup") and kept.is_standard(cls, "handle")):
            return False
        if handler.client_address != self.place.client_address:
            return False
        of_a_request: frozenset[str] = kept.of_a_request(cls)
        return all(
            name in kept.OF_A_CONNECTION
            or name in kept.OF_A_REQUEST
            or (name in of_a_request and name not in self._assigned)
            or self._is_ours(name, value)
            or self._is_as_before(name, value)
            for name, value in list(self._attributes.items())
        )

    def may_park(self: Any) -> bool:
        """Whether nothing of the program's begins or ends with each handler of a connection."""
        cls: Any = type(self.handler)
        return (
            not self._own
            and stream.own(self.handler, "save_state") is None
            and all(kept.is_standard(cls, name) for name in ("setup", "handle", "finish"))
        )

    def _is_ours(self: Any, name: str, value: Any) -> bool:
        ours: bool = getattr(value, "__self__", None) is self
        return ours or name in (boundary.NAME, "migrating")

    def _is_as_before(self: Any, name: str, value: Any) -> bool:
        """Whether an attribute is what it was before the first request."""
        before = self._assigned.get(name, kept.UNKNOWN)
        if before is kept.UNKNOWN:
            return False
        if isinstance(before, kept.Shared):
            return before.value is value and kept.is_shared(self.handler, value)
        return bool(before == kept.frozen(value))

    # -- where the request ends -------------------------------------------

    def parse_request(self: Any, *arguments: Any, **keywords: Any) -> bool:
        """As the class's; where it is not clear where a request ends, its connection does.

        The answer is the class's all the same.
        """
        handler = self.handler
        count = self.place.count
        count.requests += 1
        count.line = handler.raw_requestline
        if not arguments and not keywords and self._is_standard("parse_request"):
            names = head.parse(handler)
            if names is not None:
                if not names.isdisjoint(head.FRAMING) and not handler.close_connection:
                    self._ends = not self._has_clear_body()
                return True
        parse: Callable[[], bool] = functools.partial(
            self.theirs, "parse_request", *arguments, **keywords
        )
        strict = stream.own(handler, "_checks_framing", False)
        if handler.protocol_version < "HTTP/1.1" or strict:
            return parse()
        parsed, lines = framing.parse_request(handler, parse)
        if not handler.close_connection and not self._is_clear(lines):
            self._ends = True
        return parsed

    def _is_standard(self: Any, name: str) -> bool:
        """Whether it is http.server's own method that is called next."""
        found = getattr(type(self.handler), name, None)
        return name not in self._replaced and head.is_standard(found)

    def _is_clear(self: Any, lines: bytes) -> bool:
        try:
            framing.check_head(self.handler.raw_requestline, lines)
        except framing.FramingError:
            return False
        return bool(self._has_clear_body())

    def _has_clear_body(self: Any) -> bool:
        handler = self.handler
        try:
            length = framing.body_length(handler.headers, handler.request_version)
        except framing.FramingError:
            return False
        return length == 0 or not self._leaves_bodies()

    def _leaves_bodies(self: Any) -> bool:
        """Whether it is one of http.server's own methods that answers, which read no body."""
        command = self.handler.command
        method = getattr(type(self.handler), f"do_{command}", None)
        return getattr(method, "__module__", None) == "http.server" and command != "POST"

    # -- what the client is told ------------------------------------------

    def date_time_string(self: Any, *arguments: Any, **keywords: Any) -> Any:
        """As http.server's, which is made once a second; a program may have one of its own."""
        if arguments or keywords or not self._is_standard("date_time_string"):
            return self.theirs("date_time_string", *arguments, **keywords)
        listener, now = self.place.listener, int(time.time())
        second, text = listener.date
        if second != now:
            text = self.theirs("date_time_string")
            listener.date = now, text
        return text

    def end_headers(self: Any, *arguments: Any, **keywords: Any) -> None:
        place = self.place
        if self._ends or place.draining():
            lines = stream.own(self.handler, "_headers_buffer") or ()
            said = any(_SAID.match(line) for line in lines)
            if not said and (self._ends or not place.can_migrate(self.handler)):
                self.handler.send_header("Connection", "close")
        self.theirs("end_headers", *arguments, **keywords)


_KNOWN = kept.OF_A_CONNECTION | set(HTTPHooks.names) | {boundary.NAME, "migrating"}


# -- wherever a handler is made -----------------------------------------------

_init = socketserver.BaseRequestHandler.__init__
_Stream = socketserver.StreamRequestHandler


def _hooks(handler: Any, request: Any, server: Any) -> Optional[Hooks]:
    """Put the hooks into a new handler of one of our servers; None where it needs none."""
    try:  # not get(): it takes the dict's lock where there is no GIL, and every handler would
        listener = vars(server)["_listener"]
    except (KeyError, TypeError):
        return None
    if not isinstance(listener, Listener):
        return None
    try:  # it takes long to import; whoever has a handler class of its own has done that
        http: Any = sys.modules["http.server"]
        is_of_http = isinstance(handler, http.BaseHTTPRequestHandler)
    except KeyError:
        is_of_http = False
    if not is_of_http:
        connection = listener.connections.get(request)
        if connection is None or connection.arrived_with is None:
            vars(handler).setdefault("migrating", False)
            return None  # there is nothing to restore
    kind = HTTPHooks if is_of_http else Hooks
    return kind(handler, boundary.Boundary(listener, request))


@functools.wraps(_init)
def _init_with_hooks(
    self: Any, request: Any, client_address: Any, server: Any, *arguments: Any, **keywords: Any
) -> None:
    # Most of what is no stream is a datagram, which wants little time.
    hooks = _hooks(self, request, server) if isinstance(self, _Stream) else None
    if hooks is None:
        _init(self, request, client_address, server, *arguments, **keywords)
        return
    try:
        _init(self, request, client_address, server, *arguments, **keywords)
    finally:
        hooks.remove()


# The one place through which every handler goes, whatever the server calls to have it made. It is
# the only thing of the standard library that is changed; other servers' handlers see no difference.
socketserver.BaseRequestHandler.__init__ = _init_with_hooks  # type: ignore[method-assign]
