"""Steps 2 and 3: the hooks before a reload, and the start of a successor.

With a kept pid it is followed by what is in `bridge`.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial

from endless_py._handoff import greeting, starter
from endless_py._handoff.successor import Successor
from endless_py._reload import dry_start, hooks
from endless_py._reload.base import BaseProcess, Order
from endless_py._reload.machine import Event
from endless_py._reload.report import Report
from endless_py._reload.settings import of
from endless_py._reload.signals import RELOAD
from endless_py._reload.supervisor import Supervisor
from endless_py._sockets import activation
from endless_py._supervisor import detect, notify, pidfile
from endless_py._support import faults, log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._sockets.listener import Binding

# What this package takes out of the environment, and gives to successors as it is right for them.
_OURS = {
    greeting.VARIABLE,
    faults.VARIABLE,
    dry_start.VARIABLE,
    pidfile.PID_FILE_VARIABLE,
    *notify.VARIABLES,
    *activation.VARIABLES,
}


class Spawn:
    """Starts successors."""

    def __init__(self, process: BaseProcess, supervisor: Supervisor, report: Report) -> None:
        self._process = process
        self._supervisor = supervisor
        self._report = report
        self.command = process.started.command
        # Held while a successor is started, and by whoever forks: see `process`.
        self.fork_lock = threading.RLock()
        self._said: Optional[bool] = None
        self._starting: Optional[str] = None  # who asked for the successor that is being started

    # -- what a successor is given ----------------------------------------

    def keeps_pid(self) -> bool:
        """Whether the next reload keeps the pid; logged when it is first known."""
        process = self._process
        servers = [of(listener.server) for listener in process.listeners.all]
        asked: list[Any] = [getattr(server, "keep_pid", "auto") for server in servers]
        keeps, why = detect.decide(asked, self._supervisor.notifier.enabled)
        said, self._said = self._said, keeps
        if keeps is not said and (said is not None or process.predecessors.parent is None):
            template = "a reload gives the new process a pid of its own: %(reason)s"
            if keeps:
                template = "a reload keeps the pid: %(reason)s"
            main = threading.main_thread().ident
            alone = all(s.own_loop and s.loop_thread != main for s in process.listeners.all)
            level = log.DEBUG if said is None and alone and not process.generation else log.INFO
            process.log(level, template, "pid", keeps=keeps, reason=why)
        return keeps

    def announce(self, *_: object) -> None:
        """Be ready for a reload; in the first generation, say at once what it will do."""
        self._process.driver.later(self._import_in_time)
        if self._process.predecessors.parent is None and self._said is None:
            self.keeps_pid()

    def _import_in_time(self) -> None:
        with suppress(OSError):  # where it cannot be done now a reload does it, if it can
            self._process.make(partial(starter.import_in_time, self.command))

    def greeting(self, generation: int, bridge: bool, kept: bool, ancestor: bool) -> dict[str, Any]:
        """Return what a successor is told first.

        kept says that this process will be replaced in place, ancestor that it has a living
        predecessor.
        """
        process = self._process
        older = process.predecessors.older & {os.getsid(0)} | process.predecessors.pids()
        return {
            "generation": generation,
            "bridge": bridge,
            "own": process.generation,
            "kept": kept,
            "ancestor": ancestor,
            "ignores_terminal": process.signals.ignored_hup,
            "older": sorted(older),
            "blocked": sorted(process.started.blocked),
            "orphaned": process.orphaned,
        }

    def sockets(self) -> list[tuple[Binding, int]]:
        """Return what a successor is handed: first those of servers, in their order."""
        process = self._process
        own = [(binding, descriptor) for _, binding, descriptor in process.listeners.bound()]
        return own + process.received.lent()

    def environment(self, bridge: bool) -> dict[str, str]:
        """Return a successor's: what the command was started with, whatever the program has set."""
        first = self._process.started.environment
        given = {name: value for name, value in first.items() if name not in _OURS}
        return {**given, **faults.environment(), **self._supervisor.environment(bridge)}

    # -- actions ----------------------------------------------------------

    def prepare(self, name: str) -> None:
        """Run the `before_reload` hooks, as a job; without any the successor is started at once."""
        if self._process.hooks.before_reload:
            self._process.driver.later(lambda: self._run_hooks(name))
        else:
            self._process.fire(Event.PREPARED, name)

    def _run_hooks(self, name: str) -> None:
        for hook in list(self._process.hooks.before_reload):
            try:
                hook()
            except Exception as error:
                why = f"reload cancelled by {hooks.name_of(hook)}: {error!r}; serving goes on"
                self._process.post(Order(Event.CANCELLED, why))
                return
        self._process.post(Order(Event.PREPARED, name))

    def start(self, name: str) -> None:
        """Start a successor. It fails at once where that cannot be."""
        process = self._process
        number = process.generation + 1
        bridge = process.bridge or self.keeps_pid()
        process.successor, process.handed = None, []
        successor = None
        try:
            ancestor = bool(process.predecessors.living)
            told = self.greeting(number, bridge, bridge and not process.bridge, ancestor)
            capture = self._report.capture()
            handed = [listener for listener, _, _ in process.listeners.bound()]
            with process.files_lock:
                files = {**process.files, **({} if capture is None else capture.files)}
                successor = Successor(told, self.sockets(), files)
            hold = {n for n, role in process.signals.roles.items() if role == RELOAD}
            stderr = None if capture is None else capture.writer
            with self.fork_lock:
                environment = self.environment(bridge)
                successor.start(self.command, environment, process.started, hold, stderr)
        except Exception as error:
            if successor is None or successor.child is None:
                why = (
                    f"reload failed: generation {number} cannot be started: "
                    f"{error if str(error) else repr(error)}; serving goes on"
                )
                process.fire(Event.FAILED, why)
                process.fire(Event.REAPED, why)
                return
            # It runs, has the listeners, and will serve them.
            process.log(
                log.ERROR,
                "%(reason)s at %(where)s; the reload goes on",
                "error_at_start",
                reason=repr(error),
                where=log.where(error),
            )
        process.successor, process.handed = successor, handed
        self._report.given()
        self._starting = name

    def look(self) -> None:
        """Say whom `start()` has started, once that is known."""
        successor = self._process.living_successor
        if successor is None:
            self._starting = None
        elif self._starting is not None and successor.begun():
            name, self._starting = self._starting, None
            self._report.started(successor)
            self._process.log(
                log.INFO,
                "%(reason)s: started %(successor)s; this one serves until it is ready",
                "starts",
                reason=name,
                successor=successor,
            )

    def watched(self) -> int:
        """Return the descriptor that leads to `look()`; -1 when there is none."""
        successor = self._process.living_successor
        child = None if successor is None else successor.child
        return -1 if child is None else child.watched()
