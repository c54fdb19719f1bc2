"""What a command may be answered: the fields of each answer, checked before they are used.

Whoever has the pid may be another version, or another user's process that root asks.
"""

from __future__ import annotations

from endless_py._handoff.words import (
    are_counts,
    is_count,
    is_flag,
    is_number,
    is_pid,
    is_report,
    is_text,
    is_time,
)

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable

    Check = Callable[[object], bool]

_MOST = 1000  # generations and servers, and lines of output


def _maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list(check: Check) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= _MOST and all(map(check, value))


def _fields(**checks: Check) -> Check:
    def check(value: object) -> bool:
        return isinstance(value, dict) and all(
            right(value.get(name)) for name, right in checks.items()
        )

    return check


_NEIGHBOUR = _fields(pid=is_pid, generation=is_number)


def _is_upgrade(value: object) -> bool:
    if isinstance(value, dict) and "error" in value:
        return is_text(value["error"])
    look = _maybe(_fields(at=is_time, text=is_text))
    return _fields(version=_maybe(is_text), source=_maybe(is_text), last_look=look)(value)


def _is_environment(value: object) -> bool:
    return isinstance(value, dict) and all(map(is_text, value.values()))


ANSWERS: dict[str, Check] = {
    "error": _fields(reason=is_text),
    "status": _fields(
        generation=is_number,
        phase=is_text,
        since=is_time,
        until=_maybe(is_time),
        bridge=is_flag,
        servers=_list(_fields(address=is_text, active=is_number, idle=is_number)),
        successor=_maybe(_NEIGHBOUR),
        predecessors=_list(_NEIGHBOUR),
        workers=_maybe(
            _list(
                _fields(
                    number=is_number,
                    pid=is_pid,
                    since=is_time,
                    active=is_number,
                    idle=is_number,
                    served=is_count,
                    memory=_maybe(is_count),
                )
            )
        ),
        last_reload=_maybe(is_report),
        counters=_maybe(are_counts),
        connections=_maybe(
            _list(
                _fields(
                    client=is_text,
                    listener=is_text,
                    seconds=is_time,
                    idle=is_flag,
                    request=is_text,
                )
            )
        ),
        upgrade=_maybe(_is_upgrade),
    ),
    "origin": _fields(
        words=_maybe(_list(is_text)),
        arguments=_list(is_text),
        directory=is_text,
        environment=_is_environment,
    ),
    "owns": _fields(owns=is_flag, pid_file=_maybe(is_text)),
    "moved": _fields(pid=is_pid),
    "started": _NEIGHBOUR,
    "ready": _fields(pid=is_pid, generation=is_number, bridge=is_flag, seconds=is_time),
    "failed": _fields(generation=is_number, reason=is_text, output=_list(is_text)),
    "cut": _fields(requests=is_number),
    "outcome": _fields(result=is_text, text=is_text),
}


def problem(body: dict[str, Any]) -> str:
    """Return what is wrong with an answer, "" if nothing is. One that is not known is not looked
    into: a newer version may say more.
    """
    event = body.get("event")
    if not isinstance(event, str):
        return "an answer without a name"
    check = ANSWERS.get(event)
    return "" if check is None or check(body) else f"{event[:40]!r} with a wrong field"
