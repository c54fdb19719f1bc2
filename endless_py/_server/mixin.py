"""GracefulMixIn: socketserver's hooks translated into what the other modules do."""

from __future__ import annotations

import os
import socket
import socketserver
import sys
import threading
import time

from endless_py._reload import process, settings
from endless_py._reload.listener import Listener
from endless_py._server import forking
from endless_py._server import http as _http  # noqa: F401  (it sees to the handlers)
from endless_py._server.accept_loop import AcceptLoop, check_free
from endless_py._server.beside import serve_beside
from endless_py._server.serving import run_loop
from endless_py._server.socket_attribute import SocketAttribute
from endless_py._sockets.connection import Connection, MigratingConnection
from endless_py._supervisor import detect
from endless_py._support import platform

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Literal, Optional, Union

_SERVE_FOREVER = socketserver.BaseServer.serve_forever.__code__


class _Record:
    """The server's Listener, made when it is first asked for; from then on a plain attribute."""

    def __get__(self, server: Any, owner: Optional[type] = None) -> Listener:
        found: Listener = vars(server).setdefault("_listener", Listener(server))
        return found


def _is_behind(kind: type) -> bool:
    """Whether a base has to stand to the right of GracefulMixIn."""
    return issubclass(kind, socketserver.BaseServer) and not issubclass(kind, GracefulMixIn)


class GracefulMixIn:
    """Makes a subclass of socketserver.BaseServer replaceable while it runs.

    It goes leftmost among the bases: class Server(GracefulMixIn, SomeServer); right of a server
    class it is a TypeError. Everything the server class could do it still does; these attributes
    are new, and as with socketserver's own a subclass sets them. What a setting cannot be, or one
    that is misspelt, is a ValueError when the server is made or begins to serve. Where seconds
    are meant None stands for no limit.

    drain_timeout       seconds that active handlers have to finish after a reload or a
                        stop, before their connections are cut; default 60
    ready_timeout       seconds a successor has to say ready before it is killed and this
                        process goes on; default 60
    keepalive_grace     seconds after which an idle connection that cannot migrate is
                        closed unasked during a drain; default 5
    stop_delay          seconds for which it goes on accepting after TERM, endless_py.stop() or the
                        stop command, while endless_py.health says "not ready": what a load balancer
                        takes to notice. Another order ends that time; INT, the end of the terminal
                        and a force stop do not wait for it. Of several servers the longest counts;
                        default 0
    exit_grace          seconds that the program has to end once its servers have drained; then
                        what each thread does is logged and it is ended; default "auto", which
                        is 30 where a supervisor is seen, and no limit elsewhere
    keep_pid            whether a reload keeps the pid: True, False, or "auto", which is yes
                        where something watches it (pid 1, tini and its like, supervisord,
                        runsv, s6-supervise, a systemd unit that cannot be told the new pid,
                        the foreground of a terminal); default "auto"
    handler_warn_after  seconds after which a handler that still runs is named in the log, once for
                        each message of its client, with what its thread does; waiting for a message
                        (HTTP, await_message()) does not count. Forked handlers are not seen, and a
                        server without threads gets one while it handles something; default None,
                        no warning
    tcp_nodelay         whether TCP_NODELAY is set on accepted TCP connections; without it
                        a keep-alive exchange of http.server stalls for 40 ms; default true
    max_handlers        how many handlers a threading server runs at once (a forking one has
                        max_children); more clients wait in the accept queue, of
                        request_queue_size. A keep-alive connection holds its handler while it
                        is idle too (but see reuse_threads): set the handler's `timeout` along
                        with it. Each generation counts its own, and connections that migrate to
                        it are served at once, beyond the bound where need be; with reuse_threads
                        they keep to it; default None, no bound
    max_draining        how many older generations may drain at a time; when one more begins, the
                        oldest is forced to end, as by a second TERM, and says so. What the newest
                        of them has set counts, of several servers the least; None: no limit;
                        default 8
    reuse_threads       whether a threading server's thread serves another connection when it has
                        served one, which is faster; what a handler keeps in a threading.local
                        is then still there. A thread ends after 10 seconds without one. A class
                        with a process_request() of its own gets a thread for each connection all
                        the same. On Linux an idle HTTP connection has neither thread nor handler
                        (docs/operations.md says when), and another one of both goes on when its
                        client speaks: max_handlers does not count it; default false
    ready_on_serve      whether entering serve_forever() says ready; with False the program calls
                        endless_py.ready() when it has warmed up, and accepts nothing until
                        then; default true
    workers             how many processes of each generation serve, or "auto": as many as it has
                        processors; forked as serve_forever() is entered, by when no other threads
                        may run (docs/workers.md); default 1
    max_requests        how many requests a process handles before it is replaced, while all others
                        serve: a worker by another one, a leader or the only process by a reload.
                        Kept HTTP connections count their requests, others are one each; default
                        None or 0, no limit
    max_requests_jitter  up to how many more each process may handle, by chance; default 0
    max_rss             megabytes (of 2**20 bytes) in memory, shared ones included, above which it
                        is replaced likewise; looked at with requests, at most once a second, and
                        not in the first 10 seconds; default None or 0, no limit
    health              (host, port) or "HOST:PORT" at which health checks are answered as long as
                        it is served: see endless_py.health; HealthError when that cannot be;
                        default None, no listener for them
    pid_file            path (text or os.PathLike) of a file that has the pid of the process
                        in charge as long as there is one; PidFileError when it is that of
                        another server that lives or is no pid file; default None, no file
    """

    drain_timeout: Optional[float] = 60.0
    ready_timeout: Optional[float] = 60.0
    keepalive_grace: Optional[float] = 5.0
    stop_delay = 0.0
    exit_grace: Union[float, Literal["auto"], None] = "auto"
    keep_pid: detect.Setting = "auto"
    handler_warn_after: Optional[float] = None
    tcp_nodelay = True
    max_handlers: Optional[int] = None
    max_draining: Optional[int] = settings.MAX_DRAINING
    reuse_threads = False
    ready_on_serve = True
    workers: Union[int, Literal["auto"]] = 1
    max_requests: Optional[int] = None
    max_requests_jitter = 0
    max_rss: Optional[float] = None
    health: Union[tuple[str, int], str, int, None] = None
    pid_file: Union[str, os.PathLike[str], None] = None

    if not TYPE_CHECKING:
        socket = SocketAttribute()

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        order = cls.__mro__
        base = socketserver.BaseServer
        if base in order and order.index(base) < order.index(GracefulMixIn):
            bases = [kind.__name__ for kind in sorted(cls.__bases__, key=_is_behind)]
            raise TypeError(
                f"GracefulMixIn goes to the left of the server class, else it does nothing: "
                f"class {cls.__name__}({', '.join(bases)})"
            )
        forking.collect_own(cls)

    if not TYPE_CHECKING:  # for checkers the class's own constructor is what counts

        def __new__(cls, *arguments, **keywords):
            """Check the settings.

            Not in __init__(): a class to the right may call that of a class of ours by its name.
            """
            platform.require()
            make = super().__new__
            server = make(cls) if make is object.__new__ else make(cls, *arguments, **keywords)
            settings.check(server, GracefulMixIn)
            return server

        def serve_forever(self, *arguments, **keywords):
            """As the class's own; what was set since it was made is checked before."""
            settings.check(self, GracefulMixIn)
            serve = super().serve_forever
            if getattr(serve, "__func__", None) is socketserver.BaseServer.serve_forever:
                check_free(self)
            serve_beside(GracefulMixIn, self, lambda: serve(*arguments, **keywords))

    _listener = _Record()

    # socketserver keeps this flag under a mangled name, and programs set it by that name
    # to stop a server from one of its handlers; here that has to wake the loop.
    @property
    def _BaseServer__shutdown_request(self) -> bool:
        """Asked for by BaseServer.serve_forever() when it begins to wait: here is our loop.

        So the class's own serve_forever() runs, and any other method of it that calls that one.
        """
        caller = sys._getframe(1)
        if caller.f_code is _SERVE_FOREVER and self._listener.loop_thread is None:
            run_loop(GracefulMixIn, self, caller.f_locals["poll_interval"])
            self._raise_interrupt()
            return True
        return self._listener.shutdown_requested

    @_BaseServer__shutdown_request.setter
    def _BaseServer__shutdown_request(self, value: bool) -> None:
        self._listener.shutdown_requested = value
        if value:
            self._listener.wake()

    # Each passes on what it is called with: a later Python's method may take more.

    def shutdown(self, *arguments: Any, **keywords: Any) -> None:
        """Stop serve_forever(), without a drain; wait for its end unless it is the caller."""
        if self._listener.loop_thread == threading.get_ident():
            self._BaseServer__shutdown_request = True
            return
        super().shutdown(*arguments, **keywords)  # type: ignore[misc]

    def server_close(self, *arguments: Any, **keywords: Any) -> None:
        """Close the listener; a Unix path that is still ours goes too."""
        process.current.remove(self._listener)
        super().server_close(*arguments, **keywords)  # type: ignore[misc]

    # -- the loop ---------------------------------------------------------

    def handle_request(self: Any) -> None:
        """Handle one request, as socketserver's; raises SystemExit once the process is drained.

        A loop around this method could not know otherwise that it is over.
        """
        timeouts = [self.socket.gettimeout(), getattr(self, "timeout", None)]
        timeout = min((t for t in timeouts if t is not None), default=None)
        until = None if timeout is None else time.monotonic() + timeout
        handled = AcceptLoop(self, once=True, until=until).run()
        if process.current.released:
            self._raise_interrupt()
            raise SystemExit(0)
        if not handled:
            self.handle_timeout()

    @staticmethod
    def _raise_interrupt() -> None:
        current = process.current
        in_main = threading.current_thread() is threading.main_thread()
        if current.released and current.stop.interrupted and in_main:
            current.stop.interrupted = False
            raise KeyboardInterrupt

    # -- one request ------------------------------------------------------

    def shutdown_request(self, request: Any, *arguments: Any, **keywords: Any) -> None:
        """As socketserver's; a connection that migrates is not shut down."""
        connections = self._listener.connections
        if connections.going_on and id(request) in connections.going_on:
            self.close_request(request)
        else:
            super().shutdown_request(request, *arguments, **keywords)  # type: ignore[misc]
            if id(request) in connections.active:
                self._ended(request)  # a class that keeps it open does so on its own

    def process_request_thread(self, request: Any, *arguments: Any, **keywords: Any) -> None:
        """As ThreadingMixIn's; when its handler's thread ends, a connection is not active."""
        if self._listener.slow is not None:
            self._listener.slow.in_thread(request)
        try:
            super().process_request_thread(request, *arguments, **keywords)  # type: ignore[misc]
        finally:
            if id(request) in self._listener.connections.active:
                self._ended(request)

    def close_request(self, request: Any, *arguments: Any, **keywords: Any) -> None:
        """As socketserver's; the connection is not active any more, and may migrate now."""
        leaves = False
        try:
            connections = self._listener.connections
            if connections.going_on and id(request) in connections.going_on:
                connections.going_on.discard(id(request))
                connection = connections.get(request)
                if connection is not None:
                    leaves = not connection.parks
                    self._send_off(connection)
            super().close_request(request, *arguments, **keywords)  # type: ignore[misc]
        finally:
            self._ended(request, leaves)

    def _ended(self, request: Any, leaves: bool = False) -> None:
        """It is not active any more; a second call for the same one is harmless.

        One that leaves has to be looked at even where nobody drains any more: the successor may
        have died since.
        """
        listener = self._listener
        if not listener.connections.end(request):
            return
        waited_for = not listener.accepting or listener.paused_until is not None or listener.full
        if leaves or waited_for:
            listener.paused_until = None
            listener.full = False
            listener.wake()
            process.current.wake()

    def _send_off(self, connection: Connection) -> None:
        """Its handler has ended: take the socket away from it, and let it migrate or be parked."""
        listener, request, state = self._listener, connection.request, connection.leaves_with
        parks, connection.parks, connection.leaves_with = connection.parks, False, None
        timeout = request.gettimeout()
        sock = socket.socket(request.family, request.type, request.proto, fileno=request.detach())
        sock.settimeout(timeout)
        migrating = MigratingConnection(sock, connection.client_address, state, connection.state)
        if parks:
            migrating.since, migrating.refused_for = connection.since, connection.refused_for
            migrating.silent_since = connection.silent_since
            if timeout is not None and connection.silent_since is not None:
                migrating.until = connection.silent_since + timeout
            parking = listener.parking
            if parking is None:
                sock.close()  # the loop has ended meanwhile
            else:
                parking.park(migrating)
        elif listener.in_child and listener.handler_end is not None:
            forking.send_home(listener, migrating)
            sock.close()
        else:
            process.current.migration.add(listener, migrating)


settings.set_defaults(GracefulMixIn, settings.from_environment())
