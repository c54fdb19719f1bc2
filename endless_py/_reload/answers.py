"""What those who ask this process are answered: commands from outside, and its own program."""

from __future__ import annotations

import os
import time

from endless_py._control.socket import ControlSocket, Conversation
from endless_py._reload.base import BaseProcess, Order
from endless_py._reload.bridge import Bridge
from endless_py._reload.machine import Event
from endless_py._reload.report import Report
from endless_py._reload.settings import NO_LIMIT
from endless_py._reload.stop import Stop
from endless_py._reload.supervisor import Supervisor
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Protocol

    from endless_py._reload.report import Follower

    class Upgrading(Protocol):
        """An endless_py.upgrade.Updater, which nothing here imports."""

        def look_for(self, check_only: bool, tell: Callable[[dict[str, Any]], None]) -> None: ...

        def status(self) -> dict[str, Any]: ...


class Answers:
    """Answers them, and leaves the orders among what they ask."""

    def __init__(
        self,
        process: BaseProcess,
        stop: Stop,
        report: Report,
        bridge: Bridge,
        supervisor: Supervisor,
    ) -> None:
        self._process = process
        self._stop = stop
        self._report = report
        self._bridge = bridge
        self._supervisor = supervisor
        self.control = ControlSocket(self.answer, process.reserve.spares_a_reload)
        self.updater: Optional[Upgrading] = None  # of this program, if it has one

    def open(self, *_: object) -> None:
        """Let commands ask; without that the signals still work."""
        try:
            self.control.open()
        except OSError as error:
            self._process.log(
                log.WARNING,
                "cannot be asked by commands (reload, stop, status): %(reason)s; signals work",
                "no_commands",
                reason=str(error),
            )

    def answer(self, conversation: Conversation, request: dict[str, Any]) -> None:
        """Answer a command from outside."""
        command = request.get("command")
        if command == "status":
            answer = {"event": "status", **self.state()}
            if request.get("verbose"):
                answer["connections"] = self._process.listeners.clients()
            conversation.send(answer, last=True)
        elif command == "origin":
            conversation.send({"event": "origin", **self._process.started.origin()}, last=True)
        elif command == "owns":
            answer = self._supervisor.owns(request.get("file"))
            conversation.send({"event": "owns", **answer}, last=True)
        elif command == "watch":
            self._report.follow_end(conversation)
        elif command == "stop":
            conversation.send({"event": "stopping"})
            self._report.follow_end(conversation)
            self._process.leave(Order(Event.STOP, "the stop command"))
        elif command == "reload":
            self._reload_for(conversation)
        elif command == "claim":
            self._bridge.claim(conversation, request)
        elif command == "upgrade":
            self._upgrade_for(conversation, bool(request.get("check_only")))
        else:
            conversation.send(
                {"event": "error", "reason": f"this version does not know {command!r}"}, last=True
            )

    def follow_reload(self, follower: Follower) -> None:
        """Reload, and tell the follower how it goes; any thread may call this."""
        if self._process.machine.starting:  # nobody drives yet
            self._reload_for(follower)
        else:
            self._process.post(Order(None, call=lambda: self._reload_for(follower)))

    def _reload_for(self, follower: Follower) -> None:
        machine, successor = self._process.machine, self._process.living_successor
        if machine.at_peace:
            if self._report.follow(follower):
                self._process.leave(Order(Event.RELOAD, "a reload was asked for"))
        elif machine.prepares:
            self._report.follow(follower)
        elif machine.awaits or machine.aborts:
            self._report.wait(follower)
        elif successor is not None and not self._stop.ordered:
            self._report.moved([follower], successor)
        else:
            reason = f"this process is {machine.state.value}"
            follower.send({"event": "error", "reason": reason}, last=True)

    def _upgrade_for(self, follower: Follower, check_only: bool) -> None:
        if self.updater is None:
            reason = "this program has no Updater, so there is nothing to look at"
            follower.send({"event": "error", "reason": reason}, last=True)
            return

        def tell(outcome: dict[str, Any]) -> None:  # in the updater's thread
            body = {"event": "outcome", **outcome}
            self._process.post(Order(None, call=lambda: follower.send(body, last=True)))

        self.updater.look_for(check_only, tell)

    def _until(self) -> Optional[float]:
        """Return until when the phase lasts at most: a drain, or the wait for a successor."""
        process, successor = self._process, self._process.living_successor
        if process.machine.drains:
            return process.listeners.until()
        delayed = self._stop.deadline()
        if delayed is not None:
            return time.time() + delayed - time.monotonic()
        if process.machine.awaits and successor is not None and successor.started is not None:
            left = successor.started - time.monotonic() + process.listeners.ready_timeout()
            return time.time() + left if left < NO_LIMIT / 2 else None
        return None

    def state(self) -> dict[str, Any]:
        """Return what `endless_py.state()` does."""
        process, successor = self._process, self._process.living_successor
        return {
            "pid": os.getpid(),
            "generation": process.generation,
            "phase": process.machine.state.value,
            "since": process.machine.since,
            "until": self._until(),
            "bridge": process.bridge,
            "servers": [listener.report() for listener in process.listeners.all],
            "successor": {"pid": successor.pid, "generation": successor.generation}
            if successor is not None
            else None,
            "predecessors": [
                {"pid": p.pid, "generation": p.generation} for p in process.predecessors.living
            ],
            "workers": process.group.report() if process.group is not None else [],
            "last_reload": self._report.last,
            "counters": process.counters.totals(),
            "upgrade": self.updater.status() if self.updater is not None else None,
        }
