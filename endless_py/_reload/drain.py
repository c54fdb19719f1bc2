"""Step 6: no more is accepted, what is active finishes, and what outlasts the drain is ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial

from endless_py._reload import hooks
from endless_py._reload.base import BaseProcess
from endless_py._reload.let_go import let_threads_go
from endless_py._reload.listener import Listener
from endless_py._reload.machine import Event
from endless_py._reload.report import Report
from endless_py._reload.settings import say_limit
from endless_py._reload.signals import CALL
from endless_py._sockets.connection import Connection, say_address
from endless_py._support import faults, log

_ABANDON_AFTER = 0.5  # seconds a handler has to end once its connection was cut


class HandlerCut(BaseException):
    """Raised in the main thread inside a handler that outlasted the force stop."""


class Drain:
    """The drain of all servers of this process."""

    def __init__(self, process: BaseProcess, report: Report) -> None:
        self._process = process
        self._report = report

    # -- actions ----------------------------------------------------------

    def begin(self, why: str, *_: object) -> None:
        """Stop accepting, and tell every handler."""
        process = self._process
        faults.at("stop accepting")
        active, longest = process.listeners.drain(process.hurries and process.machine.stops)
        quiet = process.machine.migrates and not active  # nobody waits for anything
        quiet = quiet or bool(process.worker)  # the leader says it for all
        process.log(
            log.DEBUG if quiet else log.INFO,
            "%(reason)s; finishing %(requests)d requests, %(limit)s",
            "drains",
            reason=why,
            requests=active,
            limit=say_limit(longest),
        )
        if process.group is not None:
            process.group.drains()
        process.wake_all()

    def tell_program(self, *_: object) -> None:
        """Have the program's hooks and callbacks called."""
        process = self._process
        faults.at("draining")
        process.driver.later(partial(process.hooks.run_step, hooks.DRAINING))
        for listener in process.listeners.foreign():
            if listener.on_drain is None:
                listener.done = True
            else:
                told = partial(process.hooks.run, [listener.on_drain], f"on_drain of {listener}")
                process.driver.later(told)

    def close_listeners(self, *_: object) -> None:
        """Nobody will accept on them again."""
        self._process.listeners.close()
        self._process.tell_workers("close")

    def give_up_listeners(self, *_: object) -> None:
        """This process stops, and nobody takes over."""
        for listener in self._process.listeners.all:
            listener.migrates_to = None
        self._process.listeners.unlink()
        self._process.listeners.close()

    def force(self, name: str) -> None:
        """End what is still active, by the order of that name."""
        if self._process.machine.drains:
            template = "%(reason)s: ends what is still active now"
            self._process.log(log.WARNING, template, "forced", reason=name)
        self._process.listeners.end_drain_time()
        self._process.tell_workers("force")

    # -- the drain's time -------------------------------------------------

    def check(self) -> None:
        """Cut, then abandon, what is still active when its time is over."""
        self._leave_room()
        self._process.listeners.tell_handlers()
        for listener in self._process.listeners.all:
            now = time.monotonic()
            if listener.drain_deadline is not None and now >= listener.drain_deadline:
                self._cut(listener, now)
                listener.drain_deadline = None
            if listener.abandon_at is not None and now >= listener.abandon_at:
                listener.abandon_at = None
                self._abandon(listener)

    def _leave_room(self) -> None:
        """As the oldest of more generations than may drain, end what is still active."""
        process, successor = self._process, self._process.living_successor
        if successor is None or successor.crowd is None:
            return
        (younger, most), successor.crowd = successor.crowd, None
        told = any(listener.cut for listener in process.listeners.all)
        if younger >= most and not told:
            process.fire(
                Event.FORCED,
                f"generation {process.generation} (pid {os.getpid()}) is the oldest of "
                f"{younger + 1} that drain, and {most} may (max_draining)",
            )

    def _cut(self, listener: Listener, now: float) -> None:
        active = listener.connections.all()
        listener.move("cut")  # who sees the end of a connection is to see why
        requests = sum(not connection.idle for connection in active)
        self._process.counters.add("connections_cut", requests)
        self._report.cut(requests)
        faults.at("hammer")
        for connection in active:
            self._process.log(
                log.WARNING,
                "drain time is over: cuts %(client)s on %(listener)s, active for %(seconds).1f s",
                "cut",
                client=say_address(connection.client_address),
                listener=listener,
                seconds=now - connection.since,
            )
            connection.cut()
        if active or listener.in_accept or listener.inline_thread is not None:
            listener.abandon_at = now + _ABANDON_AFTER

    def _abandon(self, listener: Listener) -> None:
        """What was cut has not ended: stop waiting for it."""
        log_line = self._process.log
        if listener.inline_thread is not None:
            if listener.inline_thread == threading.main_thread().ident:
                listener.inline_cut = True
                os.kill(os.getpid(), getattr(signal, CALL))
                return
            template = "a handler of %(listener)s does not end; the process ends at once"
            log_line(log.ERROR, template, "ends_at_once", listener=listener)
            os._exit(1)
        left: list[Connection] = listener.connections.abandon()
        for connection in left:
            client = say_address(connection.client_address)
            template = "the handler of %(client)s does not end"
            log_line(log.ERROR, template, "handler_does_not_end", client=client)
        server = listener.server
        threads = vars(server).pop("_threads", ()) if server is not None else ()
        let_threads_go(threads)
