"""GracefulMixIn: socketserver's hooks translated into what the other modules do."""

from __future__ import annotations

import errno
import os
import socket
import socketserver
import threading
import time
from contextlib import suppress

from endless_py import http_connections, keep_pid, log, needs, process
from endless_py.connections import Child, Connection
from endless_py.drain import HandlerCut, say_address
from endless_py.listeners import Binding, Listener
from endless_py.loop import READ, Waiter
from endless_py.phases import Phase
from endless_py.serving import Serving
from endless_py.traveller import Home, Traveller

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional, Union

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NO_ROOM_PAUSE = 0.1  # seconds without accepting when there is no descriptor left
_ACCEPTS_PER_TURN = 16  # a signal is looked for in between
_ARRIVALS_PER_TURN = 16  # accepting goes on between as many migrated connections
_CHILD_RETRY = 0.01  # seconds between looks at a child that let go of its pipe but lives
_StdForkingMixIn: Any = getattr(socketserver, "ForkingMixIn", ())


class _Record:
    """The server's Serving, made when it is first asked for; from then on a plain attribute."""

    def __get__(self, server: Any, owner: Optional[type] = None) -> Serving:
        found: Serving = vars(server).setdefault("_serving", Serving(server))
        return found


class GracefulMixIn:
    """Makes a subclass of socketserver.BaseServer replaceable while it runs.

    It goes leftmost among the bases: class Server(GracefulMixIn, SomeServer).
    Everything the server class could do it still does; these attributes are new, and as
    with socketserver's own a subclass sets them:

    drain_timeout       seconds that active handlers have to finish after a reload or a
                        stop, before their connections are cut; default 60
    ready_timeout       seconds a successor has to say ready before it is killed and this
                        process goes on; default 60
    keepalive_grace     seconds after which an idle connection that cannot migrate is
                        closed unasked during a drain; default 5
    keep_pid            whether a reload keeps the pid: True, False, or "auto", which is yes
                        where something watches it (pid 1, tini and its like, supervisord,
                        runsv, s6-supervise, a systemd unit that cannot be told the new pid,
                        the foreground of a terminal); default "auto"
    tcp_nodelay         whether TCP_NODELAY is set on accepted TCP connections; without it
                        a keep-alive exchange of http.server stalls for 40 ms; default true
    max_handlers        how many handlers a threading server runs at once (a forking one has
                        max_children); more clients wait in the accept queue, of
                        request_queue_size. A keep-alive connection holds its handler while it
                        is idle too: set the handler's `timeout` along with it. Each generation
                        counts its own, and connections that migrate to it are served at once,
                        beyond the bound where need be; default None, no bound
    ready_on_serve      whether entering serve_forever() says ready; with False the program calls
                        endless_py.ready() when it has warmed up, and accepts nothing until
                        then; default true
    pid_file            path (text or os.PathLike) of a file that has the pid of the process
                        in charge as long as there is one; PidFileError when it is that of
                        another living process or is no pid file; default None, no file
    """

    drain_timeout = 60.0
    ready_timeout = 60.0
    keepalive_grace = 5.0
    keep_pid: keep_pid.Setting = "auto"
    tcp_nodelay = True
    max_handlers: Optional[int] = None
    ready_on_serve = True
    pid_file: Union[str, os.PathLike[str], None] = None

    # Provided by the class to the right.
    socket: Any
    server_address: Any
    RequestHandlerClass: Any
    active_children: Any
    max_children: int

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        # A ForkingMixIn to the left of this class (whole files swapped have that) would
        # wait for any child at max_children, block the loop, and reap the successor.
        forking = getattr(_StdForkingMixIn, "collect_children", None)
        if forking is not None and getattr(cls, "collect_children", None) is forking:
            cls.collect_children = _collect_children  # type: ignore[attr-defined]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        needs.require()
        keep_pid.check(self.keep_pid)
        most = self.max_handlers
        if most is not None and (not isinstance(most, int) or most < 1):
            raise ValueError(f"max_handlers must be None or at least 1, not {most!r}")
        super().__init__(*arguments, **keywords)

    _serving = _Record()

    # socketserver keeps this flag under a mangled name, and programs set it by that name
    # to stop a server from one of its handlers; here that has to wake the loop.
    @property
    def _BaseServer__shutdown_request(self) -> bool:
        return bool(vars(self).get("_shutdown_requested", False))

    @_BaseServer__shutdown_request.setter
    def _BaseServer__shutdown_request(self, value: bool) -> None:
        vars(self)["_shutdown_requested"] = value
        if value:
            self._serving.wake()

    def shutdown(self) -> None:
        """Stop serve_forever(), without a drain; wait for its end unless it is the caller."""
        if self._serving.loop_thread == threading.get_ident():
            self._BaseServer__shutdown_request = True
            return
        super().shutdown()  # type: ignore[misc]

    # -- the listener -----------------------------------------------------

    def server_bind(self) -> None:
        """Bind, or adopt the predecessor's listener for the same address."""
        needs.require()
        process.current.dry_start.end_here()
        self.socket = Listener.wrap(self.socket, process.current.estate.inheritance)
        super().server_bind()  # type: ignore[misc]
        if self.socket.family != getattr(socket, "AF_UNIX", None) and (
            self.socket.type == socket.SOCK_STREAM
        ):
            # Accepted connections inherit it from the listener.
            with suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, self.tcp_nodelay)
        self._serving.binding = self.socket.binding
        self._serving.accepting = bool(self.ready_on_serve)
        process.current.add(self._serving)
        process.current.readiness.say_adopted(self._serving)

    def server_close(self) -> None:
        """Close the listener; a Unix path that is still ours goes too."""
        process.current.remove(self._serving)
        super().server_close()  # type: ignore[misc]

    # -- the loop ---------------------------------------------------------

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until shutdown(), or until this process is drained.

        poll_interval, in seconds, is how often service_actions() is called where a
        subclass overrides it; nothing else is polled. Raises KeyboardInterrupt once a
        SIGINT has been answered with a drain.
        """
        done: threading.Event = self._BaseServer__is_shut_down  # type: ignore[attr-defined]
        done.clear()
        try:
            self._loop(poll_interval=poll_interval)
        finally:
            self._BaseServer__shutdown_request = False
            done.set()
        self._raise_interrupt()

    def handle_request(self) -> None:
        """Handle one request, as socketserver's; raises SystemExit once the process is drained.

        A loop around this method could not know otherwise that it is over.
        """
        timeouts = [self.socket.gettimeout(), getattr(self, "timeout", None)]
        timeout = min((t for t in timeouts if t is not None), default=None)
        handled = self._loop(
            once=True, until=None if timeout is None else time.monotonic() + timeout
        )
        if process.current.phase is Phase.DRAINED:
            self._raise_interrupt()
            raise SystemExit(0)
        if not handled:
            self.handle_timeout()  # type: ignore[attr-defined]

    @staticmethod
    def _raise_interrupt() -> None:
        current = process.current
        in_main = threading.current_thread() is threading.main_thread()
        if current.phase is Phase.DRAINED and current.stopping.interrupted and in_main:
            current.stopping.interrupted = False
            raise KeyboardInterrupt

    def _loop(
        self, poll_interval: float = 0.5, once: bool = False, until: Optional[float] = None
    ) -> bool:
        """Serve; with once, return after one request (True) or at the moment until (False)."""
        current, serving = process.current, self._serving
        self._prepare_listener(serving)
        waiter = serving.waiter
        if waiter is None:
            waiter = serving.waiter = Waiter()
        serving.loop_thread = threading.get_ident()
        serving.settled = None
        finished = True
        try:
            current.enter(serving)
            actions = self._overridden_actions()
            interval = poll_interval if actions and not once else None
            most = 1 if once else self._most_accepts()
            while not (self._BaseServer__shutdown_request and not once):
                if current.phase is Phase.DRAINED:
                    return False
                if until is not None and time.monotonic() >= until:
                    finished = False
                    return False
                if self._turn(waiter, interval, until, once, most):
                    finished = False
                    return True
            return False
        finally:
            current.leave(serving, finished)
            serving.loop_thread = None

    def _turn(
        self,
        waiter: Waiter,
        interval: Optional[float],
        until: Optional[float],
        once: bool,
        most: int,
    ) -> bool:
        """Wait once and do what there is to do; whether a request was handled and once is set."""
        current, serving = process.current, self._serving
        listener = self.fileno() if serving.accepting and self._has_room() else -1  # type: ignore[attr-defined]
        wait, ends = None, None
        if serving.settled != (listener, current.driver.changes):
            ends = self._plan(waiter, listener, until)
            wait = None if ends is None else max(0.0, ends - time.monotonic())
        if serving.arrivals:
            wait = 0.0
        if interval is not None:
            wait = interval if wait is None else min(wait, interval)
        ready, woken = waiter.wait(wait)
        if self._BaseServer__shutdown_request and not once:
            return False
        if serving.home is not None and ready - {listener}:
            # Before its child is reaped, so that the connection is counted all the time.
            for traveller in serving.home.receive():
                current.migration.add(serving, traveller)
        elsewhere = ready - {listener, *(c.alive for c in serving.connections.children.values())}
        self._reap_children(ready)
        if woken or elsewhere or (ends is not None and time.monotonic() >= ends):
            current.advance()
        handled = False
        if serving.closing and not serving.queue_served:
            self._serve_queue()
        elif listener in ready:
            handled = self._accept(most)
        if serving.arrivals:
            handled = self._serve_arrivals(1 if once else _ARRIVALS_PER_TURN) or handled
        self.service_actions()  # type: ignore[attr-defined]
        return handled and once

    def _plan(self, waiter: Waiter, listener: int, until: Optional[float]) -> Optional[float]:
        """Watch what can happen; return until when (time.monotonic) at most, None is for ever.

        Where only the listener, a signal or a wake() can happen, `serving.settled` says so
        with all that this depends on, and the next turns need no plan.
        """
        current, serving = process.current, self._serving
        changes = current.driver.changes
        watched = current.watched()
        if listener >= 0:
            watched[listener] = READ
        retry = None
        if serving.home is not None:
            watched[serving.home.fileno()] = READ
        for child in list(serving.connections.children.values()):
            if child.retry_at is None:
                watched[child.alive] = READ
            else:
                retry = min(retry or child.retry_at, child.retry_at)
        waiter.watch(watched)
        deadlines = [current.deadline(), until, retry, serving.paused_until]
        ends = min((t for t in deadlines if t is not None), default=None)
        settled = ends is None and serving.home is None and current.alone()
        serving.settled = (listener, changes) if settled else None
        return ends

    def _most_accepts(self) -> int:
        """How many requests a turn may take; a class that counts its turns gets one in each."""
        plain = (socketserver.TCPServer.get_request, socketserver.UDPServer.get_request)
        if (
            isinstance(self.socket, Listener)  # any other one might wait
            and getattr(type(self), "get_request", None) in plain
            and getattr(type(self), "service_actions", None)
            is socketserver.BaseServer.service_actions
        ):
            return _ACCEPTS_PER_TURN
        return 1

    def _overridden_actions(self) -> bool:
        plain = [socketserver.BaseServer.service_actions]
        plain.append(getattr(_StdForkingMixIn, "service_actions", None))  # type: ignore[arg-type]
        return getattr(type(self), "service_actions", None) not in plain

    def _prepare_listener(self, serving: Serving) -> None:
        """The listener is shared with another generation, so nothing may wait on it."""
        needs.require()
        if serving not in process.current.servers.all:
            if serving.binding is None:
                self._describe_foreign(serving)
            process.current.add(serving)
        if self.socket.type == socket.SOCK_STREAM:
            os.set_blocking(self.fileno(), False)  # type: ignore[attr-defined]

    def _describe_foreign(self, serving: Serving) -> None:
        """A program may have bound the socket without server_bind()."""
        with suppress(OSError):
            address = self.socket.getsockname()
            serving.binding = Binding(self.socket.family, self.socket.type, address, address)

    # -- one request ------------------------------------------------------

    def _accept(self, most: int) -> bool:
        """Take up to `most` requests; whether this server accepts."""
        current, serving = process.current, self._serving
        serving.in_accept = True
        try:
            # Looked at after in_accept is set: whoever forbids accepting looks the other way.
            if not serving.accepting:
                return False
            while self._handle_request_noblock():
                most -= 1
                if (
                    most <= 0
                    or not serving.accepting
                    or not self._has_handler()
                    or current.driver.notes
                    or current.phase is not Phase.SERVING
                    or self._BaseServer__shutdown_request
                ):
                    break
            return True
        finally:
            serving.in_accept = False
            if not serving.accepting:
                current.wake()

    def _serve_queue(self) -> None:
        """Serve what clients were already promised a place for, then close the listener.

        Where the handlers are bounded it is called again when one has ended.
        """
        serving = self._serving
        serving.in_accept = served = True
        try:
            while self._has_handler():
                if not self._handle_request_noblock():
                    with suppress(OSError):
                        self.socket.close()
                    return
            served = False
        finally:
            serving.in_accept = False
            if served:
                serving.queue_served = True
                process.current.wake()

    def _handle_request_noblock(self) -> bool:
        """As socketserver's, counting the connection from here on; whether there was one."""
        listener = self.socket if isinstance(self.socket, Listener) else None
        if listener is not None:
            listener.receiver = self._serving.loop_thread
        try:
            request, client_address = self.get_request()  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._pause(error)
            return False
        finally:
            if listener is not None:
                listener.receiver = None
        self._handle(Connection(request, client_address))
        return True

    def _serve_arrivals(self, most: int) -> bool:
        """Serve connections that came without an accept; whether there was one."""
        serving = self._serving
        serving.in_accept = True
        try:
            for served in range(most):
                if not serving.arrivals:
                    return served > 0
                traveller = serving.arrivals.popleft()
                # A client that reset its connection on the way would make the handler raise.
                if serving.cut or traveller.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    traveller.socket.close()
                    continue
                self._handle(
                    Connection(
                        traveller.socket,
                        traveller.client_address,
                        traveller.state,
                        traveller.refused_for,
                    )
                )
            return True
        finally:
            serving.in_accept = False
            if not serving.accepting:
                process.current.wake()

    def _handle(self, connection: Connection) -> None:
        """As the rest of socketserver's _handle_request_noblock()."""
        request, client_address = connection.request, connection.client_address
        self._serving.connections.add(connection)
        try:
            if self.verify_request(request, client_address):  # type: ignore[attr-defined]
                if _StdForkingMixIn and isinstance(self, _StdForkingMixIn):
                    self._fork(request, client_address)
                elif isinstance(self, socketserver.ThreadingMixIn):
                    self.process_request(request, client_address)
                else:
                    self._process_inline(request, client_address)
            else:
                self.shutdown_request(request)
        except Exception:
            self.handle_error(request, client_address)  # type: ignore[attr-defined]
            self.shutdown_request(request)
        except BaseException:
            self.shutdown_request(request)
            raise

    def _process_inline(self, request: Any, client_address: Any) -> None:
        """The handler may run in this thread and hold the loop as long as it likes."""
        serving, current = self._serving, process.current
        serving.inline_thread = serving.loop_thread
        try:
            current.driver.busy(serving)
            self.process_request(request, client_address)  # type: ignore[attr-defined]
        except HandlerCut:
            current.log(log.WARNING, f"the handler of {say_address(client_address)} was ended")
            self.shutdown_request(request)
        finally:
            serving.inline_cut = False
            serving.inline_thread = None
            current.driver.free(serving)

    def _fork(self, request: Any, client_address: Any) -> None:
        """Fork the handler with a pipe whose end tells its end: no polling, no SIGCHLD."""
        self._serving.settled = None  # its end is to be watched
        children: set[int] = set(self.active_children or ())
        if self._serving.home is None and self.socket.type == socket.SOCK_STREAM:
            self._serving.home = Home()
        alive, held = os.pipe()
        try:
            with process.current.servers.forking(self._serving):
                self.process_request(request, client_address)  # type: ignore[attr-defined]
        except BaseException:
            os.close(alive)
            raise
        finally:
            os.close(held)
        new = set(self.active_children or ()) - children
        for pid in new:
            self._serving.connections.children[pid] = Child(pid, alive, client_address)
        if len(new) != 1:
            os.close(alive)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """As socketserver's, with a handler class that knows about the drain."""
        serving, given = self._serving, self.RequestHandlerClass
        prepared = serving.prepared
        if prepared[0] is not given:
            prepared = serving.prepared = (given, http_connections.prepare(given))
        handler = prepared[1]
        if handler is given:
            super().finish_request(request, client_address)  # type: ignore[misc]
        else:
            handler(request, client_address, self)

    def shutdown_request(self, request: Any) -> None:
        """As socketserver's; a connection that migrates is not shut down."""
        connection = self._serving.connections.get(request)
        if connection is not None and connection.leaves_with is not None:
            self.close_request(request)
        else:
            super().shutdown_request(request)  # type: ignore[misc]

    def close_request(self, request: Any) -> None:
        """As socketserver's; the connection is not active any more, and may migrate now."""
        serving = self._serving
        try:
            connection = serving.connections.get(request)
            if connection is not None and connection.leaves_with is not None:
                self._send_off(connection)
            super().close_request(request)  # type: ignore[misc]
        finally:
            if serving.connections.remove(request) and (
                not serving.accepting or serving.paused_until is not None or serving.full
            ):
                serving.paused_until = None
                serving.full = False
                serving.wake()
                process.current.wake()

    def _send_off(self, connection: Connection) -> None:
        """Its handler has ended: take the socket away from it and let it migrate."""
        serving, request, state = self._serving, connection.request, connection.leaves_with
        connection.leaves_with = None
        timeout = request.gettimeout()
        sock = socket.socket(fileno=request.detach())
        sock.settimeout(timeout)
        traveller = Traveller(sock, connection.client_address, state or b"")
        if serving.in_child and serving.home is not None:
            serving.home.send(traveller)
            sock.close()
        else:
            process.current.migration.add(serving, traveller)

    def _pause(self, error: OSError) -> None:
        """Without a free descriptor the listener stays readable: do not spin on it."""
        serving, now = self._serving, time.monotonic()
        serving.paused_until = now + _NO_ROOM_PAUSE
        if now >= serving.no_room_logged + 1:
            serving.no_room_logged = now
            process.current.log(
                log.ERROR,
                f"cannot accept on {serving}: {error.strerror}; clients wait until there is room",
            )

    def _has_room(self) -> bool:
        serving = self._serving
        if serving.paused_until is not None:
            if time.monotonic() < serving.paused_until:
                return False
            serving.paused_until = None
        if _StdForkingMixIn and isinstance(self, _StdForkingMixIn):
            return bool(len(self.active_children or ()) < self.max_children)
        return self._has_handler()

    def _has_handler(self) -> bool:
        """Whether max_handlers allows one more."""
        most = self.max_handlers
        if most is None or not isinstance(self, socketserver.ThreadingMixIn):
            return True
        serving = self._serving
        # Set before the look: a handler that ends after it finds it set, and wakes the loop.
        serving.full = True
        if len(serving.connections) < most:
            serving.full = False
        return not serving.full

    # -- forked handlers --------------------------------------------------

    def _reap_children(self, ready: set[int]) -> None:
        serving, now = self._serving, time.monotonic()
        children = serving.connections.children
        for child in list(children.values()):
            if child.alive not in ready and (child.retry_at is None or now < child.retry_at):
                continue
            try:
                if os.waitpid(child.pid, os.WNOHANG)[0] == 0:
                    child.retry_at = now + _CHILD_RETRY
                    continue
            except ChildProcessError:
                pass  # reaped by another part of the program
            os.close(child.alive)
            del children[child.pid]
            self.active_children.discard(child.pid)
            if not serving.accepting:
                process.current.wake()


def _collect_children(self: Any, *, blocking: bool = False) -> None:
    """ForkingMixIn.collect_children() that waits for this server's children only.

    Above max_children the loop does not accept, so there is nothing to wait for there.
    """
    children = self._serving.connections.children
    for pid in list(self.active_children or ()):
        try:
            if os.waitpid(pid, 0 if blocking else os.WNOHANG)[0] == 0:
                continue
        except ChildProcessError:
            pass
        self.active_children.discard(pid)
        child = children.pop(pid, None)
        if child is not None:
            os.close(child.alive)
            if not self._serving.accepting:
                process.current.wake()  # it may have been the last one of a drain
