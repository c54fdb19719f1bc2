"""Step 7: nothing is active, the program ends, and at last the interpreter."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from endless_py._reload import hooks, stacks
from endless_py._reload.base import BaseProcess
from endless_py._reload.let_go import let_threads_go
from endless_py._reload.machine import Event
from endless_py._reload.migration import Migration
from endless_py._reload.reexec import Reexec
from endless_py._reload.settings import NO_LIMIT
from endless_py._reload.signals import CALL, as_if_not_there, interrupt
from endless_py._reload.stop import Stop
from endless_py._reload.supervisor import Supervisor
from endless_py._supervisor import detect
from endless_py._supervisor.detect import ends_all
from endless_py._support import faults, log
from endless_py._support.sigmask import block, unblock

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from types import FrameType
    from typing import Optional

    from endless_py._handoff.successor import Successor

# Seconds that a bridge has to serve before the old program is given up for it: what dies just after
# its start is noticed while there is still something to go back to.
_PROBATION = 0.5
# Seconds from a successor's first word that it serves until this process ends at the earliest. To
# free its memory takes a processor for 10 ms and more. The kernel has seen the other one busy with
# the start of the successor, and for some 50 ms it gives new threads to this one, where each would
# wait for the next tick of the scheduler, 4 ms.
_SETTLING = 0.05
_NAME_AFTER = 5.0  # seconds a program has to end before what keeps it alive is named
# Seconds that the main thread has to end by itself, where it waited for the servers; until it is
# ended though it does not come back to what it did, where it did not wait; and between two looks.
_MAIN_GRACE, _MAIN_WORKS, _MAIN_LOOK = 1.0, 3.0, 0.05
_KILL_AFTER = 2.0  # seconds that the interpreter's own end may take


class Exit:
    """What is left to be waited for before this process can go."""

    def __init__(
        self,
        process: BaseProcess,
        supervisor: Supervisor,
        stop: Stop,
        reexec: Reexec,
        migration: Migration,
    ) -> None:
        self._process = process
        self._supervisor = supervisor
        self._stop = stop
        self._reexec = reexec
        self._migration = migration
        self.watch = ExitWatch(process, supervisor)
        self._probation: Optional[tuple[Successor, float]] = None  # its end (time.monotonic)
        self._ends_from: Optional[float] = None  # until then it waits for nothing else

    def check(self) -> None:
        """During a drain: finish when nothing is left to wait for."""
        process, self._ends_from = self._process, None
        if not process.machine.drains or process.driver.jobs_wait:
            return
        predecessors = process.predecessors.living
        if process.machine.stops:
            if process.children.leaving:
                return
            if predecessors and self._supervisor.notifier.enabled:
                return  # systemd ends what is left of a unit when its main process has ended
        if any(predecessor.channel.partial for predecessor in predecessors):
            return  # it could not be handed on in the middle of a message
        if not (process.listeners.drained() and process.others_ended()):
            return
        if len(self._migration) and process.listeners.cut():
            count = self._migration.leave_to_successor()
            process.log(
                log.WARNING,
                "drain time is over: %(connections)d idle connections are left to "
                "%(successor)s, which has not said that it has them",
                "connections_left",
                connections=count,
                successor=process.successor,
            )
        if not len(self._migration):
            self._ends_from = self._earliest_end()
            if self._ends_from is None or time.monotonic() >= self._ends_from:
                process.fire(Event.EMPTY)

    def _earliest_end(self) -> Optional[float]:
        """Return the moment (time.monotonic) until which an end would come too soon."""
        process, successor = self._process, self._process.living_successor
        if successor is None or self._stop.ordered or process.driver.exiting:
            return None  # it ends by itself
        if not process.is_kept_by(successor):
            served = successor.first_ready
            return None if served is None else served + _SETTLING
        # Until the bridge has served long enough this process can resume.
        if self._probation is None or self._probation[0] is not successor:
            self._probation = successor, time.monotonic() + _PROBATION
        return self._probation[1]

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which there is something to do here."""
        ends = self._ends_from if self._process.machine.drains else None
        times = ends, self.watch.deadline()
        return min((t for t in times if t is not None), default=None)

    # -- actions ----------------------------------------------------------

    def finish(self, *_: object) -> None:
        """Every serve_forever() returns once the hooks have run, and the program ends."""
        process, successor = self._process, self._process.living_successor
        kept = process.is_kept_by(process.successor)
        if kept:
            self._reexec.keep_spare()
        then = ", then this pid starts it anew" if kept and not self._stop.ordered else ""
        quiet = process.worker or (process.bridge and not self._stop.ordered)
        level = log.DEBUG if quiet else log.INFO
        process.log(level, "finished; exiting%(then)s", "finished", then=then)
        if successor is not None:
            process.counters.hand_on(successor)
            process.predecessors.hand_on(successor, process.listeners)
            if kept:
                self._reexec.due = True
                if not self._stop.ordered:
                    successor.say("wait_over")
        foreign = process.listeners.foreign()
        stopped = self._stop.by_signal
        if stopped is None and (not foreign or any(listener.cut for listener in foreign)):
            stopped = int(getattr(signal, CALL))  # HUP would have ended the program as well
        supervised = detect.is_watched(self._supervisor.notifier.enabled) or kept or process.bridge
        self.watch.end_after = process.listeners.exit_grace(supervised)
        self.watch.begin(stopped, {listener.loop_thread for listener in process.listeners.all})
        if process.hooks.steps[hooks.DRAINED]:
            process.driver.later(self._run_hooks)
        else:
            self._release()

    def _run_hooks(self) -> None:
        self._process.hooks.run_step(hooks.DRAINED)
        self._release()

    def _release(self) -> None:
        self._process.released = True
        self._process.wake_all()

    # -- the interpreter's end --------------------------------------------

    def end_driving(self) -> None:
        """The interpreter ends: no thread of ours may run into its finalization."""
        process, driver = self._process, self._process.driver
        driver.exiting = True
        driver.finish_step()  # another server's thread may be in the middle of one
        if not driver.wait_for_jobs():
            process.log(
                log.ERROR,
                "a hook that still runs does not end; the process ends without it",
                "hook_does_not_end",
            )
        faults.at("exit")
        self._stop.at_exit()
        if process.machine.drains and process.listeners.foreign():
            process.drained()  # the program's way to say so
            driver.advance()
            # Another thread may have been faster, and be in the middle of the step: what it
            # decides counts for what follows here.
            driver.finish_step()
            driver.advance()

    def wait_for_others(self) -> None:
        """The interpreter ends: wait for the bridge to hand back or, after a stop, to end."""
        process = self._process
        with process.driver.stepping:  # threads of servers may still drive
            if self._reexec.due and not self._stop.ordered:
                process.fire(Event.KEPT_PID_EXITS)
            elif self._reexec.due or (self._stop.ordered and process.children.orphans):
                process.fire(Event.STOPPED_PID_EXITS)
        if process.machine.reexecs or process.machine.leaves:
            self.watch.end()  # the program has ended, and is not to be hurried any more
            process.driver.drive_until(self._others_done)

    def _others_done(self) -> bool:
        process = self._process
        lives = process.living_successor is not None
        if process.machine.leaves:
            if not lives and not len(process.children):
                with process.driver.stepping:
                    process.fire(Event.ALONE)
        elif not lives or self._reexec.handed_back:
            block(process.signals.roles)
            process.driver.advance()
            if process.machine.reexecs:
                with process.driver.stepping:
                    process.fire(Event.HANDED_BACK)
            else:  # a stop came just before they were blocked
                unblock(process.signals.roles)
        return not (process.machine.reexecs or process.machine.leaves)

    def late_signal(self, number: int, frame: Optional[FrameType]) -> bool:
        """The servers are done; what is left of the program may have to be ended.

        Return whether the signal has done all that it is to do.
        """
        if self.watch.ends_main:
            self.watch.ends_main = False
            if number != signal.SIGINT:
                raise SystemExit(0)
            interrupt(number, frame)
        elif self._reexec.due or self._process.children.orphans:
            return False
        elif number == signal.SIGINT and self._stop.interrupted:
            interrupt(number, frame)
        elif self._process.successor is None or self._stop.ordered:
            as_if_not_there(number, frame)
        else:
            return False
        return True


class ExitWatch:
    """Watches over the time from the end of the drain to the end of the program."""

    def __init__(self, process: BaseProcess, supervisor: Supervisor) -> None:
        self._process = process
        self._supervisor = supervisor
        self.end_after = NO_LIMIT  # seconds that the program has
        self._end_at: Optional[float] = None
        self._kill_at: Optional[float] = None
        self._name_at: Optional[float] = None
        self._main_at: Optional[float] = None
        self._main_was: tuple[str, ...] = ()
        self._main_ends: Optional[float] = None
        self._number = signal.SIGTERM
        self.ends_main = False  # the next signal of ours raises SystemExit in the main thread

    def begin(self, stop_signal: Optional[int], loops: set[Optional[int]]) -> None:
        """Start watching; loops are the threads of servers.

        stop_signal is what ends the program, None where it says itself when it is over.
        """
        now = time.monotonic()
        self._name_at = now + _NAME_AFTER
        self._end_at = now + self.end_after if self.end_after < NO_LIMIT else None
        main = _main_frame()
        if stop_signal is not None and main and threading.main_thread().ident not in loops:
            self._number = signal.Signals(stop_signal)
            self._main_at, self._main_was = now + _MAIN_GRACE, _where(main)
            if main.f_code.co_filename != threading.__file__:
                self._main_ends = now + _MAIN_WORKS

    def end(self) -> None:
        """Watch no more."""
        self._name_at = self._main_at = self._end_at = self._kill_at = None

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which `check()` has something to do."""
        times = (self._name_at, self._main_at, self._end_at, self._kill_at)
        return min((t for t in times if t is not None), default=None)

    def check(self) -> None:
        """The program should end now; when it does not, say what keeps it alive."""
        now = time.monotonic()
        if self._main_at is not None and now >= self._main_at:
            self._main_at = now + _MAIN_LOOK
            frame = _main_frame()
            late = self._main_ends is not None and now >= self._main_ends
            if frame is None:
                self._main_at = None
            elif late or _where(frame) == self._main_was:
                # The main thread does not wait for the server's thread, or it would have gone on
                # to its own end: without us the signal would have ended it on the spot.
                self._main_at, self.ends_main = None, True
                self._process.signals.for_main.add(int(self._number))
                os.kill(os.getpid(), self._number)
        if self._name_at is not None and now >= self._name_at:
            self._name_at = None
            frames = sys._current_frames()
            names = ", ".join(
                f"{thread.name} at {_where(frame)[-1] if frame else '?'}"
                for thread in threading.enumerate()
                for frame in [frames.get(thread.ident or 0)]
                if not thread.daemon
            )
            self._process.log(
                log.WARNING,
                "finished %(seconds)g s ago, but the program has not ended; alive: %(threads)s",
                "alive",
                seconds=_NAME_AFTER,
                threads=names,
            )
        if self._end_at is not None and now >= self._end_at:
            self._end(now)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            if not ends_all(os.getpid()):
                self._supervisor.ended()
                os._exit(1)

    def _end(self, now: float) -> None:
        """The program had its time: end it as it would end itself, or at once if that fails."""
        self._end_at, self._kill_at = None, now + _KILL_AFTER
        for line in stacks.lines():
            self._process.log(log.ERROR, "does not end: %(stack)s", "does_not_end", stack=line)
        template = "finished %(seconds)g s ago, but the program has not ended; it is ended now"
        self._process.log(log.ERROR, template, "ended_now", seconds=self.end_after)
        main = threading.main_thread()
        let_threads_go(t for t in threading.enumerate() if not t.daemon and t is not main)
        self.ends_main = True
        self._process.signals.for_main.add(int(getattr(signal, CALL)))
        os.kill(os.getpid(), getattr(signal, CALL))


def _main_frame() -> Optional[FrameType]:
    return sys._current_frames().get(threading.main_thread().ident or 0)


def _where(frame: FrameType) -> tuple[str, ...]:
    places = []
    current: Optional[FrameType] = frame
    while current is not None:
        places.append(f"{current.f_code.co_filename}:{current.f_lineno}")
        current = current.f_back
    return tuple(reversed(places))
