"""The `socket` of a server: whatever a class puts there, as long as it is unbound it can adopt."""

from __future__ import annotations

import functools
import socket
from contextlib import suppress

from endless_py._reload import process, settings
from endless_py._reload.keeper import ListenerKeeper
from endless_py._reload.listener import Listener
from endless_py._sockets.keeper import Keeper
from endless_py._sockets.shared import ListenerSocket

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional


class SocketAttribute:
    """The server's socket, wherever it is set and bound: as long as it is unbound it can adopt."""

    def __get__(self, server: Any, owner: Optional[type] = None) -> Any:
        if server is None:
            return self
        try:
            return vars(server)["socket"]
        except KeyError:
            name = type(server).__name__
            raise AttributeError(f"{name!r} object has no attribute 'socket'") from None

    def __set__(self, server: Any, value: Any) -> None:
        before = vars(server).get("socket")
        keeper: Optional[Keeper] = getattr(before, "keeper", None)
        if type(value) is socket.socket and _is_unbound(value):
            listener = server._listener
            listener.binding = None
            keeper = ListenerKeeper(process.current, listener, functools.partial(_bound, listener))
            value = ListenerSocket.wrap(value, keeper)
        elif keeper is not None and not isinstance(value, ListenerSocket):
            keeper.guard(value)
        vars(server)["socket"] = value

    def __delete__(self, server: Any) -> None:
        self.__get__(server)
        del vars(server)["socket"]


def _is_unbound(sock: socket.socket) -> bool:
    try:
        name = sock.getsockname()
    except OSError:
        return False
    return not (name[1] if isinstance(name, tuple) and len(name) > 1 else name)


def _bound(listener: Listener) -> None:
    """A server's socket is bound, and its predecessor has not heard of it yet."""
    server: Any = listener.server
    sock = server.socket
    if sock.family != getattr(socket, "AF_UNIX", None) and sock.type == socket.SOCK_STREAM:
        # Accepted connections inherit it from the listener.
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, settings.of(server).tcp_nodelay)
    if not settings.of(server).ready_on_serve:
        listener.hold()
