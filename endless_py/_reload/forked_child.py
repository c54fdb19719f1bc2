"""What a forked child of this process gives up: a fork is not a generation.

A handler's process pays for each page of memory that it writes to, and each object that is looked
at is written to (its references are counted). So what is only the server's is given up in two ways.
Where nothing is going on, a handler has all those descriptors made the null device's, by their
numbers, which the parent has noted: no object has to know. Every other child, and a handler that
goes on to more than its request, closes each and forgets what belongs to it.
"""

from __future__ import annotations

import _thread
import os
import threading

from endless_py._reload.answers import Answers
from endless_py._reload.base import BaseProcess
from endless_py._reload.listener import Listener
from endless_py._reload.orders import Orders
from endless_py._reload.report import Report
from endless_py._reload.supervisor import Supervisor
from endless_py._sockets.poller import Poller

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional


class ForkedChild:
    """Notes what is to be given up, in the parent, and gives it up, in the child."""

    def __init__(
        self,
        process: BaseProcess,
        supervisor: Supervisor,
        report: Report,
        answers: Answers,
        orders: Orders,
    ) -> None:
        self._process = process
        self._supervisor = supervisor
        self._report = report
        self._answers = answers
        self._orders = orders
        self._noted_for: tuple[object, ...] = ()
        self._noted: Optional[tuple[int, ...]] = None
        self._holds = False  # the supervisor has something to give up as well
        self._forking: dict[int, Listener] = {}  # by thread: whose handler is being forked
        self._served: Optional[Listener] = None  # by a handler that has not given up everything

    # -- in the parent ----------------------------------------------------

    def fork(self, listener: Listener, fork: Callable[..., Any], *arguments: Any) -> None:
        """Call fork(*arguments); what this thread forks meanwhile is a handler of this one."""
        process = self._process
        # All on which that depends: a number must not be noted longer than it means the same.
        now = process.driver.changes, process.listeners.all, listener.server.fileno()
        if now != self._noted_for:
            self._noted_for, self._noted = now, self._only_ours(listener)
            self._holds = self._supervisor.holds
        self._forking[_thread.get_ident()] = listener
        try:
            fork(*arguments)
        finally:
            self._forking.pop(_thread.get_ident(), None)

    def _only_ours(self, listener: Listener) -> Optional[tuple[int, ...]]:
        """Return those descriptors, None where more than descriptors is to be given up."""
        process, control, poller = self._process, self._answers.control, listener.poller
        if (
            process.listeners.all != (listener,)
            or listener.parking is not None
            or listener.drain_signal is None
            or not isinstance(poller, Poller)
            or process.group is not None
            or not process.alone()
            or process.predecessors.older
            or process.children.leaving
            or control.conversations
            or process.left_orders
        ):
            return None
        found = [*control.descriptors(), *process.signals.descriptors(), *poller.descriptors()]
        found += listener.drain_signal.descriptors()
        if self._orders.terminal is not None:
            found += self._orders.terminal.watched()
        if not listener.datagrams:  # they are answered through it
            found.append(listener.server.fileno())
        return tuple(found)

    # -- in the child -----------------------------------------------------

    def begin(self, beside_threads: bool) -> None:
        """A child was forked; other threads, which are not here, may have held our locks."""
        served, self._forking = self._forking.get(_thread.get_ident()), {}
        if served is None or beside_threads:
            self._served = None
            self._renew_locks()
        elif self._noted is not None and _to_null_device(self._noted):
            # Attributes, not methods: a function is some five pages that are written to.
            process, self._served = self._process, served
            process.in_handler = served.in_child = True
            process.signals.handler = process.signals.end_handler
            process.signals.late.clear()
            if served.drain_signal is not None:
                served.drain_signal.local = False
            if self._holds:
                self._supervisor.in_forked_child()
            return
        self._give_up(served)

    def settle(self) -> None:
        """A server is added or removed, or its loop begins: note anew before the next fork.

        In a handler, which goes on to more than its request: give up what other children do.
        """
        self._noted_for, self._noted = (), None
        served, self._served = self._served, None
        if served is not None:
            self._give_up(served)

    def _renew_locks(self) -> None:
        process = self._process
        process.counters.in_forked_child()
        process.beside.in_forked_child()
        process.driver.in_forked_child()
        process.files_lock = threading.RLock()

    def _give_up(self, served: Optional[Listener]) -> None:
        process = self._process
        process.left_orders.clear()
        self._answers.control.close()
        if not process.machine.at_peace:
            self._report.in_forked_child()
        if process.predecessors.older:
            process.predecessors.in_forked_child()
        if process.living_successor is not None:
            process.living_successor.in_forked_child()
        process.successor = None
        if process.children.leaving:
            process.children.in_forked_child()
        if process.listeners.all:  # else it becomes a daemon, and will be what is served
            self._supervisor.in_forked_child()
        if served is None:
            process.signals.restore()
            process.reserve.in_forked_child()
        else:
            process.signals.in_handler_process()
            process.signals.close_pipe()
        if self._orders.terminal is not None:
            self._orders.terminal.close()
        process.listeners.in_forked_child(served)
        if process.group is not None:
            process.group.in_forked_child()
        process.group, process.worker, process.in_handler = None, 0, served is not None


def _to_null_device(descriptors: tuple[int, ...]) -> bool:
    """Have each of them mean the null device from now on; whether that could be done."""
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # no descriptor is free, or the program has no such device
        return False
    try:
        for descriptor in descriptors:
            os.dup2(null, descriptor, inheritable=False)
    except OSError:
        return False
    finally:
        os.close(null)
    return True
