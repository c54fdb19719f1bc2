"""python -m endless_py reload."""

from __future__ import annotations

import sys

from endless_py._control.client import Deadline, Failed, Unanswered, connect, follow, is_alive
from endless_py._control.output import FAILED, OK, complain, say, wait_gone

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional


def reload(pid: int, deadline: Deadline, wait_drained: bool = False, wait: bool = True) -> int:
    """Reload a process, and return the exit status.

    It is done when the new code serves and, where the pid is kept and `wait` says so, when it
    serves under that pid; with wait_drained once the old generation has ended as well.
    """
    client = connect(pid, deadline)
    try:
        client.ask("reload")
        ready: Optional[dict[str, Any]] = None
        while True:
            answer = client.next()
            event = answer["event"] if answer is not None else "end"
            if event == "moved" and answer is not None:
                client.close()
                client = follow(int(answer["pid"]), deadline)
                client.ask("reload")
            elif event == "failed" and answer is not None:
                _say_failed(answer)
                return FAILED
            elif event == "ready" and answer is not None:
                ready = answer
                _say_ready(client.pid, ready)
                if not wait_drained and not (ready["bridge"] and wait):
                    return OK
            elif event == "end" and ready is None:
                raise Unanswered(
                    f"process {client.pid} ended before it could say how the reload went"
                )
            elif event == "end" and ready is not None:
                return _drained(client.pid, ready, deadline)
    finally:
        client.close()


def _say_failed(answer: dict[str, Any]) -> None:
    for line in answer["output"]:
        print(f"    {line}", file=sys.stderr)
    complain(str(answer["reason"]))


def _say_ready(pid: int, ready: dict[str, Any]) -> None:
    generation, seconds = ready["generation"], ready["seconds"]
    if ready["bridge"]:
        how = f"pid {pid} is kept, {ready['pid']} is the bridge until it has drained"
    else:
        how = f"pid {pid} drains, pid {ready['pid']} serves"
    say(f"reloaded: generation {generation} serves after {seconds:.3f} s; {how}")


def _drained(pid: int, ready: dict[str, Any], deadline: Deadline) -> int:
    if not ready["bridge"]:
        wait_gone([pid], deadline)
        say(f"drained: pid {pid} has ended")
        return OK
    # The same pid now runs the new code, or will in a moment.
    while True:
        try:
            with follow(pid, deadline) as client:
                client.ask("status")
                answer = client.next()
        except Failed:
            if is_alive(pid) or not is_alive(int(ready["pid"])):
                raise
            raise Failed(
                f"pid {pid} has ended instead of serving as generation {ready['generation']}; "
                f"pid {ready['pid']} goes on serving"
            ) from None
        if answer is not None and answer["generation"] >= ready["generation"]:
            say(f"drained: pid {pid} serves as generation {answer['generation']}")
            return OK
        deadline.pause()
