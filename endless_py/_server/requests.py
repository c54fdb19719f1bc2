"""The requests of one server: accepted or received, counted, and given to a handler."""

from __future__ import annotations

import errno
import os
import socket
import socketserver
from contextlib import suppress

from endless_py._reload import process
from endless_py._reload.drain import HandlerCut
from endless_py._reload.settings import of
from endless_py._server import forking
from endless_py._server.inline import Inline
from endless_py._server.methods import (
    acts,
    closes_nothing,
    handles_inline,
    starts_threads,
    verifies,
)
from endless_py._server.parking import Parking
from endless_py._server.room import Room
from endless_py._sockets.connection import Connection, MigratingConnection
from endless_py._sockets.parked import ParkingPlace
from endless_py._sockets.shared import DONTWAIT, ListenerSocket
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from endless_py._server.threads import HandlerThreads

_receive = socket.socket.recvfrom
_ACCEPTS_PER_TURN = 16  # a signal is looked for in between
_TURNS_OF_ONE = 16  # after a look for a second connection that found none
_MOST_ENDED = 256  # connections that have ended, and are not added up
_ARRIVALS_PER_TURN = 16  # accepting goes on between as many migrated connections


class Requests:
    """What a loop does with its listener once there is something to take."""

    def __init__(self, server: Any, once: bool) -> None:
        self._server = server
        self._listener = server._listener
        self._once = once
        self._most = 1
        self._get_request: Callable[[], tuple[Any, Any]] = self._get_by_override
        self._settings = of(server)
        self._attributes = vars(server)
        self._socket: Any = getattr(server, "socket", None)
        if isinstance(self._socket, ListenerSocket):  # any other one might wait
            get_request = getattr(server.get_request, "__func__", None)
            if get_request is socketserver.UDPServer.get_request:
                self._get_request = self._get_datagram
            elif get_request is socketserver.TCPServer.get_request:
                self._get_request = self._get_connection
            # A class that counts its turns gets one request in each.
            if self._get_request != self._get_by_override and not acts(server) and not once:
                self._most = _ACCEPTS_PER_TURN
        self._is_stream = getattr(self._socket, "type", None) == socket.SOCK_STREAM
        self._forks = forking.is_forking(server)
        self._threads = isinstance(server, socketserver.ThreadingMixIn) and not self._forks
        self.room = Room(server, self._forks, self._threads)
        self.process: Callable[[Any, Any, Any], None] = self._process_inline
        if self._forks:
            self.process = forking.fork
        elif starts_threads(server):
            self.process = _process_request
        self._verifies = verifies(server)
        self._reused: Optional[HandlerThreads] = None
        if self._settings.reuse_threads and self._threads and not once:
            self._reused = self._reuse_threads()
        self.parking: Optional[Parking] = None
        if (self._threads or self._forks) and not once:
            self.parking = Parking(server, self.room, self._reused is not None, self._serve_parked)
        plain = starts_threads(server) and not self._verifies
        self._listener.steady = plain and self._most > 1
        self._was_blocking = False
        self._in_loop = handles_inline(server)
        self._only_finishes = self._in_loop and closes_nothing(server)
        self._turns_of_one = 0
        self.inline = Inline(self._listener, self._forks)

    def begin(self) -> None:
        """The loop begins."""
        if self._reused is not None:
            self._reused.begin()
        if self.parking is not None:
            self.parking.begin()
        if isinstance(self._socket, ListenerSocket):
            self._socket.begin_loop()
        elif getattr(self._socket, "type", None) == socket.SOCK_STREAM:
            self._was_blocking = os.get_blocking(self._server.fileno())
            os.set_blocking(self._server.fileno(), False)

    def end(self) -> None:
        """The loop ends."""
        if self.parking is not None:
            self.parking.end()
        if self._reused is not None:
            self._reused.end()
        if isinstance(self._socket, ListenerSocket):
            self._socket.end_loop()
        elif self._was_blocking and process.current.alone():
            with suppress(OSError, ValueError):
                os.set_blocking(self._server.fileno(), True)

    def _reuse_threads(self) -> Optional[HandlerThreads]:
        """Have connections served by threads that have served others before, where that works."""
        if not starts_threads(self._server):
            process.current.log(
                log.WARNING,
                "%(listener)s starts a thread for each connection in spite of reuse_threads: "
                "its class has a process_request() of its own",
                "threads_not_reused",
                listener=self._listener,
            )
            return None
        threads = process.current.load("endless_py._server.threads")
        reused: HandlerThreads = threads.HandlerThreads(self._server)
        self.process = reused.process
        return reused

    def accept(self) -> bool:
        """Take some requests; whether this server accepts."""
        current, listener = process.current, self._listener
        most = self._most if current.group is None else 1  # the other processes get theirs
        listener.in_accept = True
        try:
            # Looked at after in_accept is set: whoever forbids accepting looks the other way.
            if not listener.accepting:
                return False
            if not current.alone():  # whatever another process has set, nothing waits here
                listener.never_wait()
                most = 1
            elif self._turns_of_one:
                self._turns_of_one -= 1
                most = 1
            if current.reserve.asks:
                if not self.room.leaves_reserve():
                    return False
                most = 1
            while self._handle_one():
                most -= 1
                if (
                    most <= 0
                    or not listener.accepting
                    or not (self._settings.max_handlers is None or self.room.has_handler())
                    or current.left_orders
                    or not current.machine.at_peace
                    or listener.shutdown_requested
                ):
                    return True
            # A look that finds nothing costs a call; where some found one, they have paid for it.
            if most == self._most - 1:
                self._turns_of_one = _TURNS_OF_ONE
            return True
        finally:
            listener.in_accept = False
            if not listener.accepting:
                current.wake()

    def serve_queue(self) -> None:
        """Serve what clients were already promised a place for, then close the listener.

        Where there is no room for them it is called again when a handler has ended.
        """
        listener = self._listener
        if self.room.is_paused():
            return
        listener.in_accept = served = True
        try:
            while self.room.has_handler():
                self.room.found_none = False
                if not self._handle_one():
                    if self.room.found_none:
                        served = False
                        return
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
                if self.parking is None or not self.parking.keep(arrived):
                    self._handle(arrived.for_handler())
            return True
        finally:
            listener.in_accept = False
            if not listener.accepting:
                process.current.wake()

    def _serve_parked(self, place: ParkingPlace, parked: MigratingConnection) -> None:
        """Its client has spoken, or its time is over."""
        connection, active = parked.for_handler(), self._listener.connections.active
        # It counts as active before it counts as parked no more.
        active[id(connection.request)] = connection
        if place.take(parked):
            parked.move("speaks")
            self._handle(connection, verified=parked.carried is None)
        else:
            del active[id(connection.request)]

    def _get_connection(self) -> tuple[Any, Any]:
        """As TCPServer.get_request(), without ever waiting."""
        sock = self._attributes.get("socket", self._socket)
        if sock is not self._socket:  # the program has put another one in its place
            return self._get_by_override()
        taken: tuple[Any, Any] = sock.take()
        return taken

    def _get_datagram(self) -> tuple[Any, Any]:
        """As UDPServer.get_request(), without ever waiting."""
        sock = self._attributes.get("socket", self._socket)
        if sock is not self._socket:  # the program has put another one in its place
            return self._get_by_override()
        data, client_address = _receive(sock, self._server.max_packet_size, DONTWAIT)
        return (data, sock), client_address

    def _get_by_override(self) -> tuple[Any, Any]:
        """Have a subclass get the request; a listener of ours sees to it that it does not wait.

        What the class does with it may wait: a handshake with a client that says nothing.
        """
        server, sock = self._server, self._server.socket
        ours = isinstance(sock, ListenerSocket)
        if ours:
            sock.receiver = self._listener.loop_thread
        try:
            with self.inline.code("the get_request() of", self._listener):
                request: tuple[Any, Any] = server.get_request()
                return request
            raise ConnectionAbortedError
        finally:
            if ours:
                sock.receiver = None

    def _handle_one(self) -> bool:
        """As socketserver's _handle_request_noblock(); whether there was a request."""
        try:
            request, client_address = self._get_request()
        except OSError as error:
            if not self.room.pause(error) and error.errno == errno.EINVAL:
                self._listen_again()
            return False
        self._listener.connections.accepted += self._is_stream
        self._handle(Connection(request, client_address))
        return True

    def _handle(self, connection: Connection, verified: bool = False) -> None:
        """Count the connection from here on, and have it handled.

        verified says that the program was asked already whether it is to be.
        """
        server = self._server
        request, client_address = connection.request, connection.client_address
        connections = self._listener.connections
        connections.active[id(request)] = connection
        connections.served += 1
        if self._forks:
            connection.count.alone = 1  # what it counts is lost with its process
        if len(connections.ended) > _MOST_ENDED:
            process.current.counters.fold(connections)
        try:
            if verified or not self._verifies or self._verify(request, client_address):
                self.process(server, request, client_address)
            else:
                connection.count.alone = 0
                server.shutdown_request(request)
        except Exception:
            with self.inline.code("the handle_error() for", client_address):
                server.handle_error(request, client_address)
            server.shutdown_request(request)
        except BaseException:
            server.shutdown_request(request)
            raise

    def _verify(self, request: Any, client_address: Any) -> bool:
        with self.inline.code("the verify_request() for", client_address):
            return bool(self._server.verify_request(request, client_address))
        return False

    def _process_inline(self, server: Any, request: Any, client_address: Any) -> None:
        """The handler may run in this thread and hold the loop as long as it likes."""
        listener, inline = self._listener, self.inline
        listener.inline_thread = listener.loop_thread
        try:  # not inline.code(), which costs as much as the rest of a datagram
            if not inline.busy:
                inline.begin()
            if self._only_finishes:  # what process_request() calls besides takes as long again
                server.finish_request(request, client_address)
                listener.connections.end(request)
                return
            server.process_request(request, client_address)
            if self._in_loop and id(request) in listener.connections.active:
                server._ended(request)  # a class that keeps it open does so on its own
        except HandlerCut:
            inline.log_cut("the handler of", client_address)
            server.shutdown_request(request)
        finally:
            listener.inline_cut = False
            listener.inline_thread = None
            if inline.forks or not listener.accepting:
                inline.end()

    def _listen_again(self) -> None:
        """Somebody else has shut down the listener that two processes have, by its descriptor."""
        listener, sock = self._listener, self._server.socket
        keeper = getattr(sock, "keeper", None)
        if keeper is None or keeper.shut or not (keeper.inherited or keeper.shared()):
            return
        with suppress(OSError):
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                with suppress(OSError):  # it has lost a port that the kernel had chosen
                    socket.socket.bind(sock, listener.binding.address)
                socket.socket.listen(sock, self._server.request_queue_size)
                text = "%(listener)s was shut down by another process; this one listens on it again"
                process.current.log(log.ERROR, text, "listens_again", listener=listener)


def _process_request(server: Any, request: Any, client_address: Any) -> None:
    server.process_request(request, client_address)
