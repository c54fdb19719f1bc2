"""The end of this process: drained at last, then the program's own end, then the interpreter's."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

from endless_py._handoff.child import Children
from endless_py._reload import hooks
from endless_py._reload.hooks import Hooks
from endless_py._reload.life import Life
from endless_py._reload.machine import Phase
from endless_py._reload.manager import Manager
from endless_py._reload.migration import Migration
from endless_py._reload.predecessors import Predecessors
from endless_py._reload.reexec import Replacement
from endless_py._reload.servers import Servers
from endless_py._reload.signals import Signals
from endless_py._reload.stopping import Stopping
from endless_py._reload.succession import Succession
from endless_py._support import log
from endless_py._support.sigmask import block, unblock

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Callable, Optional

    Say = Callable[[int, str], None]

_NAME_AFTER = 5.0  # seconds a program has to end before what keeps it alive is named
_MAIN_STUCK_AFTER = 1.0


class Departure:
    """What is left to do, and to be waited for, before this process can go."""

    def __init__(
        self,
        life: Life,
        servers: Servers,
        children: Children,
        predecessors: Predecessors,
        succession: Succession,
        replacement: Replacement,
        stopping: Stopping,
        migration: Migration,
        signals: Signals,
        manager: Manager,
        hooks: Hooks,
    ) -> None:
        self._life = life
        self._servers = servers
        self._children = children
        self._predecessors = predecessors
        self._succession = succession
        self._replacement = replacement
        self._stopping = stopping
        self._migration = migration
        self._signals = signals
        self._manager = manager
        self._hooks = hooks
        self.ending = Ending(life.log)

    def check(self) -> None:
        """During a drain: finish when nothing is left to wait for."""
        if self._life.phase is Phase.STOPPING and self._children.leaving:
            return
        predecessors = self._predecessors.living
        if self._life.phase is Phase.STOPPING and predecessors and self._manager.notifier.enabled:
            return  # systemd ends what is left of a unit as soon as its main process has ended
        if any(predecessor.channel.partial for predecessor in predecessors):
            return  # it could not be handed on in the middle of a message
        if not self._servers.drained():
            return
        if len(self._migration) and self._servers.cut():
            count = self._migration.let_go()
            self._life.log(
                log.WARNING,
                f"drain time is over: {count} idle connections are left to "
                f"{self._succession.successor}, which has not said that it has them",
            )
        if not len(self._migration):
            self._finish()

    def _finish(self) -> None:
        kept = self._replacement.is_by(self._succession.successor)
        if kept:
            self._replacement.keep_spare()
        self._life.move(Phase.DRAINED)
        then = ", then this pid starts it anew" if kept and not self._stopping.ordered else ""
        self._life.log(log.INFO, f"drained; serve_forever() returns and the program ends{then}")
        self._hooks.step(hooks.DRAINED)
        successor = self._succession.living
        if successor is not None:
            self._predecessors.hand_on(successor, self._servers)
            if kept:
                self._replacement.due = True
                if not self._stopping.ordered:
                    successor.channel.send({"type": "replace"})
        stopped = self._stopping.by_signal
        if any(listening.cut for listening in self._servers.listenings()):
            stopped = self._stopping.last_signal
        self.ending.begin(stopped, {serving.loop_thread for serving in self._servers.all})
        self._servers.wake()

    def last_act(self) -> None:
        """The interpreter ends: wait for the bridge to hand back or, after a stop, to end."""
        if self._replacement.due or (self._stopping.ordered and self._children.orphans):
            self._life.driver.drive_until(self._last_act_done)

    def _last_act_done(self) -> bool:
        bridge_lives = self._succession.living is not None
        if self._stopping.ordered or not self._replacement.due:
            return not bridge_lives and not len(self._children)
        if bridge_lives and not self._replacement.handed_back:
            return False
        bridge = self._succession.successor
        block(self._signals.roles)
        self._life.driver.advance()
        if self._stopping.ordered:  # it came just before they were blocked
            unblock(self._signals.roles)
            return False
        self._replacement.start_anew(bridge)
        return True


class Ending:
    """Watches over the time from the end of the drain to the end of the program."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._name_at: Optional[float] = None
        self._main_at: Optional[float] = None
        self._main_was: tuple[str, ...] = ()
        self._number = signal.SIGTERM
        self.ends_main = False  # the next signal of ours raises SystemExit in the main thread

    def begin(self, stop_signal: Optional[int], loops: set[Optional[int]]) -> None:
        """Start watching; stop_signal is what ended the process, loops the threads of servers."""
        now = time.monotonic()
        self._name_at = now + _NAME_AFTER
        main = _main_frame()
        if stop_signal is not None and main and threading.main_thread().ident not in loops:
            self._number = signal.Signals(stop_signal)
            self._main_at, self._main_was = now + _MAIN_STUCK_AFTER, _where(main)

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which `check()` has something to do."""
        return min((t for t in (self._name_at, self._main_at) if t is not None), default=None)

    def check(self) -> None:
        """The program should end now; when it does not, say what keeps it alive."""
        now = time.monotonic()
        if self._main_at is not None and now >= self._main_at:
            self._main_at = None
            frame = _main_frame()
            if frame is not None and _where(frame) == self._main_was:
                # The main thread does not wait for the server's thread: without this
                # package the signal would have ended it on the spot.
                self.ends_main = self._number != signal.SIGINT
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
            self._say(
                log.WARNING,
                f"drained {_NAME_AFTER:g} s ago, but the program has not ended; alive: {names}",
            )


def _main_frame() -> Optional[FrameType]:
    return sys._current_frames().get(threading.main_thread().ident or 0)


def _where(frame: FrameType) -> tuple[str, ...]:
    places = []
    current: Optional[FrameType] = frame
    while current is not None:
        places.append(f"{current.f_code.co_filename}:{current.f_lineno}")
        current = current.f_back
    return tuple(reversed(places))
