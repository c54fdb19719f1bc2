"""The one object that stands for this process: its phase, its signals, its servers.

`phases` has the table of its moves, `driver` says which thread makes them. What there is to
do in a move lies in rooms of its own, each with what it has to remember:

    life, servers, children      which generation this is, what it serves, whom it has to reap
    predecessors, succession     the neighbours, and `neighbours` for what they say
    estate, readiness            what was left to it; its word that it serves
    reloading, stopping, drain   the orders, and what they lead to
    departure, replacement       the end, and with a kept pid what follows it
    reports, manager, askers     who is told, and who asks

Locks, in the order in which they may be taken: that of the checks (the program's code runs
in it), the driver's two, the lock of an Inheritance or of a Channel. A signal handler takes
none but the driver's first, without waiting.
"""

from __future__ import annotations

import atexit
import os
import signal
from contextlib import suppress
from types import FrameType

from endless_py._handoff.channel import Channel
from endless_py._handoff.child import Child, Children
from endless_py._reload.answers import Askers
from endless_py._reload.drain import Drain, HandlerCut
from endless_py._reload.driver import Driver, Stumbles
from endless_py._reload.dry_start import DryStart
from endless_py._reload.exit import Departure
from endless_py._reload.hooks import Hooks
from endless_py._reload.inherit import Estate
from endless_py._reload.life import Life
from endless_py._reload.machine import Phase
from endless_py._reload.manager import Manager
from endless_py._reload.migration import Migration
from endless_py._reload.neighbours import Neighbours
from endless_py._reload.predecessors import Predecessors
from endless_py._reload.readiness import Readiness
from endless_py._reload.reexec import Replacement
from endless_py._reload.reloading import Reload
from endless_py._reload.report import Reports
from endless_py._reload.servers import Servers
from endless_py._reload.serving import Serving
from endless_py._reload.signals import (
    CALL,
    RELOAD,
    STOP,
    Note,
    Signals,
    as_if_not_there,
)
from endless_py._reload.stopping import Stopping
from endless_py._reload.succession import Succession
from endless_py._sockets.connection import Beacon
from endless_py._sockets.poller import READ, WRITE
from endless_py._supervisor.terminal import Terminal
from endless_py._support import faults, log
from endless_py._support import platform as needs
from endless_py._support.sigmask import block, unblock

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional


class Generation:
    """This process. Programs reach it through the functions in `endless_py`."""

    def __init__(self) -> None:
        self._called = False  # by an asker that got no answer at once
        self._stumbles = Stumbles()
        self.terminal: Optional[Terminal] = None
        self.driver = Driver(self._step, self._active, self.watched, self.deadline)
        self.life = life = Life(self.driver)
        self.signals = signals = Signals(self._on_signal, life.log)
        self.hooks = hooks = Hooks(life.log)
        self.servers = servers = Servers(life)
        self.children = children = Children()
        self.predecessors = predecessors = Predecessors(children)
        self.migration = migration = Migration()
        self.manager = manager = Manager(life, servers, os.environ)
        self.reports = reports = Reports(life, manager)
        self.estate = estate = Estate(life, predecessors, signals, manager)
        self.drain = drain = Drain(life, servers, hooks)
        self.readiness = Readiness(life, servers, predecessors, estate, signals, manager, hooks)
        self.replacement = replacement = Replacement(
            life, servers, children, predecessors, estate, manager
        )
        self.succession = succession = Succession(
            life, servers, children, predecessors, drain, manager, reports
        )
        self.reload = Reload(
            life, servers, predecessors, estate, replacement, succession, reports, hooks
        )
        self.stopping = stopping = Stopping(
            life, servers, predecessors, succession, drain, manager, reports
        )
        self.departure = Departure(
            life,
            servers,
            children,
            predecessors,
            succession,
            replacement,
            stopping,
            migration,
            signals,
            manager,
            hooks,
        )
        self.neighbours = Neighbours(
            life,
            self._stumbles,
            servers,
            predecessors,
            estate,
            succession,
            replacement,
            stopping,
            migration,
            manager,
            reports,
            signals,
        )
        self.askers = Askers(life, servers, predecessors, succession, stopping, reports)
        self._watches_forks = False
        atexit.register(self._at_exit)
        self.dry_start = DryStart(os.environ, lambda text: self.log(log.WARNING, text))
        self._inherit()
        estate.take_lent()

    def _inherit(self) -> None:
        """Be the successor of whoever started this process for that."""
        inherited = self.estate.inherit()
        if inherited is None:
            return
        self.predecessors.inherit(inherited)
        self.life.number, self.life.bridge = inherited.generation, inherited.bridge
        self.children.orphans = [Child(pid) for pid in inherited.children]
        self.manager.in_charge = inherited.in_place
        self.manager.ours |= self.predecessors.older
        self.signals.ignored_hup = inherited.ignores_terminal
        self._watch_forks()
        self._install_signals()
        unblock(self.signals.roles)

    @property
    def number(self) -> int:
        return self.life.number

    @property
    def phase(self) -> Phase:
        return self.life.phase

    @property
    def bridge(self) -> bool:
        return self.life.bridge

    def log(self, level: int, text: str) -> None:
        self.life.log(level, text)

    # -- servers ----------------------------------------------------------

    def add(self, serving: Serving) -> None:
        """Note a new server; the first one installs the signal handlers."""
        self.driver.pid = os.getpid()  # the program may have become a daemon since its import
        serving.in_child = False
        self._watch_forks()
        self.manager.know(serving.server)
        self.servers.add(serving)
        self._install_signals()

    def remove(self, serving: Serving) -> None:
        """Forget a server that was closed; the last one gives the signals back."""
        if serving in self.servers.all:
            self.servers.all.remove(serving)
        if serving.owns_path and serving.binding is not None and os.getpid() == self.driver.pid:
            # An incumbent that this process leaves without a word serves there again.
            parent = self.predecessors.living_parent()
            lent = serving.binding.index is not None and parent is not None
            if not lent or self.phase in (Phase.STOPPING, Phase.DRAINED):
                serving.binding.unlink()
        serving.close()
        if not self.servers.all and self.phase in (Phase.STARTING, Phase.SERVING):
            self.life.move(Phase.STARTING)
            self.signals.restore()

    def enter(self, serving: Serving) -> None:
        """A server's loop begins: say ready, and let the loop drive this object."""
        needs.require()
        self.dry_start.end_here()
        self._install_signals()
        if serving.beacon is None:
            serving.beacon = Beacon()
        first = not serving.entered
        if first and not self.readiness.says_itself(serving):
            serving.accepting = False
        serving.entered = True  # from here on ready() in another thread may speak for it
        self._begin()
        if first and self.readiness.says_itself(serving):
            self.readiness.say([serving])
        self.driver.free(serving)

    def ready(self) -> None:
        """Say ready for every server whose loop does not say it."""
        needs.require()
        self._install_signals()
        self._begin()
        self.readiness.call()
        self.driver.wake()

    def leave(self, serving: Serving, finished: bool) -> None:
        """A server's loop ends; finished says that it will not be entered again at once."""
        if finished:
            serving.entered = serving.ready = False
        self.driver.busy(serving)
        if self.phase is Phase.SERVING and not self.servers.has_served() and not self._pending:
            with suppress(ValueError):
                self.life.move(Phase.STARTING)

    def drained(self) -> None:
        """The program's own servers have drained."""
        for listening in self.servers.listenings():
            listening.done = True
        self.wake()

    def _begin(self) -> None:
        """The first server begins: from now on this process can be reloaded."""
        parent = self.predecessors.living_parent()
        if parent and parent.ancestor and not self.servers.has_served() and self._parent_gone():
            self.log(
                log.ERROR,
                f"{parent} ended before this one was ready, and the one "
                "before it serves again; this process ends",
            )
            raise SystemExit(1)
        self.replacement.announce()
        if self.phase is Phase.STARTING:
            self.life.move(Phase.SERVING)
        self.askers.listen()

    def _parent_gone(self) -> bool:
        with self.driver.lock:
            self.neighbours.hear_predecessors()
        return self.predecessors.living_parent() is None

    # -- signals ----------------------------------------------------------

    def _install_signals(self) -> None:
        if not needs.missing():
            self.signals.install()
            if self.terminal is None:
                self.terminal = Terminal()

    def _on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        order = self.signals.roles.get(number)
        if number == getattr(signal, CALL):
            if self.servers.cutting_inline():
                raise HandlerCut
            self._called = True
            self.wake()
            return
        if order not in (None, RELOAD):
            if self.phase is Phase.STARTING and not self.children.orphans:
                as_if_not_there(number, frame)
                return
            if self.phase is Phase.DRAINED:
                self._on_late_signal(number, frame)
        self.note(self.signals.note(number))

    def _on_late_signal(self, number: int, frame: Optional[FrameType]) -> None:
        """The servers are done; what is left of the program may have to be ended."""
        ending = self.departure.ending
        if ending.ends_main:
            ending.ends_main = False
            raise SystemExit(0)
        if self.replacement.due or self.children.orphans:
            return
        if number == signal.SIGINT and self.stopping.interrupted:
            signal.default_int_handler(number, frame)
        if self.succession.successor is None or self.stopping.ordered:
            as_if_not_there(number, frame)

    def note(self, note: Note) -> None:
        """Leave a note; safe in a signal handler and in any thread."""
        self.driver.note(note)

    def _take(self, note: Note) -> None:
        self.hooks.run(self.hooks.before_signal[note.number], f"before_signal({note.name}) hook")
        self._carry_out(note)
        self.hooks.run(self.hooks.after_signal[note.number], f"after_signal({note.name}) hook")

    def _carry_out(self, note: Note) -> None:
        order, name = note.order, note.name
        if note.number == signal.SIGHUP and self.terminal and self.terminal.has_just_gone():
            if not self.terminal.broken and self.terminal.leader in self.predecessors.older:
                self.log(log.INFO, "SIGHUP ignored: the terminal went with an older generation")
                return
            if not self.signals.ignored_hup:
                order, name = STOP, "SIGHUP from the terminal, which is gone"
        if order == RELOAD:
            self.reload.take(name)
        elif order is not None:
            self.stopping.take(order, note.number, name)

    # -- driving ----------------------------------------------------------

    def wake(self) -> None:
        """Have `advance()` called soon."""
        self.driver.wake()

    def advance(self) -> None:
        """Do what there is to do now. Never waits; any thread may call it."""
        self.driver.advance()

    @property
    def _pending(self) -> bool:
        if self.phase in (Phase.STARTING, Phase.SERVING):
            near = self.predecessors.living or self.children.orphans
            return bool(
                self.driver.notes
                or self.children.leaving
                or len(self.migration)
                or self._called
                or self.askers.remote.conversations
                or (near and self.servers.listenings())
            )
        return True

    def _active(self) -> bool:
        return self._pending and self.phase is not Phase.STARTING

    def watched(self) -> dict[int, int]:
        """Return the descriptors whose events should lead to `advance()`."""
        channels = self._channels()
        found = {c.fileno(): READ | (WRITE if c.waits_for_room else 0) for c in channels}
        found[self.signals.fileno()] = READ
        found.update(self.askers.remote.watched())
        found.update(self.reports.watched())
        found.update(self.estate.watched())
        if self.terminal is not None:
            found.update(self.terminal.watched())
        found.pop(-1, None)
        return found

    def _channels(self) -> list[Channel]:
        """Return those to the living neighbours."""
        channels = [predecessor.channel for predecessor in self.predecessors.living]
        successor = self.succession.living
        return channels if successor is None else [*channels, successor.channel]

    def alone(self) -> bool:
        """Whether this process serves and has no living neighbour."""
        return (
            self.phase is Phase.SERVING
            and not self.predecessors.living
            and self.succession.living is None
        )

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which `advance()` must be called; None is never."""
        times = (
            self.children.due,
            self._stumbles.again_at,
            self.departure.ending.deadline(),
            self.signals.deadline(),
            self.succession.deadline(),
            self.manager.deadline(),
            self.askers.remote.deadline(),
            self.servers.deadline() if self.life.drains else None,
            *(channel.retry_at for channel in self._channels()),
        )
        return min((t for t in times if t is not None), default=None)

    def _step(self) -> None:
        """Do what there is to do; an exception in it must not end a server that could go on."""
        try:
            self._take_steps()
        except Exception as error:
            self._stumbled(error)
        else:
            self._stumbles.clear()

    def _stumbled(self, error: Exception) -> None:
        say, give_up = self._stumbles.note()
        if say:
            self.log(
                log.ERROR,
                f"{error!r} at {log.where(error)} while {self.phase.value}; this process goes on",
            )
        successor = self.succession.successor
        if give_up and self.phase is Phase.RELOADING and successor is not None:
            successor.fail(f"this process cannot go on with the reload: {error!r}")
            self.neighbours.successor_failed(successor)

    def _take_steps(self) -> None:
        self._called = False
        self._note_overdue()
        if self.terminal is not None:
            self.terminal.look()
        self.askers.remote.step()
        self.reports.step()
        self.estate.step()
        while self.driver.notes:
            self._take(self.driver.notes.popleft())
        self.neighbours.hear_predecessors()
        self.neighbours.hear_successor()
        self.succession.reap()
        self.reload.hand_back()
        self.neighbours.check_successor()
        self.drain.start_due()
        if self.life.drains:
            self.drain.check()
            self.neighbours.hear_successor()  # died since, it would leave nobody who accepts
        # After the last words: what it has taken makes room for more, and nothing tells again.
        self.migration.step(self.succession.receiver())
        if self.life.drains:
            self.departure.check()
        if self.phase is Phase.DRAINED:
            self.departure.ending.check()
        self.manager.check()

    def _note_overdue(self, last: bool = False) -> None:
        self.driver.notes.extend(map(self.signals.note, self.signals.overdue(last)))

    # -- ends and forks ---------------------------------------------------

    def _at_exit(self) -> None:
        """The interpreter ends: no thread of ours may run into its finalization."""
        if os.getpid() != self.driver.pid:
            return
        last = (
            self._end_driving,
            self.departure.last_act,
            self._pass_on_the_last,
            self.manager.ended,
        )
        for part in last:
            try:
                part()
            except Exception as error:
                self.log(log.ERROR, f"{error!r} at {log.where(error)} while the program ends")
        self.askers.remote.leave_open()
        self.migration.end()
        self.servers.leave_open()
        # The neighbours take the end of a channel for the end of this process.
        self.predecessors.leave_open()
        self.succession.leave_open()

    def _end_driving(self) -> None:
        self.driver.exiting = True
        self.driver.end_helper()
        with self.driver.lock:  # another server's thread may be in the middle of the last step
            pass
        faults.at("exit")
        if self.life.drains and self.servers.listenings():
            self.drained()  # the program's way to say so
            self.advance()

    def _pass_on_the_last(self) -> None:
        """Nobody drives any more: what comes from now on is held back, and the successor looks."""
        if self.succession.living is not None:
            block(self.signals.ours(RELOAD))
            self._note_overdue(last=True)
            self.advance()

    def _watch_forks(self) -> None:
        """From now on a forked child would have something of ours; each one pays for the look."""
        if not self._watches_forks and hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self.signals.before_fork,
                after_in_parent=self.signals.after_fork,
                after_in_child=self._in_forked_child,
            )
            self._watches_forks = True

    def _in_forked_child(self) -> None:
        try:
            self._let_go()
        finally:
            self.signals.after_fork()

    def _let_go(self) -> None:
        """A fork is not a generation: it lets go of all that makes the parent one."""
        served = self.servers.forked_for()
        self.driver.in_forked_child()
        self.askers.remote.close()
        if self.phase is not Phase.SERVING:
            self.reports.let_go()
        self.predecessors.let_go()
        self.succession.let_go()
        self.children.leaving = []
        if self.servers.all:  # else it becomes a daemon, and will be what is served
            self.manager.let_go()
        if served is None:
            self.signals.restore()
        else:
            self.signals.in_handler_process()
        if self.terminal is not None:
            self.terminal.close()
        self.servers.let_go(served)


current = Generation()
