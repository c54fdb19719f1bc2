"""An order to reload, up to the start of a successor, or why there is none.

With a kept pid this is done twice: the second time the bridge hands back, and the process
that it came from is to become its successor.
"""

from __future__ import annotations

from endless_py._handoff.handoff import Successor
from endless_py._reload import hooks
from endless_py._reload.hooks import Hooks
from endless_py._reload.inherit import Estate
from endless_py._reload.life import Life
from endless_py._reload.machine import Phase
from endless_py._reload.predecessors import Predecessors
from endless_py._reload.reexec import Replacement
from endless_py._reload.report import Reports
from endless_py._reload.servers import Servers
from endless_py._reload.signals import RELOAD
from endless_py._reload.succession import Succession
from endless_py._support import faults, log


class Reload:
    """Starts successors; it remembers nothing."""

    def __init__(
        self,
        life: Life,
        servers: Servers,
        predecessors: Predecessors,
        estate: Estate,
        replacement: Replacement,
        succession: Succession,
        reports: Reports,
        hooks: Hooks,
    ) -> None:
        self._life = life
        self._servers = servers
        self._predecessors = predecessors
        self._estate = estate
        self._replacement = replacement
        self._succession = succession
        self._reports = reports
        self._hooks = hooks

    def take(self, name: str) -> None:
        """Do what the order of that name means in this phase."""
        try:
            faults.at("signal")
            self._take(name)
        except Exception as error:
            self._reports.failed(f"reload failed: {error!r} at {log.where(error)}; serving goes on")

    def _take(self, name: str) -> None:
        phase = self._life.phase
        if phase is Phase.SERVING:
            self._start(name)
        elif phase is Phase.RELOADING:
            self._succession.again = True
            self._life.log(log.INFO, f"{name} during a reload: another one follows it")
        elif phase in (Phase.DRAINING, Phase.DRAINED):
            self._succession.pass_on(RELOAD, name)
        else:
            self._life.log(log.INFO, f"{name} ignored: this process is {phase.value}")

    def _start(self, name: str) -> None:
        self._reports.begins()
        for hook in self._hooks.before_reload:
            try:
                hook()
            except Exception as error:
                self._reports.failed(
                    f"reload cancelled by {hooks.name_of(hook)}: {error!r}; serving goes on",
                    again=True,
                )
                return
        waiting = self._predecessors.waiting()
        if waiting is not None:
            self._life.log(log.INFO, f"{name}: the kept pid starts the program anew in a moment")
            self._reports.elsewhere(waiting.pid)
            return
        number = self._life.number + 1
        bridge = self._life.bridge or self._replacement.keeps_pid()
        successor = None
        try:
            kept = bridge and not self._life.bridge
            greeting = self._estate.greeting(kept, bool(self._predecessors.living))
            capture = self._reports.capture()
            files = {**self._estate.files, **({} if capture is None else capture.files)}
            bound = self._servers.bound()
            listeners = self._estate.listeners(bound)
            successor = Successor(number, greeting, listeners, files, bridge)
            self._estate.start(successor, None if capture is None else capture.writer)
        except Exception as error:
            if successor is None or successor.child is None:
                self._reports.failed(
                    f"reload failed: generation {number} cannot be started: "
                    f"{error if str(error) else repr(error)}; serving goes on"
                )
                return
            # It runs, has the listeners, and will serve them.
            self._life.log(log.ERROR, f"{error!r} at {log.where(error)}; the reload goes on")
        self._succession.again = False
        self._succession.begins(successor, [serving for serving, _, _ in bound])
        self._reports.started(successor)
        self._life.log(
            log.INFO,
            f"{name}: started {successor}; this one serves until it is ready",
        )

    def hand_back(self) -> None:
        """As a bridge: hand everything to the process that waits to be replaced."""
        predecessor = self._predecessors.waiting()
        if self._life.phase is not Phase.SERVING or predecessor is None:
            return
        greeting = self._estate.greeting(False, len(self._predecessors.living) > 1)
        bound = self._servers.bound()
        listeners = self._estate.listeners(bound)
        successor = Successor(self._life.number, greeting, listeners, self._estate.files)
        successor.started = None  # its time begins when its program does
        successor.become(predecessor)
        predecessor.waits = False
        self._succession.begins(successor, [serving for serving, _, _ in bound])
        self._life.log(
            log.INFO,
            f"hands back to pid {predecessor.pid}, which starts the program anew; "
            "this one serves until it is ready",
        )
