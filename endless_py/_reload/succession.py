"""The successor from its start on: it becomes ready and takes over, or fails and is reaped."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from endless_py._handoff.channel import Channel
from endless_py._handoff.child import Child, Children
from endless_py._handoff.handoff import Successor
from endless_py._reload.drain import Drain
from endless_py._reload.life import Life
from endless_py._reload.machine import Phase
from endless_py._reload.manager import Manager
from endless_py._reload.predecessors import Predecessors
from endless_py._reload.report import Reports
from endless_py._reload.servers import Servers
from endless_py._reload.serving import Serving
from endless_py._reload.signals import RELOAD
from endless_py._support import faults, log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

ADOPTION_GRACE = 3.0  # seconds from the first ready to "the new code no longer has this address"


class Succession:
    """The last successor that was started, and what it was handed."""

    def __init__(
        self,
        life: Life,
        servers: Servers,
        children: Children,
        predecessors: Predecessors,
        drain: Drain,
        manager: Manager,
        reports: Reports,
    ) -> None:
        self._life = life
        self._servers = servers
        self._children = children
        self._predecessors = predecessors
        self._drain = drain
        self._manager = manager
        self._reports = reports
        self.successor: Optional[Successor] = None
        self.again = False  # another reload is to follow the present one
        self._handed: list[Serving] = []  # in the order of the successor's numbers
        self._grace_ends: Optional[float] = None  # what it has not adopted is given up then

    @property
    def living(self) -> Optional[Successor]:
        """The successor, unless it has failed."""
        successor = self.successor
        return successor if successor is not None and successor.failure is None else None

    def begins(self, successor: Successor, handed: list[Serving]) -> None:
        """It has been started, or will be by the process that it is to become."""
        self.successor, self._handed = successor, handed
        self._grace_ends = None
        self._life.move(Phase.RELOADING)

    def pass_on(self, word: str, name: str) -> None:
        """Let the successor have an order that came to this process."""
        successor = self.living
        if successor is None:
            self._life.log(
                log.WARNING, f"{name} has no successor to be passed on to; it is dropped"
            )
            return
        self._life.log(log.INFO, f"{name} passed on to {successor}")
        successor.channel.send({"type": word})
        if word == RELOAD:
            successor.reload_passed = True

    # -- what it says -----------------------------------------------------

    def adopted(self, successor: Successor, index: int) -> None:
        """It has bound this listener."""
        faults.at("adopted heard")
        successor.adopted.add(index)

    def ready(self, successor: Successor, index: Optional[int]) -> None:
        """It serves this listener, or (None) an address of its own."""
        faults.at("ready heard")
        if successor.first_ready is None:
            successor.first_ready = time.monotonic()
        if index is not None:
            successor.adopted.add(index)
            successor.ready.add(index)
            for serving in self._handed[index : index + 1]:
                serving.owns_path = False
                serving.accepting = False
                serving.wake()

    def started_anew(self, pid: int) -> None:
        """The process that is to become it starts its program just now."""
        if self.successor is not None and self.successor.pid == pid:
            self.successor.started = time.monotonic()

    def replaced(self, successor: Successor, pid: int, generation: int) -> None:
        """It is about to end; at the other end of its channel its own successor is from now on."""
        if successor.child is not None:
            self._children.leave(successor.child)
        successor.pid, successor.generation = pid, generation
        if self._life.phase is Phase.RELOADING:
            self._take_leave(successor)  # it was ready, and has been replaced itself since

    # -- ready ------------------------------------------------------------

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which `check()` has something to do."""
        successor = self.living
        if self._life.phase is not Phase.RELOADING or successor is None:
            return None
        times = [self._grace_ends]
        if successor.started is not None:
            times.append(successor.started + self._servers.ready_timeout())
        return min((t for t in times if t is not None), default=None)

    def check(self) -> None:
        """During a reload: take leave once everything is served; fail it when it takes too long."""
        successor = self.living
        if successor is None:
            return
        now = time.monotonic()
        self._grace_ends = None
        complete = successor.first_ready is not None
        for index, serving in enumerate(self._handed):
            if index in successor.ready or not serving.entered:
                continue
            if index in successor.adopted:
                complete = False
            elif successor.first_ready is not None:
                grace_ends = successor.first_ready + ADOPTION_GRACE
                if now < grace_ends:
                    self._grace_ends, complete = grace_ends, False
        timeout = self._servers.ready_timeout()
        if complete:
            self._take_leave(successor)
        elif successor.started is not None and now >= successor.started + timeout:
            if successor.child is None:
                with suppress(OSError):  # its channel is open, so the pid is still its own
                    os.kill(successor.pid, signal.SIGKILL)
            successor.fail(f"it was not ready within {timeout:g} s")

    def _take_leave(self, successor: Successor) -> None:
        """It serves: this process drains."""
        successor.complete = True
        self._life.move(Phase.DRAINING)
        self._reports.ready(successor)
        successor.channel.send({"type": "reloaded", "report": self._reports.last})
        self._manager.hand_over(successor)
        self._predecessors.say("superseded")
        for index, serving in enumerate(self._handed):
            serving.migrates_to = index if index in successor.ready else None
            if index not in successor.adopted and serving.entered:
                self._life.log(log.INFO, f"the new code has no {serving}; it is closed")
                serving.closing = True
        self._drain.start(
            f"{successor} is ready after "
            f"{time.monotonic() - (successor.started or time.monotonic()):.3f} s"
        )
        if self.again:
            self.again = False
            self.pass_on(RELOAD, "the last order to reload")

    def receiver(self) -> Optional[Channel]:
        """Return the channel on which idle connections can migrate now."""
        successor = self.living
        if self._life.phase is Phase.DRAINING and successor is not None:
            return successor.channel
        return None

    # -- failed -----------------------------------------------------------

    def stop_too(self, name: str) -> None:
        """This process stops: one that was to take over does as well."""
        successor = self.living
        if self._life.phase is not Phase.RELOADING or successor is None:
            return
        if successor.child is None:
            successor.channel.send({"type": "stop"})
        else:
            with suppress(OSError):
                os.kill(successor.pid, signal.SIGTERM)
        longest = self._servers.longest_drain()
        successor.fail(f"{name} stops both", kill_after=longest + 1 if successor.ready else 1)
        if successor.child is not None:
            self._children.leave(successor.child)
        self._children.soon()

    def failed(self, successor: Successor, child: Child) -> None:
        """It will be killed and reaped; what it had taken over is served here again at once."""
        self._children.leave(child)
        self._children.soon()
        if self._life.phase is Phase.DRAINING and not successor.word_given:
            self._resume(successor)
        elif self._life.phase is Phase.RELOADING:
            self._servers.accept_again()
        self._servers.wake()

    def _resume(self, successor: Successor) -> None:
        self._life.log(
            log.ERROR,
            f"{successor} died without a word: {successor.failure}; this one accepts again",
        )
        self._life.move(Phase.SERVING)
        self._drain.undo()
        self._servers.accept_again()
        self.again = successor.reload_passed
        for listening in self._servers.listenings():
            listening.done = listening.cut = False
            if not listening.resume():
                self._life.log(
                    log.WARNING, f"{listening} has no on_resume; a new successor takes it"
                )
                self.again = True
        self._reports.died(
            successor.generation,
            f"generation {successor.generation} died; this one serves again",
        )

    def reap(self) -> None:
        """See which of the children have ended, and what that means."""
        for child in self._children.reap(self._predecessors.pids()):
            self._reaped(child)

    def _reaped(self, child: Child) -> None:
        successor = self.successor
        end = f"generation {child.generation} (pid {child.pid}) {child.status}"
        if (
            self._life.phase is Phase.RELOADING
            and successor is not None
            and successor.child is child
        ):
            self._reports.failed(
                f"reload failed: {end} before it was ready ({successor.failure}); "
                "this one goes on serving"
            )
            self._life.move(Phase.SERVING)
        else:
            self._life.log(log.INFO, end)
        if self._life.phase is Phase.SERVING and (self.again or self._reports.again()):
            self.again = False
            self._life.order(RELOAD, "a reload asked for meanwhile")

    # -- the end of this process ------------------------------------------

    def leave_open(self) -> None:
        """This process ends: the end of the channel is to tell of that, not of anything earlier."""
        successor = self.living
        if successor is not None:
            successor.channel.leave_open()
            self.successor = None

    def let_go(self) -> None:
        """A forked child is nobody's neighbour."""
        successor = self.living
        if successor is not None:
            successor.channel.close()
        self.successor = None
