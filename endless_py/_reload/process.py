"""The one object that stands for this process. Programs reach it through functions in `endless_py`.

It puts the steps together, and is driven (see `driver`): `step()` is what there is to do whenever
something has happened. The package's docstring has the table of the steps and their files.
"""

from __future__ import annotations

import atexit
import os
from functools import partial

from endless_py._handoff.channel import Channel
from endless_py._reload.answers import Answers
from endless_py._reload.base import BaseProcess, Order
from endless_py._reload.bridge import Bridge
from endless_py._reload.drain import Drain
from endless_py._reload.dry_start import DryStart
from endless_py._reload.exit import Exit
from endless_py._reload.forked_child import ForkedChild
from endless_py._reload.forks import Forks
from endless_py._reload.hear import HearPredecessors, HearSuccessor
from endless_py._reload.inherit import Inherit
from endless_py._reload.listener import Listener
from endless_py._reload.loops import Loops
from endless_py._reload.machine import Event
from endless_py._reload.migration import Migration
from endless_py._reload.orders import Orders
from endless_py._reload.readiness import Readiness
from endless_py._reload.reexec import Reexec
from endless_py._reload.report import Report
from endless_py._reload.resume import Resume
from endless_py._reload.signals import RELOAD
from endless_py._reload.spawn import Spawn
from endless_py._reload.stop import Stop
from endless_py._reload.supervisor import Supervisor
from endless_py._sockets.poller import READ
from endless_py._supervisor.terminal import Terminal
from endless_py._support import log, platform
from endless_py._support.sigmask import block, unblock

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, Optional

    from endless_py._reload.group import Group
    from endless_py._reload.signals import Handler


class ServerProcess(BaseProcess):
    """This process, with all its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.supervisor = Supervisor(self, os.environ)
        self.report = Report(self, self.supervisor)
        self.stop = Stop(self)
        self.inherit = Inherit(self, self.supervisor)
        self.readiness = Readiness(self, self.inherit, self.supervisor)
        self.spawn = Spawn(self, self.supervisor, self.report)
        self.bridging = Bridge(self, self.spawn, self.supervisor, self.report)
        self.answers = Answers(self, self.stop, self.report, self.bridging, self.supervisor)
        self.drain = Drain(self, self.report)
        self.migration = Migration(self)
        self.resume = Resume(self, self.report)
        self.reexec = Reexec(self, self.spawn, self.supervisor, self.report, self.answers)
        self.exit = Exit(self, self.supervisor, self.stop, self.reexec, self.migration)
        self.orders = Orders(self, self.stop, self.report, self.bridging, self.exit)
        self.hear_successor = HearSuccessor(
            self, self.readiness, self.stop, self.reexec, self.migration
        )
        self.hear_predecessors = HearPredecessors(
            self, self.inherit, self.supervisor, self.bridging, self.stop
        )
        # The steps by the names that the machine's table has for them.
        self._steps = {
            "answers": self.answers,
            "bridge": self.bridging,
            "drain": self.drain,
            "exit": self.exit,
            "orders": self.orders,
            "readiness": self.readiness,
            "reexec": self.reexec,
            "report": self.report,
            "resume": self.resume,
            "spawn": self.spawn,
            "stop": self.stop,
            "supervisor": self.supervisor,
        }
        if log.standard_error.problem:
            self._warn(f"{log.VARIABLE} is ignored: {log.standard_error.problem}; info counts")
        self.forked_child = ForkedChild(
            self, self.supervisor, self.report, self.answers, self.orders
        )
        self.forks = Forks(
            self.signals, self.spawn.fork_lock, self.inherit.before_fork, self.forked_child.begin
        )
        atexit.register(self._at_exit)
        self.dry_start = DryStart(os.environ, self._warn)
        self.loops = Loops(self, self.readiness, self.dry_start, self._install_signals)
        if self.inherit.begin():
            self.forks.watch()
            self.answers.control.kept = self.inherit.control
            self._install_signals()
            unblock(self.signals.roles)
        self.inherit.take_lent()

    def _warn(self, text: str) -> None:
        self.log(log.WARNING, "%(reason)s", "environment", reason=text)

    def perform(self, action: str, what: tuple[Any, ...]) -> None:
        """Do an action of the machine's table."""
        self.action(action)(*what)

    def action(self, name: str) -> Callable[..., None]:
        step, _, method = name.partition(".")
        found: Callable[..., None] = getattr(self._steps[step], method)
        return found

    # -- servers ----------------------------------------------------------

    def add(self, listener: Listener) -> None:
        """Note a new server; the first one installs the signal handlers."""
        self.forked_child.settle()
        if not self.serving_process():  # it may have become a daemon since its import
            self.driver.begin(anew=self.in_handler)
        listener.in_child = False
        self.forks.watch()
        if not self.worker:
            self.supervisor.know(listener.server)
        self.listeners.add(listener)
        self.counters.know(listener)
        self.reserve.keep(self.machine.accepting)  # some servers accept before they say ready
        self._install_signals(first=len(self.listeners.all) == 1)

    def remove(self, listener: Listener) -> None:
        """Forget a server that was closed; the last one gives the signals back."""
        self.forked_child.settle()
        self.listeners.remove(listener)
        if listener.owns_path and listener.binding is not None and self.serving_process():
            # An incumbent that this process leaves without a word serves there again.
            parent = self.predecessors.living_parent()
            lent = listener.binding.index is not None and parent is not None
            if not lent or self.machine.stops or self.machine.over:
                listener.binding.unlink()
        listener.close()
        if not self.listeners.all and self.serving_process():
            if self.machine.at_peace:
                self.do(Order(None, call=partial(self.loops.look_if_left, True)))
            if self.machine.starting:
                self.signals.restore()
                self.reserve.keep(False)
                if self.listeners.all:  # another thread has made one meanwhile
                    self._install_signals(first=True)
                    self.reserve.keep(self.machine.accepting)

    # -- signals ----------------------------------------------------------

    def _install_signals(self, first: bool = False) -> None:
        if not (self.worker or platform.missing() or platform.is_subinterpreter()):
            self.signals.install(first)
            if self.orders.terminal is None:
                self.orders.terminal = Terminal()

    def on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        self.orders.on_signal(number, frame)

    # -- driven -----------------------------------------------------------

    def after_step(self) -> None:
        self.resume.check()

    def take_step(self) -> None:
        self.called = False
        self.machine.go_on()
        self.answers.control.step()
        self.report.step()
        self.inherit.step()
        count = self.orders.look()
        self.hear_predecessors.step()  # first: one may say something and send a signal then
        self.orders.step(count)
        self.stop.check()
        self._look_at_successor()
        if self.group is not None:
            self.group.step()
        self.resume.reap()
        self.bridging.look()
        self.orders.progress.check()
        if self.machine.drains:
            self.drain.check()
            self._look_at_successor()  # died since, it would leave nobody who accepts
        # After the last words: what it has taken makes room for more, and nothing tells again.
        self.migration.step()
        self.exit.check()
        for slow in self.listeners.slow():
            slow.look()
        if self.machine.over:
            self.exit.watch.check()
        self.supervisor.check()

    def _look_at_successor(self) -> None:
        self.spawn.look()
        self.hear_successor.step()
        self.readiness.check()
        self.resume.check()

    def pending(self) -> bool:
        """Whether there is, or may soon be, something to do."""
        if self.machine.starting:
            return False
        if not self.machine.at_peace:
            return True
        if self.group is not None and self.group.pending():
            return True
        near = self.predecessors.living or self.children.orphans
        return bool(
            self.left_orders
            or self.children.leaving
            or len(self.migration)
            or self.called
            or self.machine.waits
            or self.driver.jobs_wait
            or self.answers.control.conversations
            or self.listeners.slow()
            or (near and self.listeners.foreign())
        )

    def watched(self) -> dict[int, int]:
        """Return the descriptors whose events should lead to a step."""
        found = {k: v for c in self._channels() for k, v in c.watched().items()}
        found[self.signals.fileno()] = found[self.spawn.watched()] = READ
        found.update(self.answers.control.watched())
        found.update(self.report.watched())
        found.update(self.inherit.watched())
        found.update(self.bridging.watched())
        if self.group is not None:
            found.update(self.group.watched())
        if self.orders.terminal is not None:
            found.update(self.orders.terminal.watched())
        found.pop(-1, None)
        return found

    def _channels(self) -> list[Channel]:
        channels = [predecessor.channel for predecessor in self.predecessors.living]
        successor = self.living_successor
        return channels if successor is None else [*channels, successor.channel]

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which a step is due; None: no such moment."""
        times = (
            self.children.due,
            self.driver.jobs_deadline(),
            self.retries.again_at,
            self.exit.deadline(),
            self.stop.deadline(),
            self.bridging.deadline(),
            self.signals.deadline(),
            self.orders.progress.deadline(),
            self.readiness.deadline(),
            self.supervisor.deadline(),
            self.answers.control.deadline(),
            *(slow.look_at for slow in self.listeners.slow()),
            self.listeners.deadline() if self.machine.drains else None,
            self.group.deadline() if self.group is not None else None,
            *(channel.retry_at for channel in self._channels()),
        )
        return min((t for t in times if t is not None), default=None)

    # -- the interpreter's end --------------------------------------------

    def _at_exit(self) -> None:
        """The interpreter ends: no thread of ours may run into its finalization."""
        if not self.serving_process():
            return
        last = (
            self.exit.end_driving,
            self.exit.wait_for_others,
            self._pass_on_the_last,
            self.supervisor.ended,
        )
        for part in last:
            try:
                part()
            except Exception as error:
                self.log(
                    log.ERROR,
                    "%(reason)s at %(where)s while the program ends",
                    "error_at_end",
                    reason=repr(error),
                    where=log.where(error),
                )
        self.answers.control.leave_open()
        self.migration.at_exit()
        self.listeners.at_exit()
        # The neighbours take the end of a channel for the end of this process.
        self.predecessors.at_exit()
        successor = self.living_successor
        if successor is not None:
            successor.leave_open()
            self.successor = None

    def _pass_on_the_last(self) -> None:
        """Nobody drives any more: what comes from now on is held back, and the successor looks."""
        if self.living_successor is not None:
            block(self.signals.ours(RELOAD))
            self.orders.note_overdue(last=True)
            self.driver.advance()
        with self.driver.stepping:
            self.fire(Event.EXITING)

    def begin_as_worker(self, number: int, group: Group, on_signal: Handler) -> None:
        """In a process that was forked for that: be a worker of this generation."""
        self.worker, self.group = number, group
        self.owed.clear()
        self.handed = []
        self.machine.begin_again()
        self.counters.begin_again()
        self.signals.take_over(on_signal)
        self.fire(Event.WORKS)


current = ServerProcess()
