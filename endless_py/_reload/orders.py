"""Orders: what signals, commands and the program want, carried out by whoever drives.

Step 1 of a reload. A signal's hooks run before and after its order, as jobs: when nothing is held.
"""

from __future__ import annotations

import signal
from functools import partial

from endless_py._reload.base import BaseProcess, Order
from endless_py._reload.bridge import Bridge
from endless_py._reload.drain import HandlerCut
from endless_py._reload.exit import Exit
from endless_py._reload.machine import Event
from endless_py._reload.progress import Progress
from endless_py._reload.report import Report
from endless_py._reload.signals import CALL, FORCE, RELOAD, STOP, as_if_not_there
from endless_py._reload.stop import Stop, pass_on
from endless_py._supervisor.detect import in_foreground
from endless_py._supervisor.terminal import Terminal
from endless_py._support import faults, log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from types import FrameType
    from typing import Optional

_EVENTS = {RELOAD: Event.RELOAD, STOP: Event.STOP, FORCE: Event.FORCE}


class Orders:
    """Carries them out, one after the other."""

    def __init__(
        self, process: BaseProcess, stop: Stop, report: Report, bridge: Bridge, end: Exit
    ) -> None:
        self._process = process
        self._stop = stop
        self._report = report
        self._bridge = bridge
        self._exit = end
        self.terminal: Optional[Terminal] = None
        self.progress = Progress(process)

    def on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        """In a signal handler: leave a note.

        What else is done here is what the signal would do without this package, before the first
        server serves and after the last one has drained.
        """
        process = self._process
        role = process.signals.roles.get(number)
        if number == getattr(signal, CALL) and not self._exit.watch.ends_main:
            if process.listeners.cutting_inline():
                raise HandlerCut
            process.called = True
            process.wake()
            return
        late = process.machine.over and role not in (None, RELOAD)
        if late or self._exit.watch.ends_main:
            if self._exit.late_signal(number, frame):
                return
        elif process.machine.starting and role in (STOP, FORCE) and not process.children.orphans:
            as_if_not_there(number, frame)
            return
        process.post(self.from_signal(number))

    def from_signal(self, number: int) -> Order:
        """Return what a signal means."""
        role = self._process.signals.roles.get(number)
        event = None if role is None else _EVENTS[role]
        return Order(event, signal.Signals(number).name, number=number)

    def look(self) -> int:
        """Note what signals have left whose handler did not run; return how many orders wait."""
        self.note_overdue()
        if self.terminal is not None:
            self.terminal.look()
        return len(self._process.left_orders)

    def step(self, count: int) -> None:
        """Carry out so many orders; more that have come meanwhile are for the next step."""
        for _ in range(count):
            self._take(self._process.left_orders.popleft())

    def note_overdue(self, last: bool = False) -> None:
        """Note the signals whose handler has not run in time; last: no time is left."""
        process = self._process
        process.left_orders.extend(map(self.from_signal, process.signals.overdue(last)))

    def _take(self, order: Order) -> None:
        hooks = self._process.hooks
        if order.number and not order.hooked and hooks.before_signal.get(order.number):
            self._process.driver.later(partial(self._run_hooks_before, order))
            return
        if order.call is not None:
            order.call()
        elif order.event is not None:
            self._carry_out(order)
        after = hooks.after_signal.get(order.number)
        if order.number and after:
            kind = f"after_signal({order.name}) hook"
            self._process.driver.later(partial(hooks.run, after, kind))

    def _run_hooks_before(self, order: Order) -> None:
        hooks = self._process.hooks
        hooks.run(hooks.before_signal[order.number], f"before_signal({order.name}) hook")
        order.hooked = True
        self._process.post(order)

    def _carry_out(self, order: Order) -> None:
        process, event, name = self._process, order.event, order.name
        assert event is not None
        if process.group is not None and process.group.refers(event, name, order.number):
            return
        if order.number == signal.SIGHUP and self.terminal and self.terminal.has_just_gone():
            if not self.terminal.broken and self.terminal.leader in process.predecessors.older:
                template = "SIGHUP ignored: the terminal went with an older generation"
                process.log(log.DEBUG, template, "hup_ignored")
                return
            if not process.signals.ignored_hup:
                event, name = Event.STOP, "SIGHUP from the terminal, which is gone"
        if event is Event.RELOAD:
            self._reload(name)
        elif event in (Event.STOP, Event.FORCE):
            if order.number == signal.SIGINT and not self._stop.ordered and in_foreground():
                process.hurries = True  # nobody waits for an open browser tab
                self.progress.begin()
            self._stop.order(event, order.number, name)
        else:
            process.fire(event, *order.what)

    def _reload(self, name: str) -> None:
        process = self._process
        try:
            faults.at("signal")
        except Exception as error:
            self._report.failed(f"reload failed: {error!r} at {log.where(error)}; serving goes on")
            return
        waiting = process.predecessors.waiting()
        if waiting is not None and process.machine.at_peace:
            template = "%(reason)s: %(predecessor)s is to start the program anew now"
            who = f"pid {waiting.pid}"
            process.log(log.INFO, template, "hurries", reason=name, predecessor=who)
            self._bridge.hurry()
            return
        process.fire(Event.RELOAD, name)

    # -- actions ----------------------------------------------------------

    def owe_reload(self, name: str) -> None:
        """Another reload is to follow the present one."""
        self._process.owed["reload"] = "a reload asked for meanwhile"
        template = "%(reason)s during a reload: another one follows it"
        self._process.log(log.INFO, template, "reload_follows", reason=name)

    def owe_early_reload(self, name: str) -> None:
        """There is nothing to hand over yet; a HUP of before counts all the same."""
        self._process.owed["reload"] = name
        template = "%(reason)s before anything is served: a reload follows"
        self._process.log(log.INFO, template, "early_reload", reason=name)

    def pass_on_owed_reload(self, *_: object) -> None:
        """It is the successor's to do now."""
        if self._process.owed.pop("reload", None) is not None:
            self.pass_on_reload("the last order to reload")

    def pass_on_reload(self, name: str) -> None:
        """Let the successor have an order that came to this process."""
        successor = pass_on(self._process, "reload", name)
        if successor is not None:
            successor.reload_passed_on = True
