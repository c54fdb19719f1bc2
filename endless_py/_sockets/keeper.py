"""What the sockets of one listener have in common: who decides, and what was asked for."""

from __future__ import annotations

import socket
import weakref
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._sockets.listener import Binding, ReceivedListeners

_plain = socket.socket


class Keeper:
    """What the sockets of one listener have in common in this process.

    This one knows of no other process.
    """

    def __init__(self, received: ReceivedListeners) -> None:
        self.received = received
        self.claims = (
            True  # an address in use may be that of a process which hands over to this one
        )
        self.binding: Optional[Binding] = None
        self.looping = False  # a loop of ours accepts, and must never wait in the kernel
        self.shut = False  # the program has shut it down, which another process must not see
        self._options: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self._backlog: Optional[int] = None

    def before_bind(self) -> None:
        """It is going to be bound."""

    def after_bind(self) -> None:
        """It is bound."""

    def closed(self, sock: socket.socket) -> None:
        """One of its sockets was closed."""

    def shared(self) -> bool:
        """Whether another process of ours may have it."""
        return False

    def decides(self) -> bool:
        """Whether what the program asks for is to be done to it now."""
        return True

    @property
    def inherited(self) -> bool:
        binding = self.binding
        return binding is not None and (binding.index is not None or binding.lent is not None)

    def set_option(self, sock: socket.socket, arguments: tuple[Any, ...]) -> None:
        """As setsockopt(); an option that can only be set before bind() keeps its value."""
        if self.binding is None or self.decides():
            try:
                _plain.setsockopt(sock, *arguments)
            except OSError:
                if not self.inherited:
                    raise
        self._options[arguments[:2]] = arguments

    def listen(self, sock: socket.socket, arguments: tuple[int, ...]) -> None:
        listens = self.inherited and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not listens or self.decides():
            _plain.listen(sock, *arguments)
        self._backlog = arguments[0] if arguments else None

    def settle(self, sock: socket.socket) -> None:
        """This process decides from now on: do what was asked for before."""
        for arguments in list(self._options.values()):
            with suppress(OSError):
                _plain.setsockopt(sock, *arguments)
        if self._backlog is not None:
            with suppress(OSError):
                _plain.listen(sock, self._backlog)

    def guard(self, wrapper: socket.socket) -> None:
        """Something (TLS) wraps its socket, and has to keep from shutting it down as well."""
        attributes = getattr(wrapper, "__dict__", None)
        if attributes is not None:
            attributes["keeper"] = self
            attributes["shutdown"] = _Shutdown(self, wrapper)

    def shutdown(self, sock: socket.socket, how: int) -> None:
        """As a socket's method; but another process's clients are let in as before."""
        if not self.shared():
            _plain.shutdown(sock, how)
        self.shut = True


class _Shutdown:
    """Stands before the method of a socket that is no ListenerSocket."""

    def __init__(self, keeper: Keeper, sock: socket.socket) -> None:
        self._keeper, self._socket = keeper, weakref.ref(sock)

    def __call__(self, how: int) -> None:
        sock = self._socket()
        if sock is not None:
            self._keeper.shutdown(sock, how)
