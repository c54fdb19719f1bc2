"""What became of a reload: told to the supervisor and to those who asked for it, and remembered."""

from __future__ import annotations

import os
import time

from endless_py._handoff.error_output import Capture, ErrorOutput
from endless_py._reload.base import BaseProcess
from endless_py._reload.supervisor import Supervisor
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional, Protocol

    from endless_py._handoff.successor import Successor

    class Follower(Protocol):
        """Who is told: a Conversation, or something in this process."""

        def send(self, body: dict[str, Any], last: bool = False) -> None: ...


_FAILED = "reload failed: "


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


class Report:
    """The incumbent's reports. Called by whoever drives."""

    def __init__(self, process: BaseProcess, supervisor: Supervisor) -> None:
        self._process = process
        self._supervisor = supervisor
        self.in_forked_child()

    def in_forked_child(self) -> None:
        """Nothing is known, and nobody waits: so it begins, too."""
        self.last: Optional[dict[str, Any]] = None  # as `state()` shows it
        self._following: list[Follower] = []
        self._waiting: list[Follower] = []  # they asked during a reload, for one after it
        self._ending: list[Follower] = []  # they wait for the end of this process
        self._cut = 0  # requests
        self._capture: Optional[Capture] = None
        self._rest: list[ErrorOutput] = []  # of earlier successors, not written yet
        self._began = 0.0

    # -- who is told ------------------------------------------------------

    def follow(self, follower: Follower) -> bool:
        """Tell this one about the reload that is to begin; whether it is the first to ask."""
        self._following.append(follower)
        return len(self._following) == 1

    def wait(self, follower: Follower) -> None:
        """Tell this one about the first reload after the present one."""
        self._waiting.append(follower)

    def follow_end(self, follower: Follower) -> None:
        """Tell this one what is cut until the process ends."""
        self._ending.append(follower)
        self._say_cut([follower], self._cut)

    def cut(self, requests: int) -> None:
        """The drain's time is over, and so many requests were ended before their answer."""
        self._cut += requests
        self._say_cut(self._ending, requests)

    @staticmethod
    def _say_cut(followers: list[Follower], requests: int) -> None:
        for follower in followers if requests else ():
            follower.send({"event": "cut", "requests": requests})

    def again(self) -> bool:
        """Whether somebody waits for one more reload, which is to begin now."""
        self._following, self._waiting = self._following + self._waiting, []
        return bool(self._following)

    def moved(self, followers: list[Follower], successor: Successor) -> None:
        """Send these to the successor; kept says that it stands in for this pid."""
        kept = self._process.is_kept_by(successor)
        for follower in followers:
            follower.send({"event": "moved", "pid": successor.pid, "kept": kept}, last=True)

    # -- the new code's error output --------------------------------------

    def capture(self) -> Optional[Capture]:
        """Return where the successor's error output is to go; None: to ours.

        On a terminal it stays there: programs ask whether it is one, and an operator sees it.
        """
        if self._following or not _is_terminal(2):
            try:
                self._capture = Capture()
            except OSError:
                self._capture = None
        return self._capture

    def watched(self) -> dict[int, int]:
        """Return the descriptors that lead to `step()`."""
        outputs = [] if self._capture is None else [self._capture.output]
        return {k: v for output in [*outputs, *self._rest] for k, v in output.watched().items()}

    def step(self) -> None:
        """Pass on what a successor has written."""
        if self._capture is not None:
            self._capture.output.pass_on()
        for output in self._rest:
            output.pass_on()
        self._rest = [output for output in self._rest if output.watched()]

    def _release(self) -> None:
        if self._capture is not None:
            self._capture.close()
            self._rest.append(self._capture.output)
            self._capture = None

    # -- how it goes ------------------------------------------------------

    def begins(self, *_: object) -> None:
        """A reload begins."""
        self._supervisor.reloading()
        self._began = time.monotonic()

    def given(self) -> None:
        """The successor's process has its ends of what captures its error output."""
        if self._capture is not None:
            self._capture.given()

    def started(self, successor: Successor) -> None:
        self._tell("started", successor)

    def ready(self, *_: object) -> None:
        """The successor serves; from its first ready on it has its own error output again."""
        successor = self._process.successor
        assert successor is not None
        # What is handed back to a kept pid was not begun by an order here.
        begun = self._began > 0
        began = self._began or successor.started or time.monotonic()
        seconds, self._began = round(time.monotonic() - began, 3), 0.0
        self._release()
        self.last = {"at": time.time(), "ok": True, "generation": successor.generation}
        self.last["seconds"] = seconds
        if begun:
            self._process.counters.add("reloads_done")
        self._tell("ready", successor, seconds=seconds)
        self.moved(self._waiting, successor)
        self._waiting = []
        successor.say("reloaded", report=self.last)
        self._process.counters.hand_on(successor)

    def failed(self, text: str) -> None:
        """Nothing came of a reload."""
        self._failed(text, "not_in_place")

    def put_off(self, text: str) -> None:
        """The bridge, which has logged it, serves, but this pid does not become the new code."""
        self._supervisor.reload_failed(text)
        self._remember(self._process.generation + 1, text, again=False)

    def cancelled(self, text: str) -> None:
        """Nothing came of it, for no fault of the new code."""
        self._failed(text, "reload_cancelled", again=True)

    def _failed(self, text: str, event: str, again: bool = False) -> None:
        text = self._with_its_error(text)
        self._process.counters.add("reloads_failed")
        if text.startswith(_FAILED):
            template = "reload failed: %(reason)s"
            self._process.log(log.ERROR, template, "reload_failed", reason=text[len(_FAILED) :])
        else:
            self._process.log(log.ERROR, "%(reason)s", event, reason=text)
        self._supervisor.reload_failed(text)
        self._remember(self._process.generation + 1, text, again)

    def died(self, *_: object) -> None:
        """A successor that served does not any more; this process serves again."""
        successor = self._process.successor
        assert successor is not None
        self._process.counters.add("reloads_failed")
        why = f"generation {successor.generation} died; this one serves again"
        self._remember(successor.generation, why, again=False)
        self._supervisor.resumed(why)

    def stopped(self, *_: object) -> None:
        """This process stops, and nothing comes of a reload any more."""
        self._supervisor.stopping()
        self._release()
        self._following += self._waiting
        self._waiting = []
        why = "the server was told to stop"
        self._end(self._process.generation + 1, why, [], again=True)

    def _with_its_error(self, text: str) -> str:
        """Return a reason with the last line of the new code's traceback, if there is one.

        All that it has written is passed on before, and so stands above that line in the log.
        """
        if self._capture is None:
            return text
        self._capture.output.take_in()
        error = self._capture.output.error()
        return f"{text}: {error}" if error else text

    def _remember(self, generation: int, text: str, again: bool) -> None:
        lines: list[str] = []
        if self._capture is not None:
            self._capture.output.take_in()
            lines = self._capture.output.lines()
        self._release()
        self._began = 0.0
        self.last = {"at": time.time(), "ok": False, "generation": generation, "reason": text}
        self._end(generation, text, lines, again)

    def _end(self, generation: int, text: str, lines: list[str], again: bool) -> None:
        body = {"event": "failed", "generation": generation, "reason": text, "output": lines}
        for follower in self._following:
            follower.send({**body, "again": again}, last=True)
        self._following = []

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
