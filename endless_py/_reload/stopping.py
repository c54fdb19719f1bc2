"""Orders to stop and to hammer: what they mean in each phase, and how many came."""

from __future__ import annotations

import signal

from endless_py._handoff.handoff import Predecessor
from endless_py._reload.drain import Drain
from endless_py._reload.life import Life
from endless_py._reload.machine import Phase
from endless_py._reload.manager import Manager
from endless_py._reload.predecessors import Predecessors
from endless_py._reload.report import Reports
from endless_py._reload.servers import Servers
from endless_py._reload.signals import HAMMER, STOP
from endless_py._reload.succession import Succession
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional


class Stopping:
    """The orders so far: a second one, unless it is the first one passed on, hammers."""

    def __init__(
        self,
        life: Life,
        servers: Servers,
        predecessors: Predecessors,
        succession: Succession,
        drain: Drain,
        manager: Manager,
        reports: Reports,
    ) -> None:
        self._life = life
        self._servers = servers
        self._predecessors = predecessors
        self._succession = succession
        self._drain = drain
        self._manager = manager
        self._reports = reports
        self.interrupted = False  # by SIGINT, which no serve_forever() has raised yet
        self.last_signal = int(signal.SIGTERM)  # the one that ordered it last
        self._orders = 0
        self._passed_on = 0  # by a predecessor; a group's signal reaches both of us

    @property
    def ordered(self) -> bool:
        """Whether this process was told to stop."""
        return self._orders > 0

    @property
    def by_signal(self) -> Optional[int]:
        """The signal that this process ends by, if it was told to stop."""
        if not self.ordered:
            return None
        return int(signal.SIGINT) if self.interrupted else self.last_signal

    def take(self, order: str, number: int, name: str) -> None:
        """Do what an order means in this phase; number is 0 without a signal."""
        life = self._life
        if number == signal.SIGINT:
            self.interrupted = True
        if life.phase is Phase.STARTING:
            life.move(Phase.SERVING)
        hammer = order == HAMMER or self._orders > self._passed_on
        if order == STOP:
            self._orders += 1
            self.last_signal = number or self.last_signal
        if life.phase in (Phase.SERVING, Phase.RELOADING):
            self._stop(name)
        elif life.phase in (Phase.DRAINING, Phase.DRAINED):
            self._succession.pass_on(HAMMER if hammer else STOP, name)
            self._manager.stopping()
        if hammer and life.phase in (Phase.DRAINING, Phase.STOPPING, Phase.DRAINED):
            self._predecessors.say("hammer")
            self.hammer(name)

    def hammer(self, name: str) -> None:
        """End what is still active, by the order of that name."""
        if self._life.drains:
            self._life.log(log.WARNING, f"{name}: ends what is still active now")
        self._servers.hammer()

    def passed_on(self, predecessor: Predecessor) -> None:
        """A predecessor was told to stop, after this process was started."""
        self._passed_on = 1
        self._life.order(STOP, f"a stop passed on by {predecessor}")

    def bridge_stops(self) -> None:
        """The bridge was told to: this process would be started anew only to stop."""
        if not self.ordered:
            self._orders = self._passed_on = 1

    def not_handed_back(self, why: str) -> None:
        """The process whose pid was to be kept is gone: its supervisor starts another one."""
        self._life.log(log.ERROR, f"{why}; this one makes room for what its supervisor starts")
        if self._life.phase in (Phase.SERVING, Phase.RELOADING):
            self._stop("the kept pid has ended")
        elif self._life.phase is Phase.DRAINING:
            self._servers.close_listeners()

    def _stop(self, name: str) -> None:
        self._succession.stop_too(name)
        self._predecessors.say("stopping")
        self._life.move(Phase.STOPPING)
        for serving in self._servers.all:
            serving.migrates_to = None
        self._servers.unlink()
        self._servers.close_listeners()
        self._reports.stopped()
        self._drain.start(f"{name}: stops")
