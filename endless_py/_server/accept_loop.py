"""The loop of one server: wait without polling, and drive the process. `requests` does the rest."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from endless_py._reload import process
from endless_py._reload.settings import has_limits
from endless_py._server import forking, slow
from endless_py._server.methods import acts, is_method
from endless_py._server.requests import Requests
from endless_py._sockets.listener import Binding
from endless_py._sockets.poller import READ, Poller
from endless_py._support import platform

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional


def check_free(server: Any) -> None:
    """Raise ValueError (as the standard class) for a closed server, RuntimeError for a busy one."""
    if server.fileno() < 0:
        raise ValueError("this server is closed; to serve again, make another one")
    if server._listener.loop_thread not in (None, threading.get_ident()):
        raise RuntimeError("this server is being served, by another thread")


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
        check_free(server)
        self._once = once
        self._until = until
        self._interval = None if once else poll_interval
        self._requests = Requests(server, once)
        self._parking = self._requests.parking
        self._collects = forking.is_forking(server)
        # Such a server's handlers are reaped by their channels; others' children are not known.
        self._collects_own = is_method(server, "collect_children", forking.collect)
        self._slow = slow.watch(self._requests, server)
        if has_limits(server):
            limits = process.current.load("endless_py._server.limits")
            limits.watch(self._requests, server)

    def run(self) -> bool:
        """Serve; with once, return after one request (True) or at the moment until (False)."""
        current, listener = process.current, self._listener
        self._prepare_listener()
        poller = listener.poller
        if poller is None:
            poller = listener.poller = current.make(self._make_poller)
        listener.loop_thread = threading.get_ident()
        listener.settled, listener.slow = None, self._slow
        finished = True
        self._requests.begin()
        if listener.limits is not None:
            listener.limits.begin()
        try:
            current.loops.enter(listener)
            while not listener.shutdown_requested or self._once:
                if current.released:
                    return False
                if self._turn(poller) and self._once:
                    finished = False
                    return True
                if self._until is not None and time.monotonic() >= self._until:
                    finished = False
                    return False
            return False
        finally:
            current.loops.left(listener, finished)
            listener.loop_thread = None
            self._requests.end()

    def _prepare_listener(self) -> None:
        """The listener is shared with another generation, so nothing may wait on it."""
        server, listener = self._server, self._listener
        platform.require()
        process.current.forked_child.settle()
        if listener not in process.current.listeners.all:
            if listener.binding is None:  # a program may have bound it without server_bind()
                with suppress(OSError):
                    address = server.socket.getsockname()
                    family, kind = server.socket.family, server.socket.type
                    listener.binding = Binding(family, kind, address, address)
            process.current.add(listener)

    def _make_poller(self) -> Poller:
        group = process.current.group
        if group is not None and group.runs_main and not self._listener.beside:
            return group.poller(self._server.fileno())
        return Poller()

    # -- waiting ----------------------------------------------------------

    def _turn(self, poller: Poller) -> bool:
        """Wait once and do what there is to do; whether a request was handled."""
        current, server, listener = process.current, self._server, self._listener
        if listener.unchecked:  # the thread that ran the program's checks has failed
            current.readiness.say([listener])
        accepts: int = server.fileno() if listener.accepting and self._requests.room.any() else -1
        parking = self._parking
        if parking is not None and parking.place is None:
            parking = None  # nobody has been parked yet
        parked = -1 if parking is None else parking.watched()
        wait, ends = None, None
        if listener.settled != (accepts, parked, current.driver.concern(listener)):
            ends = self._plan(poller, accepts, parked)
            wait = None if ends is None else max(0.0, ends - time.monotonic())
        if parking is not None:
            wait = parking.shorten(wait)
        if self._slow is not None:
            wait = self._slow.shorten(wait)
        exiting = listener.connections.exiting
        if exiting:
            wait = forking.AGAIN if wait is None else min(wait, forking.AGAIN)
        if listener.arrivals:
            wait = 0.0
        actions = acts(server)
        if actions and self._interval is not None:
            wait = self._interval if wait is None else min(wait, self._interval)
        ready, woken = poller.wait(wait)
        if listener.shutdown_requested and not self._once:
            return False
        if self._slow is not None:
            self._slow.look()
        acceptable = accepts in ready
        speaks = parked in ready
        ready -= {accepts, parked}
        if ready or woken or exiting or ends is not None:
            self._look_elsewhere(ready, woken, ends)
        handled = False
        try:
            if parking is not None and speaks and parking.goes_first():
                speaks = parking.serve()
            if listener.serves_queue:
                self._requests.serve_queue()
            elif acceptable:
                handled = self._requests.accept()
            if listener.arrivals:
                handled = self._requests.serve_arrivals() or handled
                parking = self._parking  # they may be the first that are
            if parking is not None:
                if speaks:
                    parking.serve()
                parking.look()
        finally:
            self._requests.inline.end_of_turn()
        if listener.cut or current.released:
            pass  # what waits there again would outlast the force stop
        elif actions:
            self._act()
        elif self._collects and (
            not self._collects_own
            or len(server.active_children or ()) != len(listener.connections.forked)
        ):
            server.service_actions()  # the one of each other kind of server does nothing
        return handled

    def _act(self) -> None:
        """Call the program's own service_actions(), which may wait for something."""
        try:
            with self._requests.inline.code("the service_actions() of", self._listener):
                self._server.service_actions()
        finally:
            self._requests.inline.end_of_turn()

    def _plan(self, poller: Poller, accepts: int, parked: int) -> Optional[float]:
        """Watch what can happen; return until when (time.monotonic) at most, None is for ever.

        accepts is the listener's descriptor, -1 where nothing is to be accepted, and parked that
        of idle connections, -1 where nobody may speak. Where nothing is
        due, and this loop does not lead or the process has no neighbour, `listener.settled` says
        so with all that this depends on: the next turns need no plan.
        """
        current, listener = process.current, self._listener
        concern, leads = current.driver.concern(listener), current.driver.leads(listener)
        watched = current.watched() if leads else {}
        if accepts >= 0:
            watched[accepts] = READ
        if parked >= 0:
            watched[parked] = READ
        connections = listener.connections
        for handler in list(connections.forked.values()):
            if handler.pid not in connections.exiting:
                watched[handler.channel.fileno()] = READ
        poller.watch(watched)
        deadlines = [current.deadline() if leads else None, self._until]
        if listener.accepting or listener.serves_queue:
            deadlines.append(listener.paused_until)
        ends = min((t for t in deadlines if t is not None), default=None)
        settled = ends is None and (current.alone() or not leads)
        listener.settled = (accepts, parked, concern) if settled else None
        return ends

    def _look_elsewhere(self, ready: set[int], woken: bool, ends: Optional[float]) -> None:
        """Something other than the listener is ready, somebody has called, or it is time."""
        current, listener = process.current, self._listener
        if listener.connections.forked:
            ready = forking.look(self._server, ready)
        due = woken or (ends is not None and time.monotonic() >= ends)
        if ready or (due and current.driver.leads(listener)):
            current.driver.advance(listener)
