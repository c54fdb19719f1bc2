"""Orders to stop and to force that: how many came, and who else is told."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from endless_py._reload.base import BaseProcess
from endless_py._reload.machine import Event
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._handoff.predecessor import Predecessor
    from endless_py._handoff.successor import Successor


def pass_on(process: BaseProcess, word: str, name: str, **fields: Any) -> Optional[Successor]:
    """Let the successor have an order that came to this process; None where there is none."""
    successor = process.living_successor
    if successor is None:
        template = "%(reason)s has no successor to be passed on to; it is dropped"
        process.log(log.WARNING, template, "order_dropped", reason=name)
        return None
    template = "%(reason)s passed on to %(successor)s"
    process.log(log.INFO, template, "passed_on", reason=name, successor=successor)
    successor.say(word, **fields)
    return successor


# A terminal's: Ctrl-C, and its end. Whoever sits before it waits for no load balancer.
_AT_ONCE = (int(signal.SIGINT), int(getattr(signal, "SIGHUP", 0)))


class Stop:
    """The orders so far: a second one, unless it is the first one passed on, is to force it."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        self.interrupted = False  # by SIGINT, which no serve_forever() has raised yet
        self.last_signal = int(signal.SIGTERM)  # the one that ordered it last
        self._orders = 0
        self._at_once = False  # the last order is not to be put off
        self._put_off = False  # it was, so that another one only ends that
        self._delay_ends: Optional[float] = None  # time.monotonic()
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

    def order(self, event: Event, number: int, name: str, now: bool = False) -> None:
        """An order came; number is 0 without a signal. now says that no stop_delay puts it off."""
        if number == signal.SIGINT:
            self.interrupted = True
        if event is Event.STOP:
            again, was_put_off = self._orders > self._passed_on, self._put_off
            self._at_once = now or again or number in _AT_ONCE
            self._put_off = not self._at_once and self._is_put_off()
            if again and not was_put_off:
                event = Event.FORCE
            elif self._put_off and self._process.machine.accepting:
                event = Event.STOP_LATER
            self._orders += 1
            self.last_signal = number or self.last_signal
        self._process.fire(event, name)

    def _is_put_off(self) -> bool:
        """Whether a first order to stop would be; by this process or, where it drains, the next."""
        process = self._process
        if process.machine.starting and not process.children.orphans:
            return False  # nothing is served here, nor by a bridge
        drains_to_stop = process.machine.stops and not process.machine.delays
        return process.listeners.stop_delay() > 0 and not drains_to_stop

    def passed_on(self, predecessor: Predecessor, now: bool = False) -> None:
        """A predecessor was told to stop, after this process was started."""
        self._passed_on = 1
        self.order(Event.STOP, 0, f"a stop passed on by {predecessor}", now)

    def bridge_stops(self) -> None:
        """The bridge was told to: this process would be started anew only to stop."""
        if not self.ordered:
            self._orders = self._passed_on = 1

    # -- the delay --------------------------------------------------------

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which the delay is over; None: there is none."""
        return self._delay_ends if self._process.machine.delays else None

    def check(self) -> None:
        """Stop once the delay is over."""
        ends = self.deadline()
        if ends is not None and time.monotonic() >= ends:
            self._delay_ends, self._put_off = None, False
            self._process.fire(Event.STOP, "the stop_delay is over")

    def at_exit(self) -> None:
        """The interpreter ends: in what has never served nobody may have looked for an order."""
        process = self._process
        if process.machine.starting and process.children.orphans:
            process.driver.advance()
            name = process.owed.pop("delayed stop", None)
            if name is not None:
                with process.driver.stepping:
                    process.fire(Event.STOP, name)

    # -- actions ----------------------------------------------------------

    def delay(self, name: str) -> None:
        """Go on accepting: who asks whether this process is ready has to hear first that not."""
        seconds = self._process.listeners.stop_delay()
        self._delay_ends = time.monotonic() + seconds
        template = (
            "%(reason)s; goes on accepting for %(seconds)g s (stop_delay), unless it is told again"
        )
        self._process.log(log.INFO, template, "stop_delayed", reason=name, seconds=seconds)
        self._process.wake_all()

    def owe_delayed(self, name: str) -> None:
        """A bridge serves until this process does; then it is told to stop."""
        self._process.owed["delayed stop"] = name

    def owe_stop(self, name: str) -> None:
        """Should this process serve again, it stops."""
        self._process.owed["stop"] = name

    def pass_on(self, name: str) -> None:
        pass_on(self._process, "stop", name, now=self._at_once)

    def pass_on_force(self, name: str) -> None:
        pass_on(self._process, "force", name)

    def force_predecessors(self, *_: object) -> None:
        self._process.predecessors.say("force")

    def stop_successor(self, name: str) -> None:
        """One that was to take over stops as well."""
        process, successor = self._process, self._process.living_successor
        if successor is None:
            return
        successor.say("stop", now=True)
        if successor.child is not None:
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
