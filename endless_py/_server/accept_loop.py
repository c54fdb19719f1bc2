"""The loop of one server: wait without polling, accept, and move the generation on."""

from __future__ import annotations

import errno
import os
import socket
import socketserver
import threading
import time
from contextlib import suppress

from endless_py._reload import process
from endless_py._reload.drain import HandlerCut
from endless_py._server import forking
from endless_py._sockets.connection import Connection, say_address
from endless_py._sockets.listener import Binding, ListenerSocket
from endless_py._sockets.poller import READ, Poller
from endless_py._support import log, platform

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
_PLAIN_ACTIONS = (
    socketserver.BaseServer.service_actions,
    getattr(forking.StdForkingMixIn, "service_actions", None),
)


class AcceptLoop:
    """One call of serve_forever(), or with `once` of handle_request().

    poll_interval is how often, in seconds, an overridden service_actions() is called; until is the
    moment (time.monotonic) at which handle_request() gives up, None is never.
    """

    def __init__(
        self,
        server: Any,
        poll_interval: float = 0.5,
        once: bool = False,
        until: Optional[float] = None,
    ) -> None:
        self._server = server
        self._listener = server._listener
        self._once = once
        self._until = until
        actions = getattr(type(server), "service_actions", None)
        self._interval = poll_interval if actions not in _PLAIN_ACTIONS and not once else None
        self._most = 1
        self._get_request: Optional[Callable[[], tuple[Any, Any]]] = None
        if isinstance(server.socket, ListenerSocket):  # any other one might wait
            get_request = getattr(server.get_request, "__func__", None)
            if get_request is socketserver.UDPServer.get_request:
                self._get_request = self._get_datagram
            elif get_request is not socketserver.TCPServer.get_request:
                self._get_request = self._get_by_override
            # A class that counts its turns gets one request in each.
            if get_request in _PLAIN_REQUESTS and actions is _PLAIN_ACTIONS[0] and not once:
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

    def run(self) -> bool:
        """Serve; with once, return after one request (True) or at the moment until (False)."""
        current, listener = process.current, self._listener
        self._prepare_listener()
        poller = listener.poller
        if poller is None:
            poller = listener.poller = Poller()
        listener.loop_thread = threading.get_ident()
        listener.settled = None
        finished = True
        if self._reused is not None:
            self._reused.begin()
        try:
            current.enter(listener)
            while not listener.shutdown_requested or self._once:
                if current.released:
                    return False
                if self._until is not None and time.monotonic() >= self._until:
                    finished = False
                    return False
                if self._turn(poller) and self._once:
                    finished = False
                    return True
            return False
        finally:
            current.left(listener, finished)
            listener.loop_thread = None
            if self._reused is not None:
                self._reused.end()

    def _prepare_listener(self) -> None:
        """The listener is shared with another generation, so nothing may wait on it."""
        server, listener = self._server, self._listener
        platform.require()
        if listener not in process.current.listeners.all:
            if listener.binding is None:  # a program may have bound it without server_bind()
                with suppress(OSError):
                    address = server.socket.getsockname()
                    family, kind = server.socket.family, server.socket.type
                    listener.binding = Binding(family, kind, address, address)
            process.current.add(listener)
        if server.socket.type == socket.SOCK_STREAM:
            os.set_blocking(server.fileno(), False)

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

    # -- waiting ----------------------------------------------------------

    def _turn(self, poller: Poller) -> bool:
        """Wait once and do what there is to do; whether a request was handled."""
        current, server, listener = process.current, self._server, self._listener
        if listener.unchecked:  # the thread that ran the program's checks has failed
            current.readiness.say([listener])
        accepts: int = server.fileno() if listener.accepting and self._has_room() else -1
        wait, ends = None, None
        if listener.settled != (accepts, current.driver.concern(listener)):
            ends = self._plan(poller, accepts)
            wait = None if ends is None else max(0.0, ends - time.monotonic())
        if listener.arrivals:
            wait = 0.0
        if self._interval is not None:
            wait = self._interval if wait is None else min(wait, self._interval)
        ready, woken = poller.wait(wait)
        if listener.shutdown_requested and not self._once:
            return False
        acceptable = accepts in ready
        ready.discard(accepts)
        if ready or woken or ends is not None:
            self._look_elsewhere(ready, woken, ends)
        handled = False
        try:
            if listener.serves_queue:
                self._serve_queue()
            elif acceptable:
                handled = self._accept()
            if listener.arrivals:
                handled = self._serve_arrivals() or handled
        finally:
            if self._busy:
                self._busy = False
                current.driver.free(listener)
        server.service_actions()
        return handled

    def _plan(self, poller: Poller, accepts: int) -> Optional[float]:
        """Watch what can happen; return until when (time.monotonic) at most, None is for ever.

        accepts is the listener's descriptor, -1 where nothing is to be accepted. Where nothing is
        due, and this loop does not lead or the process has no neighbour, `listener.settled` says
        so with all that this depends on: the next turns need no plan.
        """
        current, listener = process.current, self._listener
        concern, leads = current.driver.concern(listener), current.driver.leads(listener)
        watched = current.watched() if leads else {}
        if accepts >= 0:
            watched[accepts] = READ
        retry = None
        for handler in list(listener.connections.forked.values()):
            if handler.retry_at is None:
                watched[handler.channel.fileno()] = READ
            else:
                retry = min(retry or handler.retry_at, handler.retry_at)
        poller.watch(watched)
        deadlines = [current.deadline() if leads else None, self._until, retry]
        if listener.accepting:
            deadlines.append(listener.paused_until)
        ends = min((t for t in deadlines if t is not None), default=None)
        settled = ends is None and (current.alone() or not leads)
        listener.settled = (accepts, concern) if settled else None
        return ends

    def _look_elsewhere(self, ready: set[int], woken: bool, ends: Optional[float]) -> None:
        """Something other than the listener is ready, somebody has called, or it is time."""
        current, listener = process.current, self._listener
        if listener.connections.forked:
            forked = {h.channel.fileno() for h in listener.connections.forked.values()}
            # Before its handler is reaped, so that a connection is counted all the time.
            forking.receive(self._server, ready)
            forking.reap(self._server, ready)
            ready = ready - forked
        due = woken or (ends is not None and time.monotonic() >= ends)
        if ready or (due and current.driver.leads(listener)):
            current.driver.advance(listener)

    def _has_room(self) -> bool:
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

    # -- requests ---------------------------------------------------------

    def _accept(self) -> bool:
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
                    or current.orders
                    or not current.machine.at_peace
                    or listener.shutdown_requested
                ):
                    break
            return True
        finally:
            listener.in_accept = False
            if not listener.accepting:
                current.wake()

    def _serve_queue(self) -> None:
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

    def _serve_arrivals(self) -> bool:
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
