"""Step 5: ready, listener by listener; this process's word, and its successor's."""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from contextlib import suppress

from endless_py._reload import hooks, stacks
from endless_py._reload.base import BaseProcess, Order
from endless_py._reload.inherit import Inherit
from endless_py._reload.listener import Listener
from endless_py._reload.machine import Event
from endless_py._reload.settings import of
from endless_py._reload.signals import RELOAD, STOP
from endless_py._reload.supervisor import Supervisor
from endless_py._supervisor.detect import ends_all
from endless_py._support import faults, log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

    from endless_py._handoff.predecessor import Predecessor
    from endless_py._handoff.successor import Successor

ADOPTION_GRACE = 3.0  # seconds from the first ready to "the new code no longer has this address"


class Readiness:
    """Who has said ready, who waits for the program to say it, and how far the successor is."""

    def __init__(self, process: BaseProcess, inherit: Inherit, supervisor: Supervisor) -> None:
        self._process = process
        self._inherit = inherit
        self._supervisor = supervisor
        self._lock = threading.Lock()  # two threads may want to say it of the same listener
        self._told = False  # that all are
        self._called = False  # by the program itself
        self._announced = False  # one of them was, aloud
        self._main: Optional[weakref.ref[Listener]] = None  # the first served in the main thread
        self._quiet: weakref.WeakSet[Listener] = weakref.WeakSet()  # not announced aloud
        # What the successor has not adopted by then is closed (time.monotonic).
        self._grace_ends: Optional[float] = None

    # -- this process's ---------------------------------------------------

    def said_by_loop(self, listener: Listener) -> bool:
        """Whether to enter this server's loop is to say ready."""
        if self._process.worker:  # its leader does
            return False
        if listener.beside and self._process.predecessors.living_parent() is not None:
            # Last of all: until then the predecessor tells how both are.
            return self._own_are_ready()
        return bool(of(listener.server).ready_on_serve or self._called)

    def _own_are_ready(self) -> bool:
        own = [s for s in self._process.listeners.all if not s.beside]
        return bool(own) and all(s.ready for s in own)

    def call(self) -> None:
        """The program says it, for every server whose loop does not."""
        self._called = True
        self.say([s for s in self._process.listeners.all if s.entered or not s.own_loop])

    def say(self, listeners: list[Listener]) -> None:
        """Say it for these; raises what a check of the program's raises, and PidFileError.

        While another thread runs the checks (or a check calls this) it is said when they have
        passed, by who runs them. If they fail there, these loops try themselves.
        """
        process = self._process
        for listener in listeners:
            listener.unchecked = not listener.ready
        try:
            if not process.hooks.run_checks():
                return
        except BaseException:
            for listener in process.listeners.all:
                if listener in listeners:
                    listener.unchecked = False
                elif listener.unchecked:
                    listener.wake()
            raise
        said = []
        with self._lock:
            for listener in process.listeners.all:
                if listener.unchecked or (self._called and not listener.own_loop):
                    listener.unchecked = False
                    if not listener.ready:
                        listener.entered = listener.ready = True
                        said.append(listener)
            for listener in process.listeners.all if self._own_are_ready() else ():
                if listener.beside and listener.entered and not listener.ready:
                    listener.ready = True
                    said.append(listener)
        self._inherit.restore_error_output()
        parent, orders = process.predecessors.living_parent(), self._orders()
        for listener in said:
            listener.settle()
            if process.machine.accepting:
                listener.move("ready")
            if listener.loop_thread != threading.get_ident():
                listener.wake()
            self._announce(listener, " meanwhile" if process.bridge else f"; {orders}")
            if parent is not None:
                index = listener.binding.index if listener.binding is not None else None
                faults.at("ready")
                self._tell(parent, "ready", index)
        if process.group is not None:
            process.group.serves()
        self._complete()

    def _announce(self, listener: Listener, how: str) -> None:
        """Say that it is served; aloud, where somebody may want to know.

        A program's tests serve hundreds in threads, which nobody reloads: they get one line.
        """
        process, main = self._process, threading.main_thread().ident
        with self._lock:  # another server's thread may say the same just now
            in_main = [s for s in process.listeners.all if s.loop_thread == main]
            if self._main is None and in_main:
                self._main = weakref.ref(in_main[0])
            served = self._main is not None and self._main() in in_main
            aloud = served or process.generation or self._called or not listener.own_loop
            known = [listener] if aloud or not self._announced else []
            if served:  # what was kept quiet until now
                known += [s for s in process.listeners.all if s.ready and s in self._quiet]
                self._quiet = weakref.WeakSet()
            elif not known:
                self._quiet.add(listener)
            self._announced = self._announced or bool(known)
        for each in known or [listener]:
            level = log.INFO if known else log.DEBUG
            process.log(level, "serves %(listener)s%(how)s", "serves", listener=each, how=how)

    def _complete(self) -> None:
        process = self._process
        if process.generation == 0:
            self._supervisor.claim_pid_file()
        with self._lock:
            all_ready = all(s.ready for s in process.listeners.all)
            complete = all_ready and not self._told
            self._told = self._told or complete
        if all_ready or self._supervisor.notifier.enabled:  # which is told who is waited for
            process.leave(Order(None, call=self._tell_supervisor))
        if complete and self._inherit.offers_stacks:
            self._inherit.offers_stacks = False
            stacks.withdraw()
        if complete:
            process.hooks.run_step(hooks.READY)

    def _tell_supervisor(self) -> None:
        if self._supervisor.serves():
            self._inherit.say_unused()

    def _orders(self) -> str:
        """Say how an operator reloads and stops this process."""
        signals = self._process.signals
        pairs = (signals.ordered_by(RELOAD), "reloads"), (signals.ordered_by(STOP), "stops")
        known = [(name, verb) for name, verb in pairs if name]
        if not known:
            return "no signal of its own, endless_py.reload() reloads"
        return ", ".join(
            f"{'kill ' * (not number)}-{name} {f'{os.getpid()} ' * (not number)}{verb}"
            for number, (name, verb) in enumerate(known)
        )

    def say_adopted(self, listener: Listener) -> None:
        """Tell the predecessor that this server has bound one of its listeners."""
        parent, binding = self._process.predecessors.living_parent(), listener.binding
        if parent is not None and binding is not None and binding.index is not None:
            self._tell(parent, "adopted", binding.index)
            faults.at("adopted")

    def _tell(self, parent: Predecessor, word: str, index: Optional[int]) -> None:
        parent.say(word, index=index)
        if parent.channel.sending:  # whoever drives has to watch for room in it
            self._process.wake()

    # -- the successor's --------------------------------------------------

    def heard_adopted(self, successor: Successor, index: int) -> None:
        """It has bound this listener."""
        faults.at("adopted heard")
        successor.adopted.add(index)

    def heard_ready(self, successor: Successor, index: Optional[int]) -> None:
        """It serves this listener, or (None) an address of its own."""
        faults.at("ready heard")
        if successor.first_ready is None:
            successor.first_ready = time.monotonic()
        if index is not None:
            successor.adopted.add(index)
            successor.ready.add(index)
            for listener in self._process.handed[index : index + 1]:
                listener.owns_path = False
                listener.move("yield")
                # A loop that is alone sees so at its next client, whom others see as well. Where
                # processes share the listener the kernel may tell one of them alone.
                if self._process.group is not None:
                    listener.wake()

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which `check()` has something to do."""
        successor = self._process.living_successor
        if not self._process.machine.awaits or successor is None:
            return None
        times = [self._grace_ends]
        if successor.started is not None:
            times.append(successor.started + self._process.listeners.ready_timeout())
        return min((t for t in times if t is not None), default=None)

    def check(self) -> None:
        """While it is awaited: it is ready once everything is served, or fails in the end."""
        self.check_complete()
        successor = self._process.living_successor
        if self._process.machine.awaits and successor is not None:
            self._check_time(successor)

    def check_complete(self) -> None:
        """While it is awaited: whether everything is served; it says so listener by listener."""
        successor = self._process.living_successor
        if not self._process.machine.awaits or successor is None:
            return
        now = time.monotonic()
        self._grace_ends = None
        complete = successor.first_ready is not None
        for index, listener in enumerate(self._process.handed):
            if index in successor.ready or not listener.entered:
                continue
            if index in successor.adopted:
                complete = False
            elif successor.first_ready is not None:
                grace_ends = successor.first_ready + ADOPTION_GRACE
                if now < grace_ends:
                    self._grace_ends, complete = grace_ends, False
        if complete:
            seconds = now - (successor.started or now)
            self._process.fire(Event.READY, f"{successor} is ready after {seconds:.3f} s")
            if successor.superseded:  # it said so before this process counted it as ready
                self._process.fire(Event.SUPERSEDED)

    def _check_time(self, successor: Successor) -> None:
        timeout = self._process.listeners.ready_timeout()
        if successor.started is not None and time.monotonic() >= successor.started + timeout:
            if successor.child is None and ends_all(successor.pid):
                successor.started = None
                self._process.log(
                    log.ERROR,
                    "%(successor)s was not ready within %(seconds)g s; its end would end "
                    "this process as well, which goes on serving and waits for it",
                    "waits_on",
                    successor=f"pid {successor.pid}",
                    seconds=timeout,
                )
                return
            # Before the signal: it must not take the end of the channel for that of this process.
            successor.say("given_up")
            # What serves one of the listeners has requests, which it is to finish.
            serves = bool(successor.ready)
            if successor.child is None or serves:
                with suppress(OSError):  # its channel is open, so the pid is still its own
                    os.kill(successor.pid, signal.SIGTERM if serves else signal.SIGKILL)
            elif successor.child is not None:
                stacks.ask(successor.pid)
            longest = self._process.listeners.longest_drain()
            reason = f"it was not ready within {timeout:g} s"
            successor.fail(reason, kill_after=longest + 1 if serves else stacks.PATIENCE)

    # -- actions ----------------------------------------------------------

    def restart_clock(self, *_: object) -> None:
        """The kept pid starts the program just now."""
        if self._process.successor is not None:
            self._process.successor.started = time.monotonic()

    def take_over(self, *_: object) -> None:
        """The successor serves: what it has adopted is its own from now on."""
        process, successor = self._process, self._process.successor
        assert successor is not None
        process.predecessors.superseded(1, process.listeners.max_draining())
        missing = []
        for index, listener in enumerate(process.handed):
            listener.migrates_to = index if index in successor.ready else None
            if index not in successor.adopted:
                missing.append(index)
                listener.missing = listener.entered
                if listener.missing:
                    template = "the new code has no %(listener)s; it is closed"
                    process.log(log.WARNING, template, "listener_dropped", listener=listener)
        if missing:
            successor.say("missing", indexes=missing)

    def heard_closed(self, indexes: list[int]) -> None:
        """It has these listeners no more: nobody is let in once they are closed here too."""
        for index in indexes:
            for listener in self._process.handed[index : index + 1]:
                if listener.missing:
                    listener.give_up()
                    if self._process.group is not None:
                        self._process.group.give_up(listener)
