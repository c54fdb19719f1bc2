"""A reload of this process, waited for."""

from __future__ import annotations

import queue
from typing import Any, NamedTuple

from endless_py._reload import process


class Reloaded(NamedTuple):
    """How a reload ended: whether the new generation serves, and else why not.

    again says that it did not fail for a fault of the new version, which may be tried again.
    """

    ok: bool
    reason: str = ""
    again: bool = False


class _Follower:
    """Is told about the reload as those are who ask for it from outside."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def send(self, body: dict[str, Any], last: bool = False) -> None:
        self.answers.put(body)


def reload_and_wait() -> Reloaded:
    """Reload this process; return when the new generation serves or has failed.

    Call it in any thread but one that runs serve_forever(). A reload that is under way is
    followed by another one, as it may have started its successor too early. The ready timeout
    of the servers bounds the wait.
    """
    follower = _Follower()
    process.current.answers.follow_reload(follower)
    while True:
        answer = follower.answers.get()
        event = answer["event"]
        if event == "ready":
            return Reloaded(True)
        if event == "failed":
            lines = [line for line in answer["output"] if line.strip()]
            said = f"; its last words: {lines[-1].strip()}" if lines else ""
            return Reloaded(False, f"{answer['reason']}{said}", bool(answer["again"]))
        if event in ("error", "moved"):
            reason = answer.get("reason", "another generation serves by now")
            return Reloaded(False, f"not reloaded: {reason}", again=True)


def is_in_charge() -> bool:
    """Whether this process serves, or will.

    A draining one has a successor that does, and a bridge is about to be replaced.
    """
    current = process.current
    return current.machine.accepting and not current.bridge


def is_starting() -> bool:
    """Whether no server of this process is ready yet."""
    return process.current.machine.starting
