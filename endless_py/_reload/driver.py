"""Which thread drives the process: a serving loop that is free, else a helper thread.

Each serving loop calls `advance()` when it is woken. Where one of them is always free (its
handlers have threads, and no method of its class is overridden that might wait) it leads: it alone
waits for signals and neighbours, so that of hundreds of servers only one is woken.

Only while none of them can (before the first loop, after the last, or while a server without
threads runs a handler in its loop) a helper thread does. A process with a forking server has a
free loop whenever it forks, so it never forks beside a helper.

What the program wants called (hooks, callbacks) is a job: it is left here by a step, and run by
the thread that drives after the step, when it holds nothing. As long as a job runs, its thread
counts as busy, and another one drives; a hook may so call anything public, and wait for what the
process does meanwhile.

Nothing that a program calls waits for `stepping`, which is held by the thread that takes a step.
`_lock` is held for the few lines that change what the threads know of each other. A signal handler
takes neither, and `_helper_lock` without waiting.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections import deque

from endless_py._reload.listener import Listener
from endless_py._sockets.poller import Poller
from endless_py._support.sigmask import block

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Protocol

    class Driven(Protocol):
        """What is driven."""

        def step(self) -> None:
            """Do what there is to do now, without waiting; leaves jobs."""

        def pending(self) -> bool:
            """Whether there is, or may soon be, something to do."""

        def watched(self) -> dict[int, int]:
            """Return the descriptors to wait for meanwhile."""

        def deadline(self) -> Optional[float]:
            """Return the moment (time.monotonic) at which `step()` must be called; None: never."""

        def make(self, what: Callable[[], Any]) -> Any:
            """Return what(), for which descriptors may be opened."""


_JOB_GRACE = 5.0  # seconds that the end of the interpreter waits for a hook that still runs
_JOB_ALONE = 0.2  # seconds in which no other job is begun beside one


class Driver:
    """Has `step()` called in one thread at a time, and jobs after it."""

    def __init__(self, driven: Driven) -> None:
        self._driven = driven
        self.exiting = False
        self.changes = object()  # another one whenever what `driven` says may differ
        self._calm: object = None  # the one of them in which nothing was pending
        self.begin(anew=True)

    def begin(self, anew: bool) -> None:
        """Begin in this process, as the one that serves; anew forgets all that was to be done."""
        self.pid = os.getpid()  # a helper runs in no other
        if anew:
            self.in_forked_child()

    def in_forked_child(self) -> None:
        """Locks may be held and threads are gone."""
        self.stepping = threading.Lock()
        self._lock = threading.Lock()
        self._free: frozenset[Listener] = frozenset()
        self._leader: Optional[Listener] = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._running: tuple[_thread.LockType, ...] = ()  # each held by a thread that runs jobs
        # Jobs are run one after the other, by one thread, unless one of them takes longer than
        # that (time.monotonic): it may wait for what another one does.
        self._jobs_at = 0.0
        self.posted = False  # there is something for a step that nobody may have seen
        self._helper_lock = threading.Lock()
        self._helper: Optional[_Helper] = None
        self._last: Optional[Poller] = None  # on which the interpreter's end waits
        self._last_ident = 0

    # -- driving ----------------------------------------------------------

    def advance(self, listener: Optional[Listener] = None) -> None:
        """Do what there is to do now, jobs included. Never waits for another thread.

        listener is that of the serving loop that calls, if one does.
        """
        while True:
            if self.stepping.acquire(blocking=False):
                try:
                    self.posted = False
                    self._driven.step()
                finally:
                    self.changes = object()
                    self.stepping.release()
                if not self._waits_next(listener):
                    # What whoever waits has planned may not be right any more.
                    self._wake_free()
                    helper = self._helper
                    if helper is not None:
                        helper.poller.interrupt()
                self._wake_last()
            else:
                return  # whoever drives looks at `posted` once more when it is done
            if self._jobs and time.monotonic() >= self._jobs_at:
                self._run_jobs(listener)
            elif not self.posted:
                return

    def _waits_next(self, listener: Optional[Listener]) -> bool:
        """Whether this thread, after its step, will itself wait for what may happen."""
        if listener is not None:
            return self.leads(listener)
        helper = self._helper
        return helper is not None and helper.ident == _thread.get_ident()

    def later(self, job: Callable[[], None]) -> None:
        """Have the program's code called after this step, by a thread that holds nothing."""
        self._jobs.append(job)

    @property
    def jobs_wait(self) -> bool:
        """Whether something of the program's is to be called before what comes next."""
        return bool(self._jobs)

    def _run_jobs(self, listener: Optional[Listener]) -> None:
        runs = _thread.allocate_lock()
        runs.acquire()
        with self._lock:
            if time.monotonic() < self._jobs_at:
                return  # another thread has begun to run them
            self._jobs_at = time.monotonic() + _JOB_ALONE
            self._running = (*self._running, runs)
        if listener is not None:
            self.busy(listener)
        elif self._helper is not None and self._helper.ident == _thread.get_ident():
            self._retire_helper()
        elif not self._free:
            self.wake()  # who else may drive meanwhile
        try:
            while self._jobs:
                try:
                    job = self._jobs.popleft()
                except IndexError:  # another thread was faster
                    break
                self._jobs_at = time.monotonic() + _JOB_ALONE
                job()
        finally:
            with self._lock:
                self._running = tuple(other for other in self._running if other is not runs)
                if not self._running:
                    self._jobs_at = 0.0
            runs.release()
            if self._jobs:
                self.wake()
            if listener is not None:
                self.free(listener)

    def jobs_deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) from which the next job waits no longer."""
        if self._jobs and self.stepping.locked():  # whoever steps runs it; to look at once spins
            return time.monotonic() + _JOB_ALONE
        return self._jobs_at if self._jobs else None

    def wait_for_jobs(self) -> bool:
        """At the interpreter's end: let hooks that still run end; whether they did in time."""
        until = time.monotonic() + _JOB_GRACE
        for runs in self._running:
            if not runs.acquire(timeout=max(0.0, until - time.monotonic())):
                return False
            runs.release()
        return True

    def wake(self) -> None:
        """Have `advance()` called soon; safe in a signal handler and in any thread."""
        self.changes = object()
        free = self._wake_free()
        helper = self._helper
        if helper is not None:
            helper.poller.interrupt()
        elif not self._wake_last() and not free and self._driven.pending():
            self._start_helper()

    def _wake_free(self) -> bool:
        """Wake who can drive; whether there is anybody."""
        leader = self._leader
        free = self._free if leader is None else (leader,)
        for listener in free:
            listener.wake()
        return bool(free)

    def _wake_last(self) -> bool:
        """Wake the interpreter's end, where it waits in another thread; whether it does."""
        last = self._last
        if last is None or self._last_ident == _thread.get_ident():
            return False
        last.interrupt()
        return True

    # -- loops ------------------------------------------------------------

    def leads(self, listener: Listener) -> bool:
        """Whether this server's loop has to call `advance()`."""
        return self._leader is None or self._leader is listener

    def concern(self, listener: Listener) -> object:
        """Return another object whenever what this server's loop waits for may differ."""
        leader = self._leader
        return self.changes if leader is None or leader is listener else leader

    def free(self, listener: Listener) -> None:
        """This server's loop can drive from now on."""
        with self._lock:
            self._free |= {listener}
            if self._leader is None and listener.steady:
                self._leader = listener
        self.end_helper()
        if self.posted or self._has_to_do():
            # What came before may have woken nobody but the helper.
            (self._leader or listener).wake()

    def busy(self, listener: Listener) -> None:
        """This server's loop runs something that may take long."""
        with self._lock:
            self._free -= {listener}
            led = self._leader is listener
            if led:
                self._leader = next((other for other in self._free if other.steady), None)
        has_to_do = self._has_to_do()
        if led or (has_to_do and self._leader is None):
            # Whoever waits from now on may have planned before the last step.
            self._wake_free()
        if not self._free and has_to_do:
            self._start_helper()

    def _has_to_do(self) -> bool:
        """Whether something is pending; asked again only after a change."""
        changes = self.changes
        if self._calm is changes:
            return False
        if self._driven.pending():
            return True
        self._calm = changes
        return False

    # -- the helper thread ------------------------------------------------

    def _start_helper(self) -> None:
        if self.exiting or not self._helper_lock.acquire(blocking=False):
            return  # somebody is starting one right now
        try:
            if self._helper is None and os.getpid() == self.pid:
                self._helper = self._driven.make(_Helper)
                # threading.Thread takes locks that the code interrupted by a signal may hold.
                _thread.start_new_thread(self._help, (self._helper,))
        except (OSError, RuntimeError):
            # No descriptor or memory for it now; the next loop that is free does its work.
            helper, self._helper = self._helper, None
            if helper is not None:
                helper.poller.close()
        finally:
            self._helper_lock.release()

    def end_helper(self) -> None:
        """Wait until no helper thread drives."""
        helper = self._helper
        if helper is not None and helper.ident != _thread.get_ident():
            helper.quits = True
            helper.poller.interrupt()
            with helper.drives:  # it holds this until it ends, or until it runs the program's code
                pass

    def _help(self, helper: _Helper) -> None:
        helper.ident = _thread.get_ident()
        try:
            while helper is self._helper and not helper.quits and self._driven.pending():
                self.advance()
                if helper is not self._helper or helper.quits or not self._driven.pending():
                    break
                self._wait(helper.poller)
        finally:
            self._retire_helper(helper)
            helper.poller.close()
        if not helper.quits and not self._free and self._driven.pending():
            self._start_helper()

    def _retire_helper(self, helper: Optional[_Helper] = None) -> None:
        """This thread is the helper no longer: it ends, or runs the program's code."""
        helper = helper or self._helper
        if helper is None or helper.retired:
            return
        helper.retired = True
        if self._helper is helper:
            self._helper = None
        if helper.quits:  # a signal in its last moment is for another thread
            block(signal.valid_signals())
        helper.drives.release()
        if not helper.quits and not self._free and self._driven.pending():
            self._start_helper()

    # -- the ends ---------------------------------------------------------

    def drive_until(self, done: Callable[[], bool]) -> None:
        """Drive in this thread, when no loop does any more and no helper is to, until done().

        Another thread may still take a step, and hear what is waited for here: the loop of a server
        in a daemon thread, or one that was a helper and has run a hook since. It wakes this one.
        """
        self._last_ident, self._last = _thread.get_ident(), Poller()
        while not done():
            self._wait(self._last)
            self.advance()
        last, self._last = self._last, None
        last.close()

    def finish_step(self) -> None:
        """Wait until no helper drives, nor another thread is in the middle of a step."""
        self.end_helper()
        with self.stepping:
            pass

    def _wait(self, poller: Poller) -> None:
        poller.watch(self._driven.watched())
        deadline = self._driven.deadline()
        poller.wait(None if deadline is None else deadline - time.monotonic())


class _Helper:
    """A helper thread, as the others see it."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.ident = 0
        self.quits = False
        self.retired = False
        self.drives = _thread.allocate_lock()
        self.drives.acquire()
