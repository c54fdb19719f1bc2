"""What those who ask this process are answered: commands from outside, and its own program."""

from __future__ import annotations

import os

from endless_py._control.socket import ControlSocket, Conversation
from endless_py._reload.life import Life
from endless_py._reload.machine import Phase
from endless_py._reload.predecessors import Predecessors
from endless_py._reload.report import Reports
from endless_py._reload.servers import Servers
from endless_py._reload.signals import RELOAD, STOP
from endless_py._reload.stopping import Stopping
from endless_py._reload.succession import Succession
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._reload.report import Follower, Upgrading


class Askers:
    """Answers them, and leaves the orders among what they ask as notes."""

    def __init__(
        self,
        life: Life,
        servers: Servers,
        predecessors: Predecessors,
        succession: Succession,
        stopping: Stopping,
        reports: Reports,
    ) -> None:
        self._life = life
        self._servers = servers
        self._predecessors = predecessors
        self._succession = succession
        self._stopping = stopping
        self._reports = reports
        self.remote = ControlSocket(self.answer)
        self.updater: Optional[Upgrading] = None  # of this program, if it has one

    def listen(self) -> None:
        """Let commands ask; without that the signals still work."""
        try:
            self.remote.open()
        except OSError as error:
            self._life.log(
                log.WARNING,
                f"cannot be asked by commands (reload, stop, status): {error}; signals work",
            )

    def answer(self, conversation: Conversation, request: dict[str, Any]) -> None:
        """Answer a command from outside."""
        command = request.get("command")
        if command == "status":
            conversation.send({"event": "status", **self.state()}, last=True)
        elif command == "watch":
            pass  # the end of the conversation is the end of this process
        elif command == "stop":
            conversation.send({"event": "stopping"})
            self._life.order(STOP, "the stop command")
        elif command == "reload":
            self._reload_for(conversation)
        elif command == "upgrade":
            self._upgrade_for(conversation, bool(request.get("check_only")))
        else:
            conversation.send(
                {"event": "error", "reason": f"this version does not know {command!r}"}, last=True
            )

    def follow_reload(self, follower: Follower) -> None:
        """Reload, and tell the follower how it goes; any thread may call this."""
        driver = self._life.driver
        with driver.lock:
            self._reload_for(follower)
        driver.wake()

    def _reload_for(self, follower: Follower) -> None:
        phase, successor = self._life.phase, self._succession.living
        if phase is Phase.SERVING:
            if self._reports.follow(follower):
                self._life.order(RELOAD, "a reload was asked for")
        elif phase is Phase.RELOADING:
            self._reports.wait(follower)
        elif successor is not None and not self._stopping.ordered:
            follower.send({"event": "moved", "pid": successor.pid}, last=True)
        else:
            reason = f"this process is {phase.value}"
            follower.send({"event": "error", "reason": reason}, last=True)

    def _upgrade_for(self, follower: Follower, check_only: bool) -> None:
        if self.updater is None:
            reason = "this program has no Updater, so there is nothing to look at"
            follower.send({"event": "error", "reason": reason}, last=True)
            return
        driver = self._life.driver

        def tell(outcome: dict[str, Any]) -> None:
            with driver.lock:
                follower.send({"event": "outcome", **outcome}, last=True)
            driver.wake()

        self.updater.look_for(check_only, tell)

    def state(self) -> dict[str, Any]:
        """Return what `endless_py.state()` does."""
        life, successor = self._life, self._succession.living
        return {
            "pid": os.getpid(),
            "generation": life.number,
            "phase": life.phase.value,
            "since": life.since,
            "bridge": life.bridge,
            "servers": [serving.state() for serving in self._servers.all],
            "successor": {"pid": successor.pid, "generation": successor.generation}
            if successor is not None
            else None,
            "predecessors": [
                {"pid": p.pid, "generation": p.generation} for p in self._predecessors.living
            ],
            "last_reload": self._reports.last,
            "upgrade": self.updater.status() if self.updater is not None else None,
        }
