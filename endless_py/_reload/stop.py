"""Orders to stop and to force that: how many came, and who else is told."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from endless_py._reload.base import BaseProcess
from endless_py._reload.machine import Event
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

    from endless_py._handoff.predecessor import Predecessor
    from endless_py._handoff.successor import Successor


def pass_on(process: BaseProcess, word: str, name: str) -> Optional[Successor]:
    """Let the successor have an order that came to this process; None where there is none."""
    successor = process.living_successor
    if successor is None:
        template = "%(reason)s has no successor to be passed on to; it is dropped"
        process.log(log.WARNING, template, "order_dropped", reason=name)
        return None
    template = "%(reason)s passed on to %(successor)s"
    process.log(log.INFO, template, "passed_on", reason=name, successor=successor)
    successor.say(word)
    return successor


class Stop:
    """The orders so far: a second one, unless it is the first one passed on, is to force it."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
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

    def order(self, event: Event, number: int, name: str) -> None:
        """An order came; number is 0 without a signal."""
        if number == signal.SIGINT:
            self.interrupted = True
        if event is Event.STOP:
            if self._orders > self._passed_on:
                event = Event.FORCE
            self._orders += 1
            self.last_signal = number or self.last_signal
        self._process.fire(event, name)

    def passed_on(self, predecessor: Predecessor) -> None:
        """A predecessor was told to stop, after this process was started."""
        self._passed_on = 1
        self.order(Event.STOP, 0, f"a stop passed on by {predecessor}")

    def bridge_stops(self) -> None:
        """The bridge was told to: this process would be started anew only to stop."""
        if not self.ordered:
            self._orders = self._passed_on = 1

    # -- actions ----------------------------------------------------------

    def owe_stop(self, name: str) -> None:
        """Should this process serve again, it stops."""
        self._process.owed["stop"] = name

    def pass_on(self, name: str) -> None:
        pass_on(self._process, "stop", name)

    def pass_on_force(self, name: str) -> None:
        pass_on(self._process, "force", name)

    def force_predecessors(self, *_: object) -> None:
        self._process.predecessors.say("force")

    def stop_successor(self, name: str) -> None:
        """One that was to take over stops as well."""
        process, successor = self._process, self._process.living_successor
        if successor is None:
            return
        if successor.child is None:
            successor.say("stop")
        else:
            successor.begun(wait=True)
            with suppress(OSError):
                os.kill(successor.pid, signal.SIGTERM)
        longest = process.listeners.longest_drain()
        successor.fail(f"{name} stops both", kill_after=longest + 1 if successor.ready else 1)
        if successor.child is not None:
            process.children.leave(successor.child)
        process.children.soon()

    def tell_neighbours(self, *_: object) -> None:
        self._process.predecessors.say("stopping")

    def say_kept_pid_stops(self, why: str) -> None:
        """The kept pid was told to stop before it was ready."""
        self._process.log(log.INFO, "%(reason)s, and this one as well", "stops", reason=why)
