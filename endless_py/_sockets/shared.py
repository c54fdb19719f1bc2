"""A listener's socket: it adopts, and what is done to it stops no other process that has it too.

Two generations have the same socket during a reload, not two copies. So what the program asks for
is done to the socket itself only by whoever is to decide, and its time-out is kept here: the
kernel has one flag for all.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import sys
import threading
import time
from contextlib import suppress

from endless_py._sockets.keeper import Keeper
from endless_py._sockets.listener import (
    Binding,
    ReceivedListeners,
    as_text,
    inode_of,
    unlink_if_stale,
)

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

_plain = socket.socket
DONTWAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
_ACCEPT_COPIES_O_NONBLOCK = not sys.platform.startswith("linux")


class ListenerSocket(socket.socket):
    """A socket whose bind() adopts the predecessor's listener when one has that address.

    Every class's own server_bind() can so run as it is.
    """

    keeper: Optional[Keeper] = None
    receiver: Optional[int] = None  # the thread of a loop of ours, while it gets a request
    _what: Optional[tuple[int, int, int]] = None
    _timeout: Optional[float] = None

    @classmethod
    def wrap(cls, plain: socket.socket, keeper: Keeper) -> ListenerSocket:
        """Turn an unbound socket into a listener, keeping its descriptor and options."""
        timeout = plain.gettimeout()
        what = plain.family, plain.type, plain.proto
        listener = cls(*what, fileno=plain.detach())
        listener.keeper, listener._what = keeper, what
        listener.settimeout(timeout)
        return listener

    @classmethod
    def rebuilt(cls, duplicate: Any, what: tuple[int, int, int]) -> ListenerSocket:
        """In a worker process that was sent one."""
        listener = cls(*what, fileno=duplicate.detach())
        listener.keeper, listener._what = Keeper(ReceivedListeners()), what
        listener.keeper.looping = True  # the process that has sent it may accept as well
        _plain.settimeout(listener, 0.0)
        return listener

    def dup(self, cls: Any = None) -> Any:
        what = self._what or (self.family, self.type, self.proto)
        other = (cls or ListenerSocket)(*what, fileno=os.dup(self.fileno()))
        other.keeper, other._what, other._timeout = self.keeper, what, self._timeout
        return other

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As what multiprocessing does with sockets, which looks for their very class."""
        reduction: Any = sys.modules.get("multiprocessing.reduction")
        if reduction is None:
            return super().__reduce_ex__(protocol)
        what = self._what or (self.family, self.type, self.proto)
        return ListenerSocket.rebuilt, (reduction.DupFd(self.fileno()), tuple(map(int, what)))

    @property
    def binding(self) -> Optional[Binding]:
        return None if self.keeper is None else self.keeper.binding

    # -- bind -------------------------------------------------------------

    def bind(self, address: Any, /) -> None:
        keeper = self.keeper
        if keeper is None or keeper.binding is not None:
            super().bind(address)
            return
        keeper.before_bind()
        keeper.binding = self._bind(address, keeper.received, keeper.claims)
        keeper.after_bind()

    def _bind(self, address: Any, received: ReceivedListeners, claims: bool) -> Binding:
        adopted = received.adopt(self.family, self.type, address)
        if adopted is not None:
            binding, descriptor = adopted
            os.dup2(descriptor, self.fileno(), inheritable=False)
            os.close(descriptor)
            binding.requested = as_text(address)
            if self._is_stream:
                _plain.settimeout(self, 0.0)
            return binding
        is_path = self.family == getattr(socket, "AF_UNIX", None) and not (
            os.fsencode(address).startswith(b"\0")
        )
        try:
            if is_path:
                self._remove_stale(address)
            super().bind(address)
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            if not (in_use and claims) or not received.claim(self.family, self.type, address):
                raise
            return self._bind(address, received, False)
        binding = Binding(self.family, self.type, self.getsockname(), address)
        binding.inode = inode_of(address) if is_path else None
        return binding

    def _remove_stale(self, path: Any) -> None:
        try:
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                return
        except OSError:
            return
        if not unlink_if_stale(path, self.type):
            raise OSError(
                errno.EADDRINUSE, "Address already in use: another process answers on it", str(path)
            )

    # -- what others would see --------------------------------------------

    def setsockopt(self, *arguments: Any) -> None:
        if self.keeper is None:
            super().setsockopt(*arguments)
        else:
            self.keeper.set_option(self, arguments)

    def listen(self, *arguments: int) -> None:
        if self.keeper is None:
            super().listen(*arguments)
        else:
            self.keeper.listen(self, arguments)

    def shutdown(self, how: int) -> None:
        if self.keeper is None:
            super().shutdown(how)
        else:
            self.keeper.shutdown(self, how)

    def close(self) -> None:
        super().close()
        if self.keeper is not None:
            self.keeper.closed(self)

    # -- waiting ----------------------------------------------------------

    def begin_loop(self) -> None:
        """A loop of ours accepts from now on: no accept of this process waits in the kernel."""
        if self.keeper is not None and self._is_stream:
            self.keeper.looping = True
            _plain.settimeout(self, 0.0)

    def end_loop(self) -> None:
        if self.keeper is not None and self._is_stream:
            self.keeper.looping = False
            with suppress(OSError):  # it may be closed
                self.settimeout(self._timeout)

    @property
    def _is_stream(self) -> bool:
        what = self._what
        return (self.type if what is None else what[1]) == socket.SOCK_STREAM

    def settimeout(self, value: Optional[float]) -> None:
        keeper = self.keeper
        if self._is_stream and keeper is not None and (keeper.looping or keeper.shared()):
            value = None if value is None else value + 0.0
            if value is not None and value < 0:
                raise ValueError("Timeout value out of range")
            super().settimeout(0.0)  # nobody clears the flag that another one's loop relies on
        else:
            super().settimeout(value)
            value = super().gettimeout()
        self._timeout = value

    def setblocking(self, flag: bool) -> None:
        self.settimeout(None if flag else 0.0)

    def gettimeout(self) -> Optional[float]:
        return self._timeout

    def getblocking(self) -> bool:
        return self._timeout != 0

    @property
    def timeout(self) -> Optional[float]:
        return self._timeout

    def take(self) -> tuple[socket.socket, Any]:
        """Accept without waiting, as far as it depends on this process."""
        descriptor, address = self._accept()  # type: ignore[attr-defined]
        # As socket.accept(), which looks up what the family and the type are called each time.
        what = self._what or (self.family, self.type, self.proto)
        connection = socket.socket(*what, fileno=descriptor)
        if _ACCEPT_COPIES_O_NONBLOCK:
            connection.settimeout(socket.getdefaulttimeout())
        return connection, address

    def accept(self) -> tuple[socket.socket, Any]:
        """As socket's; the call of a server's own get_request() in our loop never waits."""
        if self.receiver == threading.get_ident():
            return self.take()
        timeout = self._timeout
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            if self.keeper is not None and self.keeper.shut:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            try:
                return self.take()
            except BlockingIOError:  # the kernel's flag is set for another's sake
                if timeout == 0:
                    raise
                self._wait(select.POLLIN, until)

    def _wait(self, events: int, until: Optional[float]) -> None:
        poll = select.poll()
        poll.register(self.fileno(), events)
        left = None if until is None else max(0.0, until - time.monotonic()) * 1000
        if not poll.poll(left):
            raise socket.timeout("timed out")

    # -- datagrams --------------------------------------------------------

    def receive(self, size: int) -> tuple[bytes, Any]:
        """Receive a datagram without ever waiting.

        O_NONBLOCK would make a handler's sendto() on the same socket fail when a
        queue is full, so the single call is told not to wait.
        """
        return _plain.recvfrom(self, size, DONTWAIT)

    def recvfrom(self, *arguments: Any) -> tuple[bytes, Any]:
        """As socket's; the call of a server's own get_request() never waits."""
        if self.receiver == threading.get_ident() and len(arguments) == 1:
            return self.receive(arguments[0])
        return super().recvfrom(*arguments)

    def sendto(self, *arguments: Any) -> int:
        """As socket's, whatever flag another generation has set."""
        try:
            return _plain.sendto(self, *arguments)
        except BlockingIOError:
            return self._send_late(arguments)

    def _send_late(self, arguments: tuple[Any, ...]) -> int:
        timeout = self._timeout
        if timeout == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            self._wait(select.POLLOUT, until)
            with suppress(BlockingIOError):
                return super().sendto(*arguments)
