"""Ready: this process's word that it serves, server by server."""

from __future__ import annotations

import os

from endless_py._handoff.handoff import Predecessor
from endless_py._reload import hooks
from endless_py._reload.hooks import Hooks
from endless_py._reload.inherit import Estate
from endless_py._reload.life import Life
from endless_py._reload.machine import Phase
from endless_py._reload.manager import Manager
from endless_py._reload.predecessors import Predecessors
from endless_py._reload.servers import Servers
from endless_py._reload.serving import Serving
from endless_py._reload.signals import RELOAD, STOP, Signals
from endless_py._support import faults, log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional


class Readiness:
    """Who has said ready, and who waits for the program to say it."""

    def __init__(
        self,
        life: Life,
        servers: Servers,
        predecessors: Predecessors,
        estate: Estate,
        signals: Signals,
        manager: Manager,
        hooks: Hooks,
    ) -> None:
        self._life = life
        self._servers = servers
        self._predecessors = predecessors
        self._estate = estate
        self._signals = signals
        self._manager = manager
        self._hooks = hooks
        self._told = False  # that all servers are
        self._called = False  # by the program itself

    def says_itself(self, serving: Serving) -> bool:
        """Whether to enter this server's loop is to say ready."""
        return bool(serving.server.ready_on_serve or self._called)

    def call(self) -> None:
        """The program says it, for every server whose loop does not."""
        self._called = True
        self.say([s for s in self._servers.all if s.entered or not s.own_loop])

    def say(self, servings: list[Serving]) -> None:
        """Say it for these; raises what a check of the program's raises, and PidFileError."""
        life = self._life
        self._hooks.check()
        parent = self._predecessors.living_parent()
        orders = self._orders()
        self._estate.restore_error_output()
        with life.driver.lock:  # two threads may want to say it of the same server
            servings = [serving for serving in servings if not serving.ready]
            for serving in servings:
                serving.entered = serving.ready = True
        for serving in servings:
            serving.accepting = life.phase in (Phase.SERVING, Phase.RELOADING)
            serving.wake()
            life.log(log.INFO, f"serves {serving}{' meanwhile' if life.bridge else '; ' + orders}")
            if parent is not None:
                index = serving.binding.index if serving.binding is not None else None
                faults.at("ready")
                self._tell(parent, "ready", index)
        with life.driver.lock:
            if self._manager.serves(strict=life.number == 0):
                self._estate.say_unused()
            complete = all(s.ready for s in self._servers.all) and not self._told
            self._told = self._told or complete
        if complete:
            self._hooks.step(hooks.READY)

    def _orders(self) -> str:
        """Say how an operator reloads and stops this process."""
        pairs = (self._signals.first(RELOAD), "reloads"), (self._signals.first(STOP), "stops")
        known = [(name, verb) for name, verb in pairs if name]
        return ", ".join(
            f"{'kill ' * (not number)}-{name} {f'{os.getpid()} ' * (not number)}{verb}"
            for number, (name, verb) in enumerate(known)
        )

    def say_adopted(self, serving: Serving) -> None:
        """Tell the predecessor that this server has bound one of its listeners."""
        parent, binding = self._predecessors.living_parent(), serving.binding
        if parent is not None and binding is not None and binding.index is not None:
            self._tell(parent, "adopted", binding.index)
            faults.at("adopted")

    def _tell(self, parent: Predecessor, word: str, index: Optional[int]) -> None:
        parent.say(word, index=index)
        if parent.channel.sending:  # whoever drives has to watch for room in it
            self._life.driver.wake()
