"""The one object that stands for this process: its phase, its servers, its neighbours.

`phases` has the table of its moves, `driver` says which thread makes them. Locks, in the
order in which they may be taken: the driver's two, the lock of an Inheritance or of
a Channel. A signal handler takes none but the driver's first, without waiting.
"""

from __future__ import annotations

import _thread
import atexit
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from endless_py import (
    activation,
    command_line,
    drain,
    error_output,
    faults,
    handoff,
    hooks,
    keep_pid,
    log,
)
from endless_py.channel import Channel, Message
from endless_py.connections import Beacon
from endless_py.drain import Ending, HandlerCut
from endless_py.driver import Driver
from endless_py.dry_start import DryStart
from endless_py.exceptions import ChannelError, UnsupportedPlatform
from endless_py.handoff import Child, Predecessor, Successor
from endless_py.hooks import Hooks
from endless_py.listeners import Binding, Inheritance
from endless_py.listening import Listening
from endless_py.loop import READ, WRITE, Waiter
from endless_py.manager import Manager
from endless_py.migration import Migration, Traveller
from endless_py.phases import Phase, check_move
from endless_py.remote import Conversation, Remote
from endless_py.reports import Reports
from endless_py.serving import Serving
from endless_py.signals import (
    CALL,
    HAMMER,
    RELOAD,
    STOP,
    Note,
    Signals,
    as_if_not_there,
    block,
    unblock,
)
from endless_py.terminal import Terminal

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py.reports import Follower, Upgrading

ADOPTION_GRACE = 3.0  # seconds from the first ready to "the new code no longer has this address"
_STUMBLES = 5  # a step that fails so often in a row is given up
_STUMBLE_PAUSE = 0.1  # seconds until what failed is tried again
_NEEDED = {
    "signal.SIGHUP": hasattr(signal, "SIGHUP"),
    "signal.pthread_sigmask": hasattr(signal, "pthread_sigmask"),
    "select.poll": hasattr(select, "poll"),
    "os.fork": hasattr(os, "fork"),
    "socket.AF_UNIX": hasattr(socket, "AF_UNIX"),
    "socket.SCM_RIGHTS": hasattr(socket, "SCM_RIGHTS"),
}


class Generation:
    """This process. Programs reach it through the functions in `endless_py`."""

    def __init__(self) -> None:
        self.number = 0
        self.phase = Phase.STARTING
        self.command = command_line.capture()
        self.inheritance = Inheritance()
        self.predecessors: list[Predecessor] = []
        self.parent: Optional[Predecessor] = None
        self.successor: Optional[Successor] = None
        self.leaving: list[Successor] = []  # successors that failed, until they are reaped
        self.bridge = False
        self._orphans: list[Child] = []  # children of the process that this one has replaced
        self._way_back: Optional[int] = None  # the bridge's channel to what this process becomes
        self._kept = False
        self._spare: list[tuple[Binding, int]] = []  # the listeners, should the bridge die
        self.servings: list[Serving] = []
        self.migration = Migration()
        self.hooks = Hooks(self.log)
        self.terminal: Optional[Terminal] = None
        self._older: set[int] = set()  # pids of the generations before
        self.unpreceded = threading.Event()  # no predecessor lives
        self.unpreceded.set()
        self.interrupted = False
        self._keep_said: Optional[bool] = None
        self._ready_told = False
        self._ready_called = False
        self.files: dict[str, int] = {}  # what else goes along, by name
        self.updater: Optional[Upgrading] = None  # of this program, if it has one
        self.driver = Driver(self._step, self._active, self.watched, self.deadline)
        self.signals = Signals(self._on_signal)
        self.ending = Ending(self.log)
        self.manager = Manager(self.log, os.environ)
        self.remote = Remote(self._answer)
        self.reports = Reports()
        self.phase_since = time.time()
        self._error_output: Optional[error_output.ErrorOutput] = None
        self._called = False  # by an asker that got no answer at once
        self._stops = 0
        self._stop_number = int(signal.SIGTERM)
        self._stops_passed_on = 0  # by a predecessor; a group's signal reaches both of us
        self._handed: list[Serving] = []
        self._handed_on: list[Predecessor] = []
        self._again = False
        self._pid = os.getpid()
        self._forking: dict[int, Serving] = {}
        self._reap_at: Optional[float] = None
        self._stumbles = 0  # steps in a row that raised
        self._again_at: Optional[float] = None  # when the last one of them is tried again
        self._drain_due: Optional[str] = None  # why, until the drain has begun
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._in_forked_child)
        atexit.register(self._at_exit)
        self.dry_start = DryStart(os.environ, lambda text: self.log(log.WARNING, text))
        self._inherit()
        self._take_lent()

    # -- being a successor ------------------------------------------------

    def _inherit(self) -> None:
        word = os.environ.pop(handoff.VARIABLE, None)
        if word is None:
            return
        missing = self._missing()
        try:
            if missing:
                raise ChannelError(f"this platform has no {missing}")
            inherited = handoff.receive_inheritance(word)
        except ChannelError as error:
            self.log(
                log.WARNING,
                f"{handoff.VARIABLE} is ignored and removed: {error}; this process starts fresh",
            )
            unblock(self.signals.roles)
            return
        self.parent = inherited.predecessor
        self.predecessors = [inherited.predecessor]
        self._older = inherited.older | {inherited.predecessor.pid}
        self.unpreceded.clear()
        self.number = inherited.generation
        self.bridge = inherited.bridge
        self._error_output = error_output.taken_back(inherited.files)
        self.files = inherited.files
        self.inheritance.waiting = inherited.listeners
        self._orphans = [Child(pid) for pid in inherited.children]
        self.manager.in_charge = inherited.in_place
        self.manager.ours.add(inherited.predecessor.pid)
        self.signals.ignored_hup = inherited.ignores_terminal
        self._install_signals()
        unblock(self.signals.roles)

    def _take_lent(self) -> None:
        """Take what a service manager passes; a successor gets it from its predecessor."""
        listeners, problems = activation.take(os.environ)
        for problem in problems:
            self.log(log.WARNING, f"socket activation: {problem}; it is ignored")
        self.inheritance.waiting += listeners

    def _at_exit(self) -> None:
        """The interpreter ends: no thread of ours may run into its finalization."""
        if os.getpid() != self._pid:
            return
        for part in (self._end_driving, self._last_act, self.manager.ended):
            try:
                part()
            except Exception as error:
                self.log(log.ERROR, f"{error!r} at {drain.where(error)} while the program ends")
        self.remote.leave_open()
        for serving in self.servings:
            if serving.waiter is not None:
                serving.waiter.close()
                serving.waiter = None
        # The neighbours take the end of a channel for the end of this process.
        for predecessor in self.predecessors + self._handed_on:
            predecessor.channel.leave_open()
        self.predecessors = []
        if self.successor is not None and self.successor.failure is None:
            self.successor.channel.leave_open()
            self.successor = None

    def _end_driving(self) -> None:
        self.driver.exiting = True
        self.driver.end_helper()
        with self.driver.lock:  # another server's thread may be in the middle of the last step
            pass
        faults.at("exit")
        if self.phase in (Phase.DRAINING, Phase.STOPPING) and self._listenings():
            self.drained()  # the program's way to say so
            self.advance()

    def _last_act(self) -> None:
        """Wait for the bridge: to hand everything back, or, after a stop, for its end."""
        if not (self._kept or (self._stops and self._orphans)):
            return
        waiter = Waiter()
        while not self._last_act_due():
            waiter.watch(self.watched())
            deadline = self.deadline()
            waiter.wait(None if deadline is None else deadline - time.monotonic())
            self.advance()
        waiter.close()

    def _last_act_due(self) -> bool:
        successor = self.successor
        bridge_lives = successor is not None and successor.failure is None
        if self._stops or not self._kept:
            return not bridge_lives and not self.leaving and not self._orphans
        if bridge_lives and self._way_back is None:
            return False
        block(self.signals.roles)
        self.advance()
        if self._stops:  # it came just before they were blocked
            unblock(self.signals.roles)
            return False
        self._start_anew(successor)
        return True

    def _start_anew(self, bridge: Optional[Successor]) -> None:
        environment = {**os.environ, **self.manager.environment(), **faults.environment()}
        way_back, peer = self._way_back, os.getpid()
        if bridge is not None and way_back is not None:
            peer = bridge.pid
        elif self._spare:
            self.log(log.ERROR, "the bridge has died; the listeners are kept without it")
            greeting = self._greeting(False, False)
            way_back = Successor(self.number + 1, greeting, self._spare, self.files).take_end()
        if way_back is not None:
            successors = [*self.leaving, *([] if bridge is None else [bridge])]
            children = [*self._orphans, *(s.child for s in successors if s.child)]
            environment[handoff.VARIABLE] = handoff.replacement_word(
                way_back, peer, {c.pid for c in children if c.status is None}
            )
        try:
            keep_pid.LastAct(self.command, environment, [] if way_back is None else [way_back])
        except OSError as error:
            self.log(log.ERROR, f"cannot start anew in place: {error}; this process ends")
            return
        self.log(log.INFO, f"this process, pid {os.getpid()}, starts its program anew in place")
        self.manager.pid_file = None  # stays as it is
        if bridge is not None and bridge.failure is None:
            bridge.channel.send({"type": "replacing"})
        faults.at("exec")

    @staticmethod
    def _missing() -> str:
        return ", ".join(name for name, there in _NEEDED.items() if not there)

    def require(self) -> None:
        """Raise UnsupportedPlatform when this system lacks what a reload needs."""
        missing = self._missing()
        if missing:
            raise UnsupportedPlatform(
                f"endless_py cannot serve on this platform: it has no {missing}; "
                "use the standard library's class here"
            )

    # -- servers ----------------------------------------------------------

    def add(self, serving: Serving) -> None:
        """Note a new server; the first one installs the signal handlers."""
        self.manager.know(serving.server)
        self.servings = [s for s in self.servings if s.server is not None]
        if serving not in self.servings:
            self.servings.append(serving)
        self._install_signals()

    def remove(self, serving: Serving) -> None:
        """Forget a server that was closed; the last one gives the signals back."""
        if serving in self.servings:
            self.servings.remove(serving)
        if serving.owns_path and serving.binding is not None and os.getpid() == self._pid:
            # An incumbent that this process leaves without a word serves there again.
            lent = serving.binding.index is not None and self._living_parent() is not None
            if not lent or self.phase in (Phase.STOPPING, Phase.DRAINED):
                serving.binding.unlink()
        serving.close()
        if not self.servings and self.phase in (Phase.STARTING, Phase.SERVING):
            self._move(Phase.STARTING)
            self.signals.restore()

    def enter(self, serving: Serving) -> None:
        """A server's loop begins: say ready, and let the loop drive this object."""
        self.require()
        self.dry_start.end_here()
        self._install_signals()
        if serving.beacon is None:
            serving.beacon = Beacon()
        first = not serving.entered
        serving.entered = True
        if first and not (serving.server.ready_on_serve or self._ready_called):
            serving.accepting = False
        self._begin()
        if first and (serving.server.ready_on_serve or self._ready_called):
            self._say_ready([serving])
        self.driver.free(serving)

    def ready(self) -> None:
        """Say ready for every server whose loop does not say it."""
        self.require()
        self._install_signals()
        self._begin()
        self._ready_called = True
        self._say_ready([s for s in self.servings if not s.ready and (s.entered or not s.own_loop)])
        self.driver.wake()

    def pass_file(self, name: str, descriptor: Optional[int]) -> None:
        """Keep a duplicate of this descriptor for the generations to come; None: no longer."""
        new = None if descriptor is None else os.dup(descriptor)
        old = self.files.pop(name, None)
        if new is not None:
            self.files[name] = new
        if old is not None:
            os.close(old)

    def drained(self) -> None:
        """The program's own servers have drained."""
        for serving in self._listenings():
            serving.done = True
        self.wake()

    def _begin(self) -> None:
        """The first server begins: from now on this process can be reloaded."""
        parent = self._living_parent()
        if parent and parent.ancestor and not self._has_served() and self._parent_gone():
            self.log(
                log.ERROR,
                f"{parent} ended before this one was ready, and the one "
                "before it serves again; this process ends",
            )
            raise SystemExit(1)
        if self.parent is None and self._keep_said is None:
            self._keeps_pid()
        if self.phase is Phase.STARTING:
            self._move(Phase.SERVING)
        self._open_remote()

    def _open_remote(self) -> None:
        try:
            self.remote.open()
        except OSError as error:
            self.log(
                log.WARNING,
                f"cannot be asked by commands (reload, stop, status): {error}; signals work",
            )

    def _living_parent(self) -> Optional[Predecessor]:
        return self.parent if self.parent in self.predecessors else None

    def _has_served(self) -> bool:
        return any(serving.ready for serving in self.servings)

    def _parent_gone(self) -> bool:
        with self.driver.lock:
            self._hear_predecessors()
        return self.parent not in self.predecessors

    def _say_ready(self, servings: list[Serving]) -> None:
        self.hooks.check()
        orders = ", ".join(
            f"{'kill ' * (not number)}-{signal_name} {f'{os.getpid()} ' * (not number)}{verb}"
            for number, (signal_name, verb) in enumerate(self._orders())
        )
        parent = self._living_parent()
        self._restore_error_output()
        for serving in servings:
            serving.entered = serving.ready = True
            serving.accepting = self.phase in (Phase.SERVING, Phase.RELOADING)
            serving.wake()
            self.log(log.INFO, f"serves {serving}{' meanwhile' if self.bridge else '; ' + orders}")
            if parent is not None:
                index = serving.binding.index if serving.binding is not None else None
                faults.at("ready")
                parent.say("ready", index=index)
        with self.driver.lock:
            self._tell_manager(strict=self.number == 0)
        if all(serving.ready for serving in self.servings) and not self._ready_told:
            self._ready_told = True
            self.hooks.step(hooks.READY)

    def _orders(self) -> list[tuple[str, str]]:
        pairs = (self.signals.first(RELOAD), "reloads"), (self.signals.first(STOP), "stops")
        return [(name, verb) for name, verb in pairs if name]

    def _restore_error_output(self) -> None:
        if self._error_output is not None and not self._error_output.restored:
            self._error_output.restore()

    def _tell_manager(self, strict: bool = False) -> None:
        unused = self.inheritance.lent()
        if self.manager.serves(self.servings, strict) and unused:
            names = ", ".join(f"{b} ({b.lent})" if b.lent else str(b) for b, _ in unused)
            self.log(log.WARNING, f"socket activation: no server uses {names}; kept open")

    def say_adopted(self, serving: Serving) -> None:
        """Tell the predecessor that this server has bound one of its listeners."""
        parent, binding = self._living_parent(), serving.binding
        if parent is not None and binding is not None and binding.index is not None:
            parent.say("adopted", index=binding.index)
            faults.at("adopted")

    def leave(self, serving: Serving, finished: bool) -> None:
        """A server's loop ends; finished says that it will not be entered again at once."""
        if finished:
            serving.entered = serving.ready = False
        self.driver.busy(serving)
        if self.phase is Phase.SERVING and not self._has_served() and not self._pending:
            with suppress(ValueError):
                self._move(Phase.STARTING)

    @contextmanager
    def forking(self, serving: Serving) -> Iterator[None]:
        """Mark that what this thread forks now is a handler's process."""
        self._forking[_thread.get_ident()] = serving
        try:
            yield
        finally:
            self._forking.pop(_thread.get_ident(), None)

    # -- signals ----------------------------------------------------------

    def _install_signals(self) -> None:
        if not self._missing():
            if self.signals.install():
                self.say_foreign_handler()
            if self.terminal is None:
                self.terminal = Terminal()

    def set_roles(self, roles: dict[int, str]) -> None:
        """Change which signals do what."""
        if self.signals.set_roles(roles):
            self.say_foreign_handler()
        unblock(roles)

    def say_foreign_handler(self) -> None:
        """The program handles a signal itself that should reload."""
        self.log(
            log.WARNING,
            f"the program has a SIG{self.signals.first(RELOAD)} handler of its own, which stays; "
            "call endless_py.reload() from it",
        )

    def _on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        order = self.signals.roles.get(number)
        if number == getattr(signal, CALL):
            if self._cutting_inline():
                raise HandlerCut
            self._called = True
            self.wake()
        elif order in (None, RELOAD):
            self.note(self.signals.note(number))
        elif self.phase is Phase.STARTING and not self._orphans:
            as_if_not_there(number, frame)
        elif self.phase is Phase.DRAINED:
            if self.ending.ends_main:
                self.ending.ends_main = False
                raise SystemExit(0)
            if self._kept or self._orphans:
                self.note(self.signals.note(number))
                return
            if number == signal.SIGINT and self.interrupted:
                signal.default_int_handler(number, frame)
            if self.successor is None or self._stops:
                as_if_not_there(number, frame)
            self.note(self.signals.note(number))
        else:
            self.note(self.signals.note(number))

    def note(self, note: Note) -> None:
        """Leave a note; safe in a signal handler and in any thread."""
        self.driver.note(note)

    def wake(self) -> None:
        """Have `advance()` called soon."""
        self.driver.wake()

    def advance(self) -> None:
        """Do what there is to do now. Never waits; any thread may call it."""
        self.driver.advance()

    def _wake_all(self) -> None:
        for serving in self.servings:
            serving.wake()
        self.wake()

    # -- driving ----------------------------------------------------------

    @property
    def _pending(self) -> bool:
        if self.phase in (Phase.STARTING, Phase.SERVING):
            return bool(
                self.driver.notes
                or self.leaving
                or len(self.migration)
                or self._called
                or self.remote.conversations
                or ((self.predecessors or self._orphans) and self._listenings())
            )
        return True

    def _listenings(self) -> list[Listening]:
        """Return the listeners that no loop of ours serves."""
        return [serving for serving in self.servings if isinstance(serving, Listening)]

    def _active(self) -> bool:
        return self._pending and self.phase is not Phase.STARTING

    def watched(self) -> dict[int, int]:
        """Return the descriptors whose events should lead to `advance()`."""
        channels: list[Channel] = [p.channel for p in self.predecessors]
        if self.successor is not None and self.successor.failure is None:
            channels.append(self.successor.channel)
        found = {c.fileno(): READ | (WRITE if c.sending else 0) for c in channels}
        found[self.signals.fileno()] = READ
        found.update(self.remote.watched())
        found.update(self.reports.watched())
        if self._error_output is not None:
            found[self._error_output.fileno()] = READ
        if self.terminal is not None:
            found[self.terminal.fileno()] = READ
        found.pop(-1, None)
        return found

    def alone(self) -> bool:
        """Whether this process serves and has no living neighbour."""
        return (
            self.phase is Phase.SERVING
            and not self.predecessors
            and (self.successor is None or self.successor.failure is not None)
        )

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which `advance()` must be called; None is never."""
        times = [self._reap_at, self._again_at, self.ending.deadline(), self.signals.deadline()]
        successor = self.successor
        if self.phase is Phase.RELOADING and successor is not None and not successor.failure:
            if successor.started is not None:
                times.append(successor.started + self._ready_timeout())
            if successor.first_ready is not None:
                grace = successor.first_ready + ADOPTION_GRACE
                if grace > time.monotonic():
                    times.append(grace)
        times += [self.manager.deadline(), self.remote.deadline()]
        for serving in self.servings:
            times += [serving.drain_deadline, serving.abandon_at]
        return min((t for t in times if t is not None), default=None)

    def _step(self) -> None:
        """Do what there is to do; an exception in it must not end a server that could go on."""
        try:
            self._take_steps()
        except Exception as error:
            self._stumbled(error)
        else:
            self._stumbles, self._again_at = 0, None

    def _stumbled(self, error: Exception) -> None:
        self._stumbles += 1
        self._again_at = time.monotonic() + _STUMBLE_PAUSE
        if self._stumbles <= _STUMBLES:
            self.log(
                log.ERROR,
                f"{error!r} at {drain.where(error)} while {self.phase.value}; this process goes on",
            )
        successor = self.successor
        if self._stumbles == _STUMBLES and self.phase is Phase.RELOADING and successor is not None:
            successor.fail(f"this process cannot go on with the reload: {error!r}")
            self._successor_failed(successor)

    def _take_steps(self) -> None:
        self._called = False
        self.driver.notes.extend(map(self.signals.note, self.signals.overdue()))
        if self.terminal is not None:
            self.terminal.look()
        self.remote.step()
        self.reports.step()
        if self._error_output is not None and self._error_output.restored:
            self._error_output.pass_on()
        while self.driver.notes:
            self._take(self.driver.notes.popleft())
        self._hear_predecessors()
        self._hear_successor()
        self._hand_back()
        self._reap()
        self._migrate()
        if self.phase is Phase.RELOADING:
            self._check_ready()
        if self._drain_due is not None:
            self._start_drain(self._drain_due)
        if self.phase in (Phase.DRAINING, Phase.STOPPING):
            self._check_drained()
        if self.phase is Phase.DRAINED:
            self.ending.check()
        self.manager.check()

    @contextmanager
    def _kept_for_later(self, channel: Channel, messages: list[Message]) -> Iterator[None]:
        """The first message is being heard; if this process fails to, it is heard again soon.

        What has been taken of it is no longer in it then. A message that is not whole is dropped.
        """
        try:
            yield
        except Exception as error:
            nonsense = isinstance(error, (LookupError, TypeError, ValueError))
            if nonsense or self._stumbles + 1 >= _STUMBLES:
                messages.pop(0).close()
            channel.unread(messages)
            raise

    def _move(self, phase: Phase) -> None:
        if phase is self.phase:
            return
        check_move(self.phase, phase)
        self.phase, self.phase_since = phase, time.time()
        self.driver.changes = object()

    def _take(self, note: Note) -> None:
        self.hooks.run(self.hooks.before_signal[note.number], f"before_signal({note.name}) hook")
        self._carry_out(note)
        self.hooks.run(self.hooks.after_signal[note.number], f"after_signal({note.name}) hook")

    def _carry_out(self, note: Note) -> None:
        order, name = note.order, note.name
        if note.number == signal.SIGHUP and self.terminal and self.terminal.has_just_gone():
            if not self.terminal.broken and self.terminal.leader in self._older:
                self.log(log.INFO, "SIGHUP ignored: the terminal went with an older generation")
                return
            if not self.signals.ignored_hup:
                order, name = STOP, "SIGHUP from the terminal, which is gone"
        if order == RELOAD:
            self._take_reload(name)
        elif order is not None:
            self._take_stop(order, note.number, name)

    def _take_stop(self, order: str, number: int, name: str) -> None:
        if number == signal.SIGINT:
            self.interrupted = True
        if self.phase is Phase.STARTING:
            self._move(Phase.SERVING)
        hammer = order == HAMMER or self._stops > self._stops_passed_on
        if order == STOP:
            self._stops += 1
            self._stop_number = number or self._stop_number
        if self.phase in (Phase.SERVING, Phase.RELOADING):
            self._stop(name)
        elif self.phase in (Phase.DRAINING, Phase.DRAINED):
            self._pass_on(HAMMER if hammer else STOP, name)
            self.manager.stopping(self._longest_drain())
        if hammer and self.phase in (Phase.DRAINING, Phase.STOPPING, Phase.DRAINED):
            for predecessor in self.predecessors:
                predecessor.say("hammer")
            self._hammer(name)

    def _take_reload(self, name: str) -> None:
        try:
            faults.at("signal")
            self._start_reload(name)
        except Exception as error:
            self._say_failed(f"reload failed: {error!r} at {drain.where(error)}; serving goes on")

    def _start_reload(self, name: str) -> None:
        if self.phase is Phase.SERVING:
            self._reload(name)
        elif self.phase is Phase.RELOADING:
            self._again = True
            self.log(log.INFO, f"{name} during a reload: another one follows it")
        elif self.phase in (Phase.DRAINING, Phase.DRAINED):
            self._pass_on("reload", name)
        else:
            self.log(log.INFO, f"{name} ignored: this process is {self.phase.value}")

    def _pass_on(self, word: str, name: str) -> None:
        successor = self.successor
        if successor is None or successor.failure is not None:
            self.log(log.WARNING, f"{name} has no successor to be passed on to; it is dropped")
            return
        self.log(log.INFO, f"{name} passed on to {successor}")
        successor.channel.send({"type": word})
        if word == "reload":
            successor.reload_passed = True

    # -- reload -----------------------------------------------------------

    def _ready_timeout(self) -> float:
        return max((s.setting("ready_timeout") for s in self.servings), default=60.0)

    def _longest_drain(self) -> float:
        return max((s.setting("drain_timeout") for s in self.servings), default=0.0)

    def _reload(self, name: str) -> None:
        self.manager.reloading(self._ready_timeout())
        self.reports.begins()
        number = self.number + 1
        for hook in self.hooks.before_reload:
            try:
                hook()
            except Exception as error:
                self._say_failed(
                    f"reload cancelled by {hooks.name_of(hook)}: {error!r}; serving goes on",
                    again=True,
                )
                return
        for predecessor in self.predecessors:
            if predecessor.waits:
                self.log(log.INFO, f"{name}: the kept pid starts the program anew in a moment")
                self.reports.elsewhere(predecessor.pid)
                return
        bridge = self.bridge or self._keeps_pid()
        successor = None
        try:
            greeting = self._greeting(bridge and not self.bridge, bool(self.predecessors))
            capture = self.reports.capture()
            files = {**self.files, **({} if capture is None else capture.files)}
            successor = Successor(number, greeting, self._listeners(), files, bridge)
            # A bridge is nobody's main process: it has nothing to tell a manager.
            more = {**faults.environment(), **({} if bridge else self.manager.environment())}
            hold = [number for number, role in self.signals.roles.items() if role == RELOAD]
            stderr = None if capture is None else capture.writer
            successor.start(self.command, {**os.environ, **more}, hold, stderr)
        except Exception as error:
            if successor is None or successor.child is None:
                self._say_failed(
                    f"reload failed: generation {number} cannot be started: "
                    f"{error if str(error) else repr(error)}; serving goes on"
                )
                return
            # It runs, has the listeners, and will serve them.
            self.log(log.ERROR, f"{error!r} at {drain.where(error)}; the reload goes on")
        self.successor = successor
        self._again = False
        self._move(Phase.RELOADING)
        self.reports.started(successor)
        self.log(
            log.INFO,
            f"{name}: started {successor}; this one serves until it is ready",
        )

    def _greeting(self, kept: bool, ancestor: bool) -> dict[str, Any]:
        return {
            "own": self.number,
            "kept": kept,
            "ancestor": ancestor,
            "ignores_terminal": self.signals.ignored_hup,
            "older": sorted(self._older & {os.getsid(0)}),
        }

    def _listeners(self) -> list[tuple[Binding, int]]:
        """Return what a successor is handed; `_handed` remembers the order."""
        listeners = []
        self._handed = []
        for serving in self.servings:
            descriptor = serving.fileno()
            if serving.binding is not None and descriptor >= 0:
                listeners.append((serving.binding, descriptor))
                self._handed.append(serving)
        listeners += self.inheritance.lent()  # last: _handed has nothing for them
        return listeners

    def _keeps_pid(self) -> bool:
        """Whether the next reload keeps the pid; logged when it is first known."""
        settings = [getattr(serving.server, "keep_pid", "auto") for serving in self.servings]
        keeps, why = keep_pid.decide(settings, self.manager.notifier.enabled)
        said, self._keep_said = self._keep_said, keeps
        if keeps is not said and (said is not None or self.parent is None):
            kept = "keeps the pid" if keeps else "gives the new process a pid of its own"
            self.log(log.INFO, f"a reload {kept}: {why}")
        return keeps

    def _hand_back(self) -> None:
        """As a bridge: hand everything to the process that waits to be replaced."""
        waiting = [predecessor for predecessor in self.predecessors if predecessor.waits]
        if self.phase is not Phase.SERVING or not waiting:
            return
        predecessor = waiting[0]
        greeting = self._greeting(False, len(self.predecessors) > 1)
        successor = Successor(self.number, greeting, self._listeners(), self.files)
        successor.started = None  # its time begins when its program does
        successor.become(predecessor)
        predecessor.waits = False
        self.successor = successor
        self._move(Phase.RELOADING)
        self.log(
            log.INFO,
            f"hands back to pid {predecessor.pid}, which starts the program anew; "
            "this one serves until it is ready",
        )

    def _not_handed_back(self, why: str) -> None:
        """The process whose pid was to be kept is gone: its supervisor starts another one."""
        self.log(log.ERROR, f"{why}; this one makes room for what its supervisor starts")
        if self.phase in (Phase.SERVING, Phase.RELOADING):
            self._stop("the kept pid has ended")
        elif self.phase is Phase.DRAINING:
            self._close_listeners()

    def _say_failed(self, text: str, again: bool = False) -> None:
        self.log(log.ERROR, text)
        self.manager.reload_failed(text)
        self.reports.failed(self.number + 1, text, again)

    def _hear_successor(self) -> None:
        successor = self.successor
        if successor is None or successor.failure is not None:
            return
        messages = successor.listen()
        while messages:
            with self._kept_for_later(successor.channel, messages):
                self._heard_from_successor(successor, messages[0])
            del messages[0]
        if successor.failure is not None:
            self._successor_failed(successor)

    def _heard_from_successor(self, successor: Successor, message: Message) -> None:
        word, index = message.body.get("type"), message.body.get("index")
        if word == "return" and self._kept and self._way_back is None:
            self._way_back = message.take()
        message.close()
        known = isinstance(index, int) and 0 <= index < len(successor.bindings)
        if word == "adopted" and known:
            faults.at("adopted heard")
            successor.adopted.add(index)  # type: ignore[arg-type]
        elif word == "ready" and (known or index is None):
            faults.at("ready heard")
            if successor.first_ready is None:
                successor.first_ready = time.monotonic()
            if known:
                successor.adopted.add(index)  # type: ignore[arg-type]
                successor.ready.add(index)  # type: ignore[arg-type]
                for serving in self._handed[index : index + 1]:  # type: ignore[operator]
                    serving.owns_path = False
                    serving.accepting = False
                    serving.wake()
        elif word == "stopping":
            successor.word_given = True
            self._close_listeners()
            if successor.bridge and not self._stops:
                self._stops = self._stops_passed_on = 1  # it would be started anew only to stop
        elif word == "superseded":
            successor.word_given = True
        elif word == "hammer":
            self._hammer(str(successor))
        elif word == "return":
            pass
        elif word in ("taken", "refused"):
            numbers = message.body.get("ids")
            if not isinstance(numbers, list) or not all(map(handoff.is_number, numbers)):
                successor.fail(f"it said {word!r} over the channel without saying of what")
                return
            self.migration.answered(numbers, word == "taken")
        elif word == "heir":
            pid, generation = message.body.get("pid"), message.body.get("generation")
            if not handoff.is_number(pid, 1) or not handoff.is_number(generation):
                successor.fail(f"it said {word!r} over the channel without saying whose")
                return
            child = successor.child
            if successor not in self.leaving and child is not None and child.status is None:
                self.leaving.append(successor)  # it is about to end, only its channel lives on
                self._reap_at = time.monotonic()
            successor.pid, successor.generation = pid, generation
            if self.phase is Phase.RELOADING:
                self._drain(successor)  # it was ready, and has been replaced itself since
        else:
            successor.fail(f"it said {str(word)[:40]!r} over the channel, which is no word of ours")

    def _check_ready(self) -> None:
        successor = self.successor
        if successor is None or successor.failure is not None:
            return
        now = time.monotonic()
        complete = successor.first_ready is not None
        for index, serving in enumerate(self._handed):
            if index in successor.ready or not serving.entered:
                continue
            if index in successor.adopted or (
                successor.first_ready is not None and now < successor.first_ready + ADOPTION_GRACE
            ):
                complete = False
        if complete:
            self._drain(successor)
        elif successor.started is not None and now >= successor.started + self._ready_timeout():
            if successor.child is None:
                with suppress(OSError):  # its channel is open, so the pid is still its own
                    os.kill(successor.pid, signal.SIGKILL)
            successor.fail(f"it was not ready within {self._ready_timeout():g} s")
            self._successor_failed(successor)

    def _successor_failed(self, successor: Successor) -> None:
        """It will be killed and reaped; what it had taken over is served here again at once."""
        if successor.child is None:
            if not successor.word_given or self.phase is Phase.RELOADING:
                self._not_handed_back(f"pid {successor.pid} is not replaced: {successor.failure}")
            self._wake_all()
            return
        if successor not in self.leaving and successor.child.status is None:
            self.leaving.append(successor)
        self._reap_at = time.monotonic()
        if self.phase is Phase.DRAINING and not successor.word_given:
            self._resume(successor)
        elif self.phase is Phase.RELOADING:
            self._serve_again()
        self._wake_all()

    def _serve_again(self) -> None:
        for serving in self.servings:
            if serving.closing:
                continue
            serving.accepting = True
            serving.owns_path = True
            server = serving.server
            if serving.binding is None or serving.binding.kind != socket.SOCK_STREAM:
                continue
            with suppress(OSError, AttributeError):  # the successor may have set its own backlog
                server.socket.listen(server.request_queue_size)

    def _resume(self, successor: Successor) -> None:
        self.log(
            log.ERROR,
            f"{successor} died without a word: {successor.failure}; this one accepts again",
        )
        self._move(Phase.SERVING)
        for serving in self.servings:
            if serving.beacon is not None:
                serving.beacon = Beacon()
            serving.drain_deadline = serving.abandon_at = None
        self._serve_again()
        self._again = successor.reload_passed
        for listening in self._listenings():
            listening.done = listening.cut = False
            if not listening.resume():
                self.log(log.WARNING, f"{listening} has no on_resume; a new successor takes it")
                self._again = True
        why = f"generation {successor.generation} died; this one serves again"
        self.reports.failed(successor.generation, why)
        self.manager.resumed(why)

    def _reap(self) -> None:
        self._reap_at = None
        ours = {predecessor.pid for predecessor in self.predecessors}
        for orphan in list(self._orphans):
            if orphan.pid in ours:
                continue  # it still drains; the end of its channel comes first
            if orphan.reap():
                self._orphans.remove(orphan)
            else:
                self._reap_again(orphan)
        for successor in list(self.leaving):
            child = successor.child
            assert child is not None  # the others never come here
            if not child.reap():
                self._reap_again(child)
                continue
            self.leaving.remove(successor)
            if self.phase is Phase.RELOADING and successor is self.successor:
                self._say_failed(
                    f"reload failed: generation {child.generation} (pid {child.pid}) "
                    f"{child.status} before it was ready ({successor.failure}); "
                    "this one goes on serving"
                )
                self._move(Phase.SERVING)
            else:
                self.log(
                    log.INFO,
                    f"generation {child.generation} (pid {child.pid}) {child.status}",
                )
            if self.phase is Phase.SERVING and (self._again or self.reports.again()):
                self._again = False
                self.driver.notes.append(Note(RELOAD, "a reload asked for meanwhile"))

    def _reap_again(self, child: Child) -> None:
        again = child.next_reap()
        self._reap_at = again if self._reap_at is None else min(self._reap_at, again)

    # -- drain and stop ---------------------------------------------------

    def _drain(self, successor: Successor) -> None:
        successor.complete = True
        self._move(Phase.DRAINING)
        self.reports.ready(successor)
        successor.channel.send({"type": "reloaded", "report": self.reports.last})
        self._hand_over_charge()
        for predecessor in self.predecessors:
            predecessor.say("superseded")
        for index, serving in enumerate(self._handed):
            serving.migrates_to = index if index in successor.ready else None
            if index not in successor.adopted and serving.entered:
                self.log(log.INFO, f"the new code has no {serving}; it is closed")
                serving.closing = True
        self._start_drain(
            f"{successor} is ready after "
            f"{time.monotonic() - (successor.started or time.monotonic()):.3f} s"
        )
        if self._again:
            self._again = False
            self._pass_on(RELOAD, "the last order to reload")

    def _hand_over_charge(self) -> None:
        successor = self.successor
        if successor is None or successor.bridge:
            return  # with a kept pid this one is in charge, until it starts anew and after
        if self.phase in (Phase.DRAINING, Phase.DRAINED) and self.manager.in_charge:
            path = self.manager.hand_over(successor.generation, successor.pid)
            if successor.failure is None:
                successor.channel.send({"type": "charge", "pid_file": path})

    def _start_drain(self, why: str) -> None:
        self._drain_due = why
        faults.at("stop accepting")
        now = time.monotonic()
        active = sum(len(s.connections) for s in self.servings)
        longest = 0.0
        for serving in self.servings:
            serving.accepting = False
            timeout = serving.setting("drain_timeout")
            longest = max(longest, timeout)
            serving.drain_deadline = now + timeout
        for serving in self.servings:
            if serving.beacon is not None:
                serving.beacon.light(serving.migrates_to is not None)
        self.log(
            log.INFO,
            f"{why}; this one accepts no more and drains {active} active (at most {longest:g} s)",
        )
        self._drain_due = None
        self._wake_all()
        self.hooks.step(hooks.DRAINING)
        for listening in self._listenings():
            self.hooks.run([listening.drain], f"on_drain of {listening}")
        faults.at("draining")

    def _close_listeners(self) -> None:
        while self._spare:
            os.close(self._spare.pop()[1])
        for serving in self.servings:
            if not serving.closing:
                serving.closing = True
                serving.wake()

    def _stop(self, name: str) -> None:
        successor = self.successor
        if self.phase is Phase.RELOADING and successor is not None and not successor.failure:
            if successor.child is None:
                successor.channel.send({"type": "stop"})
            else:
                with suppress(OSError):
                    os.kill(successor.pid, signal.SIGTERM)
            longest = self._longest_drain()
            successor.fail(f"{name} stops both", kill_after=longest + 1 if successor.ready else 1)
            if successor.child is not None:
                self.leaving.append(successor)
            self._reap_at = time.monotonic()
        for predecessor in self.predecessors:
            predecessor.say("stopping")
        self._move(Phase.STOPPING)
        for serving in self.servings:
            serving.migrates_to = None
        for serving in self.servings:
            if serving.owns_path and serving.binding is not None:
                serving.binding.unlink()
        self._close_listeners()
        self.manager.stopping(self._longest_drain())
        self.reports.stopped(self.number + 1)
        self._start_drain(f"{name}: stops")

    def _hammer(self, name: str) -> None:
        if self.phase in (Phase.DRAINING, Phase.STOPPING):
            self.log(log.WARNING, f"{name}: ends what is still active now")
        now = time.monotonic()
        for serving in self.servings:
            if serving.drain_deadline is not None and serving.abandon_at is None:
                serving.drain_deadline = now
        self._wake_all()

    def _check_drained(self) -> None:
        for serving in self.servings:
            drain.check(serving, self.log)
        if self.phase is Phase.STOPPING and self.leaving:
            return
        if self.phase is Phase.STOPPING and self.predecessors and self.manager.notifier.enabled:
            return  # systemd ends what is left of a unit as soon as its main process has ended
        if any(predecessor.channel.partial for predecessor in self.predecessors):
            return  # it could not be handed on in the middle of a message
        if not all(serving.drained for serving in self.servings):
            return
        if len(self.migration) and all(serving.cut for serving in self.servings):
            count = self.migration.let_go()
            self.log(
                log.WARNING,
                f"drain time is over: {count} idle connections are left to {self.successor}, "
                "which has not said that it has them",
            )
        if not len(self.migration):
            self._finish()

    def _cutting_inline(self) -> bool:
        ident = threading.get_ident()
        return any(s.inline_cut and s.inline_thread == ident for s in self.servings)

    def _finish(self) -> None:
        successor = self.successor
        kept = successor is not None and successor.bridge and not self.bridge
        if kept:
            with suppress(OSError):  # no descriptor left: they are with the bridge alone
                for binding, descriptor in self._listeners():
                    self._spare.append((binding, os.dup(descriptor)))
        self._move(Phase.DRAINED)
        then = ", then this pid starts it anew" if kept and not self._stops else ""
        self.log(log.INFO, f"drained; serve_forever() returns and the program ends{then}")
        self.hooks.step(hooks.DRAINED)
        if successor is not None and successor.failure is None:
            for predecessor in self.predecessors:
                self._hand_on(predecessor, successor)
            self.predecessors = []
            self._note_alone()
            if successor.bridge and not self.bridge:
                self._kept = True
                if not self._stops:
                    successor.channel.send({"type": "replace"})
        stopped = (
            (signal.SIGINT if self.interrupted else self._stop_number) if self._stops else None
        )
        if any(listening.cut for listening in self._listenings()):
            stopped = self._stop_number
        self.ending.begin(stopped, {serving.loop_thread for serving in self.servings})
        self._wake_all()

    def _hand_on(self, predecessor: Predecessor, successor: Successor) -> None:
        """From now on the successor is the neighbour of our predecessor, which still drains."""
        numbers = {
            theirs: serving.migrates_to
            for theirs, serving in self._by_number(predecessor).items()
            if serving.migrates_to is not None
        }
        self._handed_on.append(predecessor)
        successor.channel.send(
            {
                **predecessor.to_json(),
                "type": "predecessor",
                "numbers": list(numbers.items()),
            },
            (predecessor.channel.fileno(),),
        )

    # -- connections ------------------------------------------------------

    def _migrate(self) -> None:
        if not len(self.migration):
            return
        successor = self.successor
        if self.phase is Phase.DRAINING and successor is not None and successor.failure is None:
            self.migration.send(successor.channel)
        else:
            self.migration.give_back()

    def _by_number(self, predecessor: Predecessor) -> dict[int, Serving]:
        """Return the servers by the numbers that this predecessor knows their listeners by."""
        own = {
            serving.binding.index: serving
            for serving in self.servings
            if serving.binding is not None and serving.binding.index is not None
        }
        if predecessor.numbers is None:
            return own
        return {theirs: own[ours] for theirs, ours in predecessor.numbers.items() if ours in own}

    def _take_connections(self, predecessor: Predecessor, message: Message) -> None:
        faults.at("connections received")
        servers = self._by_number(predecessor)
        answers: dict[str, list[int]] = {"taken": [], "refused": []}
        items = message.body.get("items")
        problem = None if isinstance(items, list) else "no list of connections"
        for position, item in enumerate(items if isinstance(items, list) else ()):
            if not (isinstance(item, dict) and handoff.is_number(item.get("id"))):
                problem = "a connection without a number"
                continue
            number = item.get("listener")
            serving = servers.get(number) if handoff.is_number(number) else None
            taken = False
            if serving is not None and serving.entered and not serving.cut:
                descriptor = message.take(position)  # None: this process has none left
                if descriptor is not None:
                    try:
                        serving.arrivals.append(Traveller.from_json(item, descriptor))
                        serving.wake()
                        taken = True
                    except (KeyError, OSError, TypeError, ValueError) as error:
                        os.close(descriptor)
                        problem = f"a connection that is none ({error!r})"
            answers["taken" if taken else "refused"].append(item["id"])
        message.close()  # what is refused belongs to its sender alone, before that hears so
        for word, numbers in answers.items():
            if numbers:
                predecessor.say(word, ids=numbers)
        if problem is not None:
            raise ChannelError(problem)

    # -- askers -----------------------------------------------------------

    def _answer(self, conversation: Conversation, request: dict[str, Any]) -> None:
        command = request.get("command")
        if command == "status":
            conversation.send({"event": "status", **self.state()}, last=True)
        elif command == "watch":
            pass  # the end of the conversation is the end of this process
        elif command == "stop":
            conversation.send({"event": "stopping"})
            self.driver.notes.append(Note(STOP, "the stop command"))
        elif command == "reload":
            self._reload_for(conversation)
        elif command == "upgrade":
            self._upgrade_for(conversation, bool(request.get("check_only")))
        else:
            conversation.send(
                {"event": "error", "reason": f"this version does not know {command!r}"}, last=True
            )

    def _upgrade_for(self, follower: Follower, check_only: bool) -> None:
        if self.updater is None:
            reason = "this program has no Updater, so there is nothing to look at"
            follower.send({"event": "error", "reason": reason}, last=True)
            return

        def tell(outcome: dict[str, Any]) -> None:
            with self.driver.lock:
                follower.send({"event": "outcome", **outcome}, last=True)
            self.wake()

        self.updater.look_for(check_only, tell)

    def follow_reload(self, follower: Follower) -> None:
        """Reload, and tell the follower how it goes; any thread may call this."""
        with self.driver.lock:
            self._reload_for(follower)
        self.wake()

    def _reload_for(self, follower: Follower) -> None:
        successor = self.successor
        if self.phase is Phase.SERVING:
            if self.reports.follow(follower):
                self.driver.notes.append(Note(RELOAD, "a reload was asked for"))
        elif self.phase is Phase.RELOADING:
            self.reports.wait(follower)
        elif successor is not None and successor.failure is None and not self._stops:
            follower.send({"event": "moved", "pid": successor.pid}, last=True)
        else:
            reason = f"this process is {self.phase.value}"
            follower.send({"event": "error", "reason": reason}, last=True)

    def state(self) -> dict[str, Any]:
        """Return what `endless_py.state()` does."""
        successor = self.successor
        alive = successor is not None and successor.failure is None
        return {
            "pid": os.getpid(),
            "generation": self.number,
            "phase": self.phase.value,
            "since": self.phase_since,
            "bridge": self.bridge,
            "servers": [serving.state() for serving in self.servings],
            "successor": {"pid": successor.pid, "generation": successor.generation}
            if alive and successor is not None
            else None,
            "predecessors": [{"pid": p.pid, "generation": p.generation} for p in self.predecessors],
            "last_reload": self.reports.last,
            "upgrade": self.updater.status() if self.updater is not None else None,
        }

    # -- predecessors -----------------------------------------------------

    def _hear_predecessors(self) -> None:
        for predecessor in list(self.predecessors):
            messages = predecessor.listen()
            if messages is None:
                self._predecessor_ended(predecessor)
                continue
            while messages:
                with self._kept_for_later(predecessor.channel, messages):
                    try:
                        self._heard_from_predecessor(predecessor, messages[0])
                    except ChannelError as error:
                        self.log(
                            log.WARNING,
                            f"{predecessor} said nonsense over the channel, "
                            f"which is ignored: {error}",
                        )
                messages.pop(0).close()

    def _predecessor_ended(self, predecessor: Predecessor) -> None:
        predecessor.channel.close()
        self.predecessors.remove(predecessor)
        self._note_alone()
        self.inheritance.close()
        self._restore_error_output()  # nobody reads it any more
        successor = self.successor
        alive = successor is not None and successor.failure is None
        self._reap_at = time.monotonic()
        if os.getpid() == 1:
            self._orphans.append(Child(predecessor.pid))
        if alive and successor is not None and successor.pid == predecessor.pid:
            return  # its program has ended, and the process starts it anew
        if predecessor.nonsense is None:
            self.log(log.INFO, f"{predecessor} has ended")
        else:
            self.log(
                log.ERROR,
                f"{predecessor} said nonsense over the channel, which is closed: "
                f"{predecessor.nonsense}",
            )
        if predecessor.kept:
            self._not_handed_back(f"pid {predecessor.pid} has ended instead of starting anew")
            if self.phase is Phase.DRAINING and alive and successor is not None:
                successor.channel.send({"type": "stop"})
        if successor is not None and successor.failure is None and not self.predecessors:
            successor.channel.send({"type": "ancestor_gone"})
        if predecessor is self.parent and not self.manager.was_in_charge and not self.bridge:
            self.manager.in_charge = True  # it was killed before it could hand over
            self._tell_manager()
            if self.phase is Phase.STOPPING:
                self.manager.stopping(self._longest_drain())
            self._hand_over_charge()

    def _note_alone(self) -> None:
        if not self.predecessors:
            self.unpreceded.set()

    def _heard_from_predecessor(self, predecessor: Predecessor, message: Message) -> None:
        word = message.body.get("type")
        if word == "reload":
            self.driver.notes.append(Note(RELOAD, f"a reload passed on by {predecessor}"))
        elif word == "reloaded":
            report = message.body.get("report")
            if report is not None and not isinstance(report, dict):
                raise ChannelError("a report that is none")
            self.reports.last = report
        elif word == "charge":
            path = message.body.get("pid_file")
            if path is not None and (not isinstance(path, str) or "\0" in path):
                raise ChannelError("a pid file's path that is none")
            self.manager.take_charge(path)
            if self.phase is Phase.STOPPING:  # told to stop before it was told this
                self.manager.stopping(self._longest_drain())
            self._wake_all()
            self._hand_over_charge()
        elif word == "stop":
            self._stops_passed_on = 1
            self.driver.notes.append(Note(STOP, f"a stop passed on by {predecessor}"))
        elif word == "hammer":
            self.driver.notes.append(Note(HAMMER, f"a hammer passed on by {predecessor}"))
        elif word == "ancestor_gone":
            predecessor.ancestor = False
        elif word == "predecessor":
            self.predecessors.append(Predecessor.handed_on(message))
            self.predecessors[-1].say("heir", pid=os.getpid(), generation=self.number)
        elif word == "replace":
            predecessor.waits = True
        elif word == "replacing":
            if self.successor is not None and self.successor.pid == predecessor.pid:
                self.successor.started = time.monotonic()
        elif word == "connections":
            self._take_connections(predecessor, message)

    # -- forks ------------------------------------------------------------

    def _in_forked_child(self) -> None:
        """A fork is not a generation: it lets go of all that makes the parent one."""
        serving = self._forking.get(_thread.get_ident())
        self._forking = {}
        self.driver.in_forked_child()
        self.remote.close()
        if self.phase is not Phase.SERVING:
            self.reports = Reports()
        channels = [p.channel for p in self.predecessors + self._handed_on]
        if self.successor is not None and self.successor.failure is None:
            channels.append(self.successor.channel)
        for channel in channels:
            channel.close()
        self.predecessors, self.parent, self.successor = [], None, None
        self._handed_on = []
        self.leaving = []
        if self.servings:  # else it becomes a daemon, and will be what is served
            self.manager.let_go()
        if serving is None:
            self.signals.restore()
        else:
            self.signals.in_handler_process()
        if self.terminal is not None:
            self.terminal.close()
        for other in self.servings:
            other.in_child = True
            if other.beacon is not None:
                other.beacon.let_go()
            if other.waiter is not None:
                other.waiter.close()
                other.waiter = None
            datagrams = other.binding is not None and other.binding.kind == socket.SOCK_DGRAM
            if serving is not None and not datagrams:  # datagrams are answered through it
                with suppress(OSError, AttributeError):
                    other.server.socket.close()
        self.servings = []

    # -- the rest ---------------------------------------------------------

    def log(self, level: int, text: str) -> None:
        log.write(level, f"{self.number} (bridge)" if self.bridge else str(self.number), text)


current = Generation()
