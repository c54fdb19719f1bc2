"""A server's loop begins and ends, in whatever thread: what the process makes of that."""

from __future__ import annotations

from endless_py._reload.base import BaseProcess, Order
from endless_py._reload.dry_start import DryStart
from endless_py._reload.listener import Listener
from endless_py._reload.machine import Event
from endless_py._reload.readiness import Readiness
from endless_py._sockets.drain_signal import DrainSignal
from endless_py._support import log, platform

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Callable


class Loops:
    """Called by the servers' own threads, many at a time; what they decide is left as an order."""

    def __init__(
        self,
        process: BaseProcess,
        readiness: Readiness,
        dry_start: DryStart,
        install_signals: Callable[[], None],
    ) -> None:
        self._process = process
        self._readiness = readiness
        self._dry_start = dry_start
        self._install_signals = install_signals

    def enter(self, listener: Listener) -> None:
        """A server's loop begins: say ready, and let the loop drive this object."""
        process = self._process
        platform.require()
        self._dry_start.end_here()
        self._install_signals()
        if process.group is not None and not listener.beside:
            process.group.begin()
        if listener.drain_signal is None:
            listener.drain_signal = process.make(DrainSignal)
        first = not listener.entered
        says = self._readiness.said_by_loop(listener)
        if first and not says:
            listener.hold()
        # From here on ready() in another thread may speak for it.
        self._begin(process.listeners.enter(listener))
        if not process.machine.accepting:
            listener.move("drain")
        # One that is beside the others may have seen the last of them before that one saw it.
        if first and (says or (listener.beside and self._readiness.said_by_loop(listener))):
            self._readiness.say([listener])
        process.driver.free(listener)
        if process.group is not None:
            process.group.entered()

    def ready(self) -> None:
        """Say ready for every server whose loop does not say it."""
        process = self._process
        platform.require()
        if process.group is not None:
            process.group.begin()
            process.group.entered()
        if process.worker:  # its leader says it for all
            return
        self._install_signals()
        self._begin()
        self._readiness.call()
        process.do(Order(Event.SERVES))
        process.driver.wake()

    def left(self, listener: Listener, finished: bool) -> None:
        """A server's loop ends; finished says that it will not be entered again at once."""
        process = self._process
        if finished:
            listener.entered = listener.ready = False
        process.driver.busy(listener)
        machine = process.machine  # it may still be starting, where SERVES is just on its way
        if (machine.at_peace or machine.starting) and not process.listeners.any_ready():
            process.do(Order(None, call=self.look_if_left))

    def look_if_left(self, closed: bool = False) -> None:
        """By whoever drives; a loop that begins after this look says SERVES after it.

        closed says that no server is left, so that nothing else is waited for.
        """
        process = self._process
        if not process.listeners.any_entered() and (closed or not process.pending()):
            process.fire(Event.LEFT)

    def _begin(self, alone: bool = True) -> None:
        """A server begins: from now on this process can be reloaded.

        alone says that it is the only one: who begins beside another has nothing to say.
        """
        process = self._process
        parent = process.predecessors.living_parent()
        if parent and parent.ancestor and not process.listeners.any_ready():
            process.driver.advance()  # hear of its end
            if process.predecessors.living_parent() is None:
                process.log(
                    log.ERROR,
                    "%(predecessor)s ended before this one was ready, and the one "
                    "before it serves again; this process ends",
                    "not_needed",
                    predecessor=parent,
                )
                raise SystemExit(1)
        # Said though it may serve: what says that the last loop has ended may be under way.
        if alone or process.machine.starting:
            process.do(Order(Event.SERVES))
