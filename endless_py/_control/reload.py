"""python -m endless_py reload."""

from __future__ import annotations

from contextlib import suppress

from endless_py._control.client import (
    Client,
    Deadline,
    Failed,
    Unanswered,
    chain,
    connect,
    follow,
    is_alive,
)
from endless_py._control.output import FAILED, OK, Says, show, wait_gone

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional


def reload(
    pid: int, deadline: Deadline, says: Says, wait_drained: bool = False, wait: bool = True
) -> int:
    """Reload a process, and return the exit status; says is told how it goes.

    It is done when the new code serves and, where the pid is kept and `wait` says so, when it
    serves under that pid; with wait_drained once every older generation has ended as well.
    """
    client = connect(pid, deadline)
    older = _watch_older(pid, deadline) if wait_drained else []
    try:
        client.ask("reload")
        ready: Optional[dict[str, Any]] = None
        home = 0  # the pid that is kept, where a bridge stands in for it meanwhile
        while True:
            answer = client.next()
            event = answer["event"] if answer is not None else "end"
            if event == "moved" and answer is not None:
                told_by = client.speaker
                home = home or (client.pid if answer.get("kept") else 0)
                client.close()
                client = follow(answer["pid"], deadline, told_by)
                if wait_drained:
                    older += _watch_older(client.pid, deadline)
                client.ask("reload")
            elif event == "failed" and answer is not None:
                _say_failed(answer, says)
                return FAILED
            elif event == "ready" and answer is not None:
                ready = answer
                home = home or client.pid
                _say_ready(home if ready["bridge"] else client.pid, ready, says)
                if not wait_drained and not (ready["bridge"] and wait):
                    return OK
            elif event == "end" and ready is None:
                raise Unanswered(
                    f"process {client.pid} ended before it could say how the reload went"
                )
            elif event == "end" and ready is not None:
                who = home if ready["bridge"] else client.pid
                gone = _drained(who, ready, older, deadline, wait_drained)
                says.say(f"drained: {gone[0]}", drained=gone[1])
                return OK
    finally:
        for watching in [client, *older]:
            watching.close()


def _watch_older(pid: int, deadline: Deadline) -> list[Client]:
    """Return conversations with the generations before that of this process.

    Begun before the reload: afterwards nobody may be left who knows of them.
    """
    found: list[Client] = []
    with suppress(Failed):  # it ends just now
        states = {state["pid"]: state for state in chain(pid, deadline)}
        for state in states.values():
            if state["generation"] < states[pid]["generation"]:
                with suppress(Failed):
                    watching = connect(state["pid"], deadline)
                    found.append(watching)
                    watching.ask("watch")
    return found


def _say_failed(answer: dict[str, Any], says: Says) -> None:
    says.clear()
    show(answer["output"])
    says.fail(str(answer["reason"]), generation=answer["generation"], output=list(answer["output"]))


def _say_ready(pid: int, ready: dict[str, Any], says: Says) -> None:
    generation, seconds = ready["generation"], ready["seconds"]
    if ready["bridge"]:
        how = f"pid {pid} is kept, {ready['pid']} is the bridge until it has drained"
    else:
        how = f"pid {pid} drains, pid {ready['pid']} serves"
    says.say(
        f"reloaded: generation {generation} serves after {seconds:.3f} s; {how}",
        generation=generation,
        pid=ready["pid"],
        bridge=ready["bridge"],
        seconds=seconds,
    )


def _drained(
    pid: int, ready: dict[str, Any], older: list[Client], deadline: Deadline, wait_drained: bool
) -> tuple[str, list[int]]:
    """Wait for that; return what to say of it, and who has ended."""
    for watching in older:
        watching.wait_end()
    gone = list({watching.pid for watching in older})
    if not ready["bridge"]:
        gone = sorted([*gone, pid])
        wait_gone(gone, deadline)
        return f"pid {', '.join(map(str, gone))} has ended", gone
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
            if wait_drained:
                wait_gone([int(ready["pid"])], deadline)  # the bridge
            return f"pid {pid} serves as generation {answer['generation']}", gone
        deadline.pause()
