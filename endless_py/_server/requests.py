"""The requests of one server: accepted or received, counted, and given to a handler."""

from __future__ import annotations

import errno
import socket
import socketserver
import time
from contextlib import suppress

from endless_py._reload import process
from endless_py._reload.drain import HandlerCut
from endless_py._server import forking
from endless_py._sockets.connection import Connection, say_address
from endless_py._sockets.listener import ListenerSocket
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from endless_py._server.threads import HandlerThreads

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NO_ROOM_PAUSE = 0.1  # seconds without accepting when there is no descriptor left
_ACCEPTS_PER_TURN = 16  # a signal is looked for in between
_ARRIVALS_PER_TURN = 16  # accepting goes on between as many migrated connections
_PLAIN_REQUESTS = (socketserver.TCPServer.get_request, socketserver.UDPServer.get_request)
_PLAIN_METHODS = {
    "verify_request": socketserver.BaseServer.verify_request,
    "process_request": socketserver.ThreadingMixIn.process_request,
}
PLAIN_ACTIONS = (
    socketserver.BaseServer.service_actions,
    getattr(forking.StdForkingMixIn, "service_actions", None),
)


class Requests:
    """What a loop does with its listener once there is something to take."""

    def __init__(self, server: Any, once: bool) -> None:
        self._server = server
        self._listener = server._listener
        self._once = once
        actions = getattr(type(server), "service_actions", None)
        self._most = 1
        self._get_request: Optional[Callable[[], tuple[Any, Any]]] = None
        if isinstance(server.socket, ListenerSocket):  # any other one might wait
            get_request = getattr(server.get_request, "__func__", None)
            if get_request is socketserver.UDPServer.get_request:
                self._get_request = self._get_datagram
            elif get_request is not socketserver.TCPServer.get_request:
                self._get_request = self._get_by_override
            # A class that counts its turns gets one request in each.
            if get_request in _PLAIN_REQUESTS and actions is PLAIN_ACTIONS[0] and not once:
                self._most = _ACCEPTS_PER_TURN
        self._forks = forking.is_forking(server)
        self._threads = isinstance(server, socketserver.ThreadingMixIn) and not self._forks
        self._process: Callable[[Any, Any, Any], None] = self._process_inline
        if self._forks:
            self._process = forking.fork
        elif self._threads:
            self._process = _process_request
        plain = all(getattr(type(server), name, None) is m for name, m in _PLAIN_METHODS.items())
        self._reused: Optional[HandlerThreads] = None
        if server.reuse_threads and self._threads and not once:
            self._reused = self._reuse_threads()
        self._listener.steady = plain and self._threads and self._most > 1
        self._busy = False  # an inline handler has run in this turn

    def begin(self) -> None:
        """The loop begins."""
        if self._reused is not None:
            self._reused.begin()

    def end(self) -> None:
        """The loop ends."""
        if self._reused is not None:
            self._reused.end()

    def end_of_turn(self) -> None:
        """Where a handler has run in the loop, the loop can drive the process again."""
        if self._busy:
            self._busy = False
            process.current.driver.free(self._listener)

    def _reuse_threads(self) -> Optional[HandlerThreads]:
        """Have connections served by threads that have served others before, where that works."""
        from endless_py._server.threads import HandlerThreads  # late: few servers want it

        if type(self._server).process_request is not socketserver.ThreadingMixIn.process_request:
            process.current.log(
                log.WARNING,
                f"{self._listener} starts a thread for each connection in spite of reuse_threads: "
                "its class has a process_request() of its own",
            )
            return None
        reused = HandlerThreads(self._server)
        self._process = reused.process
        return reused

    def has_room(self) -> bool:
        """Whether one more may be accepted now."""
        listener = self._listener
        paused_until = listener.paused_until  # read once: the end of a handler takes it away
        if paused_until is not None:
            if time.monotonic() < paused_until:
                return False
            listener.paused_until = None
        if self._forks:
            most: int = self._server.max_children
            return len(self._server.active_children or ()) < most
        return self._has_handler()

    def _has_handler(self) -> bool:
        """Whether max_handlers allows one more."""
        most = self._server.max_handlers
        if most is None or not self._threads:
            return True
        listener = self._listener
        # Set before the look: a handler that ends after it finds it set, and wakes the loop.
        listener.full = True
        if len(listener.connections) < most:
            listener.full = False
        return not listener.full

    def accept(self) -> bool:
        """Take some requests; whether this server accepts."""
        current, server, listener = process.current, self._server, self._listener
        most = self._most
        listener.in_accept = True
        try:
            # Looked at after in_accept is set: whoever forbids accepting looks the other way.
            if not listener.accepting:
                return False
            while self._handle_one():
                most -= 1
                if (
                    most <= 0
                    or not listener.accepting
                    or not (server.max_handlers is None or self._has_handler())
                    or current.left_orders
                    or not current.machine.at_peace
                    or listener.shutdown_requested
                ):
                    break
            return True
        finally:
            listener.in_accept = False
            if not listener.accepting:
                current.wake()

    def serve_queue(self) -> None:
        """Serve what clients were already promised a place for, then close the listener.

        Where the handlers are bounded it is called again when one has ended.
        """
        listener = self._listener
        listener.in_accept = served = True
        try:
            while self._has_handler():
                if not self._handle_one():
                    with suppress(OSError):
                        self._server.socket.close()
                    return
            served = False
        finally:
            listener.in_accept = False
            if served:
                listener.move("queue served")
                process.current.wake()

    def serve_arrivals(self) -> bool:
        """Serve connections that came without an accept; whether there was one."""
        listener = self._listener
        listener.in_accept = True
        try:
            for served in range(1 if self._once else _ARRIVALS_PER_TURN):
                if not listener.arrivals:
                    return served > 0
                arrived = listener.arrivals.popleft()
                # A client that reset its connection on the way would make the handler raise.
                if listener.cut or arrived.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    arrived.socket.close()
                    continue
                connection = Connection(arrived.socket, arrived.client_address)
                connection.arrived_with = arrived.carried
                connection.refused_for = arrived.refused_for
                self._handle(connection)
            return True
        finally:
            listener.in_accept = False
            if not listener.accepting:
                process.current.wake()

    def _get_datagram(self) -> tuple[Any, Any]:
        """As UDPServer.get_request(), without ever waiting."""
        server = self._server
        data, client_address = server.socket.receive(server.max_packet_size)
        return (data, server.socket), client_address

    def _get_by_override(self) -> tuple[Any, Any]:
        """Have a subclass get the request; the socket sees to it that it does not wait."""
        server, sock = self._server, self._server.socket
        sock.receiver = self._listener.loop_thread
        try:
            request: tuple[Any, Any] = server.get_request()
            return request
        finally:
            sock.receiver = None

    def _handle_one(self) -> bool:
        """As socketserver's _handle_request_noblock(); whether there was a request."""
        try:
            request, client_address = (self._get_request or self._server.get_request)()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._pause(error)
            return False
        self._handle(Connection(request, client_address))
        return True

    def _handle(self, connection: Connection) -> None:
        """Count the connection from here on, and have it handled."""
        server = self._server
        request, client_address = connection.request, connection.client_address
        self._listener.connections.active[id(request)] = connection
        try:
            if server.verify_request(request, client_address):
                self._process(server, request, client_address)
            else:
                server.shutdown_request(request)
        except Exception:
            server.handle_error(request, client_address)
            server.shutdown_request(request)
        except BaseException:
            server.shutdown_request(request)
            raise

    def _process_inline(self, server: Any, request: Any, client_address: Any) -> None:
        """The handler may run in this thread and hold the loop as long as it likes."""
        listener, current = self._listener, process.current
        listener.inline_thread = listener.loop_thread
        try:
            if not self._busy:
                self._busy = True
                current.driver.busy(listener)
            server.process_request(request, client_address)
        except HandlerCut:
            current.log(log.WARNING, f"the handler of {say_address(client_address)} was ended")
            server.shutdown_request(request)
        finally:
            listener.inline_cut = False
            listener.inline_thread = None

    def _pause(self, error: OSError) -> None:
        """Without a free descriptor the listener stays readable: do not spin on it."""
        listener, now = self._listener, time.monotonic()
        listener.paused_until = now + _NO_ROOM_PAUSE
        if now >= listener.no_room_logged + 1:
            listener.no_room_logged = now
            process.current.log(
                log.ERROR,
                f"cannot accept on {listener}: {error.strerror}; clients wait until there is room",
            )


def _process_request(server: Any, request: Any, client_address: Any) -> None:
    server.process_request(request, client_address)
