"""Who moves the generation on: a serving loop that is free, else a helper thread.

Each serving loop calls `advance()` when it is woken. Where one of them is always free (its
handlers have threads of their own, and no method of its class is overridden that might wait)
it leads: it alone waits for signals and neighbours, so that a process with hundreds of servers
does not wake them all.

Only while none of them can (before the first loop, after the last, or while a server without
threads runs a handler in its loop) a helper thread does. A process with a forking server has a
free loop whenever it forks, so it never forks beside a helper.

Locks: `_helper_lock`, then `lock`. A signal handler takes none but the first, and
that one without waiting.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections import deque

from endless_py._reload.serving import Serving
from endless_py._reload.signals import Note
from endless_py._sockets.poller import Waiter
from endless_py._support.sigmask import block

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Callable, Optional

_STUMBLES = 5  # a step that fails so often in a row is given up
_STUMBLE_PAUSE = 0.1  # seconds until what failed is tried again


class Driver:
    """Calls `step()` in one thread at a time, as long as notes are left for it.

    pending() says whether there is or may soon be something to do, watched() and
    deadline() what to wait for meanwhile.
    """

    def __init__(
        self,
        step: Callable[[], None],
        pending: Callable[[], bool],
        watched: Callable[[], dict[int, int]],
        deadline: Callable[[], Optional[float]],
    ) -> None:
        self._step = step
        self._pending = pending
        self._watched = watched
        self._deadline = deadline
        self.notes: deque[Note] = deque()
        self.exiting = False
        self.changes = object()  # another one whenever what the functions above say may differ
        self._calm: object = None  # the one of them in which nothing was pending
        self._free: set[Serving] = set()
        self._leader: Optional[Serving] = None
        self.pid = os.getpid()  # of the process that serves; a helper runs in no other
        self._reset()

    def _reset(self) -> None:
        self.lock = threading.Lock()
        self._helper_lock = threading.Lock()
        self._helper: Optional[_thread.LockType] = None
        self._helper_waiter: Optional[Waiter] = None
        self._helper_quits = False

    def advance(self) -> None:
        """Do what there is to do now. Never waits; any thread may call it."""
        while self.lock.acquire(blocking=False):
            try:
                self._step()
            finally:
                self.changes = object()
                self.lock.release()
            if not self.notes:
                return

    def note(self, note: Note) -> None:
        """Leave a note; safe in a signal handler and in any thread."""
        self.notes.append(note)
        self.wake()

    def wake(self) -> None:
        """Have `advance()` called soon."""
        self.changes = object()
        free = self._wake_free()
        waiter = self._helper_waiter
        if waiter is not None:
            waiter.wake()
        if not free and self._pending():
            self._start_helper()

    def _wake_free(self) -> bool:
        """Wake who can drive; whether there is anybody."""
        leader = self._leader
        free = list(self._free) if leader is None else [leader]
        for serving in free:
            serving.wake()
        return bool(free)

    def leads(self, serving: Serving) -> bool:
        """Whether this server's loop has to call `advance()`."""
        return self._leader is None or self._leader is serving

    def concern(self, serving: Serving) -> object:
        """Return another object whenever what this server's loop waits for may differ."""
        leader = self._leader
        return self.changes if leader is None or leader is serving else leader

    def free(self, serving: Serving) -> None:
        """This server's loop can drive from now on."""
        self._free.add(serving)
        if self._leader is None and serving.steady:
            self._leader = serving
        if self._helper is not None:
            self.end_helper()
        if self.notes or self._has_to_do():
            # What came before may have woken nobody but the helper.
            (self._leader or serving).wake()

    def busy(self, serving: Serving) -> None:
        """This server's loop runs something that may take long."""
        self._free.discard(serving)
        if self._leader is serving:
            # Whoever is chosen may be leaving, too: it looks after it has left, this one before.
            while self._leader is not None and self._leader not in self._free:
                self._leader = next((other for other in list(self._free) if other.steady), None)
            self._wake_free()
        if not self._free and self._has_to_do():
            self._start_helper()

    def _has_to_do(self) -> bool:
        """Whether something is pending; asked again only after a change."""
        changes = self.changes
        if self._calm is changes:
            return False
        if self._pending():
            return True
        self._calm = changes
        return False

    def _start_helper(self) -> None:
        if self.exiting or not self._helper_lock.acquire(blocking=False):
            return  # somebody is starting one right now
        try:
            if self._helper is None and os.getpid() == self.pid:
                self._helper_quits = False
                self._helper = _thread.allocate_lock()
                self._helper.acquire()
                self._helper_waiter = Waiter()
                # threading.Thread takes locks that the code interrupted by a signal may hold.
                _thread.start_new_thread(self._help, ())
        except (OSError, RuntimeError):
            # No descriptor or memory for it now; the next loop that is free does its work.
            waiter, self._helper_waiter, self._helper = self._helper_waiter, None, None
            if waiter is not None:
                waiter.close()
        finally:
            self._helper_lock.release()

    def end_helper(self) -> None:
        """Wait until no helper thread runs."""
        helper, waiter = self._helper, self._helper_waiter
        if helper is not None and waiter is not None:
            self._helper_quits = True
            waiter.wake()
            with helper:  # the helper holds it until it ends
                pass

    def _help(self) -> None:
        helper, waiter = self._helper, self._helper_waiter
        assert helper is not None
        assert waiter is not None
        try:
            while not self._helper_quits and self._pending():
                self.advance()
                if self._helper_quits or not self._pending():
                    break
                self._wait(waiter)
        finally:
            self._helper = self._helper_waiter = None
            waiter.close()
            if self._helper_quits:  # a signal in its last moment is for another thread
                block(signal.valid_signals())
            helper.release()
        if self._pending() and not self._free and not self._helper_quits:
            self._start_helper()

    def drive_until(self, done: Callable[[], bool]) -> None:
        """Drive in this thread, when no loop does any more and no helper is to, until done()."""
        waiter = Waiter()
        while not done():
            self._wait(waiter)
            self.advance()
        waiter.close()

    def _wait(self, waiter: Waiter) -> None:
        waiter.watch(self._watched())
        deadline = self._deadline()
        waiter.wait(None if deadline is None else deadline - time.monotonic())

    def in_forked_child(self) -> None:
        """Locks may be held and threads are gone."""
        self.notes.clear()
        self._free = set()
        self._leader = None
        self._reset()


class Stumbles:
    """Steps in a row that raised. The process goes on, and tries again a little later."""

    def __init__(self) -> None:
        self._count = 0
        self.again_at: Optional[float] = None  # the moment (time.monotonic) of the next try

    def clear(self) -> None:
        """A step went well."""
        self._count, self.again_at = 0, None

    def note(self) -> tuple[bool, bool]:
        """A step raised; return whether to say so (not for ever), and whether to give up now."""
        self._count += 1
        self.again_at = time.monotonic() + _STUMBLE_PAUSE
        return self._count <= _STUMBLES, self._count == _STUMBLES

    def last_try(self) -> bool:
        """Whether a step that raises now will be one too many."""
        return self._count + 1 >= _STUMBLES
