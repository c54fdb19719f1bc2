"""Step 7 with a kept pid, from the bridge's side: hand everything back, or serve on.

The watched process is to become the new code only while that code is known to start. Until the
old program has drained, another version may have been put on the disk; so a bridge that is not
fresh has the program rehearsed first. If the start in place fails all the same, the kept pid is
lost: the bridge serves on under its own pid, and hands everything to the program's next start, by
a supervisor or by hand, which finds the address in use and asks for it (`claim`).
"""

from __future__ import annotations

import os
import time

from endless_py._handoff.successor import Successor
from endless_py._handoff.words import is_pid
from endless_py._reload.base import BaseProcess, Order
from endless_py._reload.machine import Event
from endless_py._reload.rehearsal import Rehearsal
from endless_py._reload.report import Report
from endless_py._reload.spawn import Spawn
from endless_py._reload.supervisor import Supervisor
from endless_py._sockets.listener import Binding
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._control.socket import Conversation

_FRESH = 1.5  # seconds in which a bridge that serves is itself the proof that the code starts
_AGAIN = 0.1  # seconds until it is tried again, when something was missing for handing back
_FIRST_AGAIN, _LAST_AGAIN = 5.0, 60.0  # seconds from one rehearsal that failed to the next


class Bridge:
    """Hands back as soon as that is safe."""

    def __init__(
        self, process: BaseProcess, spawn: Spawn, supervisor: Supervisor, report: Report
    ) -> None:
        self._process = process
        self._spawn = spawn
        self._supervisor = supervisor
        self._report = report
        self._served_at = 0.0  # time.monotonic()
        self._rehearsal: Optional[Rehearsal] = None
        self._again_at: Optional[float] = None  # handing back was put off until then
        self._interval = _FIRST_AGAIN
        self._claim: Optional[tuple[Conversation, int]] = None  # the newest, and its pid

    def look(self) -> None:
        """See whether the kept pid waits for everything to be handed back."""
        process = self._process
        waits = process.machine.at_peace and process.predecessors.waiting() is not None
        rehearsal = self._rehearsal
        if rehearsal is not None:
            problem = rehearsal.problem()
            if problem is None and waits:
                return
            rehearsal.close()
            self._rehearsal = None
            process.children.leave(rehearsal.child)
            if problem and waits:
                self._put_off(problem)
            elif waits:
                process.fire(Event.TAKE_BACK)
        elif waits and (self._again_at is None or time.monotonic() >= self._again_at):
            if self._is_fresh():
                process.fire(Event.TAKE_BACK)
            else:
                self._rehearse()

    def _is_fresh(self) -> bool:
        """Whether the code on the disk is what this process runs, as good as certainly."""
        last = self._report.last
        failed_since = last is not None and not last["ok"]
        return not failed_since and time.monotonic() < self._served_at + _FRESH

    def _rehearse(self) -> None:
        process = self._process
        timeout = process.listeners.ready_timeout()
        try:
            with self._spawn.fork_lock:
                environment = self._spawn.environment(bridge=True)
                start = self._spawn.command, environment, process.started
                self._rehearsal = Rehearsal(*start, timeout)
        except OSError as error:
            self._put_off(f"it cannot be started: {error}")
            return
        process.log(
            log.DEBUG,
            "before it is started in place, pid %(rehearsal)d shows that the program still starts",
            "rehearses",
            rehearsal=self._rehearsal.child.pid,
        )

    def _put_off(self, problem: str) -> None:
        process = self._process
        waiting = process.predecessors.waiting()
        assert waiting is not None
        why = (
            f"the start in place is put off, the program does not start any more: {problem}; "
            f"pid {os.getpid()} goes on serving, pid {waiting.pid} waits"
        )
        self._report.failed(f"{why}; tried again in {self._interval:g} s")
        self._again_at = time.monotonic() + self._interval
        self._interval = min(2 * self._interval, _LAST_AGAIN)
        waiting.say("put_off", reason=why)

    def hurry(self) -> None:
        """An order to reload came: what is on the disk now is to be started in place at once."""
        self._again_at, self._interval = None, _FIRST_AGAIN
        self._served_at = 0.0

    def watched(self) -> dict[int, int]:
        """Return the descriptor that leads to `look()`."""
        return {} if self._rehearsal is None else self._rehearsal.watched()

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which `look()` has something to do."""
        if self._rehearsal is not None:
            return self._rehearsal.deadline()
        if self._again_at is None or not self._process.machine.at_peace:
            return None
        # The one that it was put off for may have ended: nobody acts at that moment then, and a
        # moment that is over would have the loop run without a pause.
        return self._again_at if self._process.predecessors.waiting() is not None else None

    def heard_reloaded(self, report: Optional[dict[str, Any]]) -> None:
        """How the reload went that started this process: what failed since is held against it."""
        self._report.last = report

    # -- the kept pid is lost ---------------------------------------------

    def claim(self, conversation: Conversation, request: dict[str, Any]) -> None:
        """The program was started again, and has found one of our addresses in use."""
        process = self._process
        pid: Any = conversation.peer[0] if conversation.peer is not None else request.get("pid")
        if not is_pid(pid) or not process.orphaned:
            refusal = "this process has not lost a pid that was to be kept"
        elif not self._serves_what_is_asked(request):
            refusal = "this process does not serve that address"
        elif process.machine.at_peace:
            self._claim = conversation, pid
            process.leave(Order(Event.TAKE_BACK, f"pid {pid} has started the program again"))
            return
        else:
            conversation.send({"event": "busy"}, last=True)
            return
        conversation.send({"event": "error", "reason": refusal}, last=True)

    def _serves_what_is_asked(self, request: dict[str, Any]) -> bool:
        try:
            asked = Binding.from_json(request["listener"], 0)
        except (KeyError, TypeError, ValueError):
            return False
        what = asked.family, asked.kind, asked.requested
        bound = [binding for _, binding, _ in self._process.listeners.bound()]
        return any(b.matches(*what, exact) for b in bound for exact in (True, False))

    # -- actions ----------------------------------------------------------

    def serves(self, *_: object) -> None:
        """The first server serves: that is the proof that the code starts."""
        self._served_at = time.monotonic()

    def hand_back(self, *_: object) -> None:
        """Hand everything to the process that waits to be replaced, or that has claimed it."""
        process, claim, self._claim = self._process, self._claim, None
        predecessor = process.predecessors.waiting()
        if predecessor is not None:
            pid, carrier, word = predecessor.pid, predecessor.channel, {"type": "hand_back"}
        elif claim is not None:
            pid, carrier, word = claim[1], claim[0].channel, {"event": "claimed"}
        else:
            process.fire(Event.CANCELLED)
            return
        told = self._spawn.greeting(
            process.generation, False, False, len(process.predecessors.living) > 1
        )
        handed = [listener for listener, _, _ in process.listeners.bound()]
        try:
            with process.files_lock:
                successor = Successor(told, self._spawn.sockets(), process.files)
            process.log(
                log.DEBUG,
                "hands back to %(successor)s, which starts the program anew; "
                "this one serves until it is ready",
                "hands_back",
                successor=f"pid {pid}",
            )
            successor.become(pid, carrier, word)
            if predecessor is None:  # its program runs already
                successor.started = time.monotonic()
        except Exception as error:
            if self._again_at is None:
                template = "cannot hand back: %(reason)s; it is tried again"
                process.log(log.ERROR, template, "cannot_hand_back", reason=str(error))
            self._again_at = time.monotonic() + _AGAIN
            process.fire(Event.CANCELLED)
            return
        self._again_at = None
        if predecessor is not None:
            predecessor.waits = False
        process.successor, process.handed = successor, handed

    def failed(self, why: str) -> None:
        """Handing back has failed: the kept pid is lost, unless it had no room to be given it."""
        successor = self._process.successor
        for predecessor in self._process.predecessors.living:
            if successor is not None and predecessor.pid == successor.pid:
                predecessor.waits = True
                self._again_at = time.monotonic() + _AGAIN
                return
        self.serve_on(why)

    def serve_on(self, why: str) -> None:
        """The process whose pid was to be kept is gone, or does not become the new code."""
        process, successor = self._process, self._process.living_successor
        if not process.bridge or process.machine.stops or process.machine.over:
            return
        process.bridge, process.orphaned = False, True
        if successor is not None and successor.child is not None:
            successor.say("orphaned", reason=why)
        if process.machine.accepting:
            self._report.failed(
                f"{why}; this one goes on serving under its own pid, {os.getpid()}, and hands "
                "over to the program when it is started again"
            )
            self._supervisor.speak_for_itself()

    def resume(self, why: str) -> None:
        """This process accepts again after its successor's end."""
        process, successor = self._process, self._process.successor
        if successor is not None and successor.child is None:
            self.serve_on(why)
        elif process.orphaned:
            self._supervisor.speak_for_itself()
