"""What became of a reload: told to the manager and to those who asked for it, and remembered."""

from __future__ import annotations

import time

from endless_py._handoff.error_output import Capture
from endless_py._handoff.handoff import Successor
from endless_py._reload.life import Life
from endless_py._reload.manager import Manager
from endless_py._sockets.poller import READ
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Protocol

    class Follower(Protocol):
        """Who is told: a Conversation, or something in this process."""

        def send(self, body: dict[str, Any], last: bool = False) -> None: ...

    class Upgrading(Protocol):
        """An endless_py.upgrade.Updater, which nothing here imports."""

        def look_for(self, check_only: bool, tell: Callable[[dict[str, Any]], None]) -> None: ...

        def status(self) -> dict[str, Any]: ...


class Reports:
    """The incumbent's reports. One thread at a time calls anything here."""

    def __init__(self, life: Life, manager: Manager) -> None:
        self._life = life
        self._manager = manager
        self.let_go()

    def let_go(self) -> None:
        """Nothing is known, and nobody waits: so it begins, and in a forked child."""
        self.last: Optional[dict[str, Any]] = None  # as `state()` shows it
        self._following: list[Follower] = []
        self._waiting: list[Follower] = []  # they asked during a reload, for one after it
        self._capture: Optional[Capture] = None
        self._began = 0.0

    def follow(self, follower: Follower) -> bool:
        """Tell this one about the reload that is to begin; whether it is the first to ask."""
        self._following.append(follower)
        return len(self._following) == 1

    def wait(self, follower: Follower) -> None:
        """Tell this one about the first reload after the present one."""
        self._waiting.append(follower)

    def begins(self) -> None:
        """A reload begins."""
        self._manager.reloading()
        self._began = time.monotonic()

    def capture(self) -> Optional[Capture]:
        """Return where the successor's error output is to go; None: nobody waits for it."""
        if self._following:
            try:
                self._capture = Capture()
            except OSError:
                self._capture = None
        return self._capture

    def watched(self) -> dict[int, int]:
        """Return the descriptors that lead to `step()`."""
        reader = self._capture.output.fileno() if self._capture is not None else -1
        return {reader: READ} if reader >= 0 else {}

    def step(self) -> None:
        """Pass on what a successor has written."""
        if self._capture is not None:
            self._capture.output.pass_on()

    def started(self, successor: Successor) -> None:
        if self._capture is not None:
            self._capture.given()
        self._tell("started", successor)

    def ready(self, successor: Successor) -> None:
        """It serves; from its first ready on it has its own error output again."""
        seconds = round(time.monotonic() - self._began, 3)
        self._release()
        self.last = {"at": time.time(), "ok": True, "generation": successor.generation}
        self.last["seconds"] = seconds
        self._tell("ready", successor, seconds=seconds)
        self._waiting = self._moved(self._waiting, successor.pid)

    def elsewhere(self, pid: int) -> None:
        """Another process has to do what was asked for."""
        self._following = self._moved(self._following, pid)

    def failed(self, text: str, again: bool = False) -> None:
        """Nothing came of a reload; again: not for a fault of the new code."""
        self._life.log(log.ERROR, text)
        self._manager.reload_failed(text)
        self._failed(self._life.number + 1, text, again)

    def died(self, generation: int, why: str) -> None:
        """A successor that served does not any more; this process serves again."""
        self._failed(generation, why)
        self._manager.resumed(why)

    def _failed(self, generation: int, text: str, again: bool = False) -> None:
        lines: list[str] = []
        if self._capture is not None:
            self._capture.output.pass_on()
            lines = self._capture.output.lines()
        self._release()
        self.last = {"at": time.time(), "ok": False, "generation": generation, "reason": text}
        self._end(generation, text, lines, again)

    def stopped(self) -> None:
        """This process stops, and nothing comes of a reload any more."""
        self._manager.stopping()
        self._release()
        self._following += self._waiting
        self._waiting = []
        self._end(self._life.number + 1, "the server was told to stop", [], again=True)

    def _end(self, generation: int, text: str, lines: list[str], again: bool) -> None:
        body = {"event": "failed", "generation": generation, "reason": text, "output": lines}
        for follower in self._following:
            follower.send({**body, "again": again}, last=True)
        self._following = []

    def again(self) -> bool:
        """Whether somebody waits for one more reload, which is to begin now."""
        self._following, self._waiting = self._following + self._waiting, []
        return bool(self._following)

    @staticmethod
    def _moved(followers: list[Follower], pid: int) -> list[Follower]:
        for follower in followers:
            follower.send({"event": "moved", "pid": pid}, last=True)
        return []

    def _tell(self, event: str, successor: Successor, **more: Any) -> None:
        body = {
            "event": event,
            "generation": successor.generation,
            "pid": successor.pid,
            "bridge": successor.bridge,
            **more,
        }
        for follower in self._following:
            follower.send(body)

    def _release(self) -> None:
        if self._capture is not None:
            self._capture.close()
            self._capture = None
