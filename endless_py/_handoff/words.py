"""The words of the handoff: which fields each has, and what a wrong one is answered with.

    successor -> incumbent   adopted index      it has bound this listener
                             ready index        it serves this listener (null: a new address)
                             closed indexes     it has closed what you said is missing
                             stopping           it was told to stop; do not accept again
                             superseded         its own successor serves; do not accept again:
                                                younger generations that drain, most that may
                             force              it was told to end everything at once
                             taken, refused ids these connections
                             replaced_by        your channel was handed on to me: pid, generation
                             hand_back          (a descriptor) the channel on which the bridge
                                                hands everything back
                             put_off            the bridge does not hand back just now: reason
    incumbent -> successor   in_charge          (a descriptor, of its pid file) it is yours to tell
                                                the supervisor: pid_file
                             reloaded           how this reload went: report
                             counted            since I last said so, or ever: numbers
                             missing indexes    you did not adopt these: close them, nobody serves
                                                them once I have closed them as well
                             reload             a HUP came after the successor was started
                             stop, force        so did a TERM, or an order to end at once; now:
                                                a stop that no stop_delay puts off
                             ancestor_ended     the incumbent's own predecessor has ended
                             given_up           you are not ready in time: end. I serve on, and all
                                                that you were handed stays mine
                             connections        (descriptors) idle ones, to be answered: items
                             predecessor        (a descriptor) the channel to it, from now on yours
                             wait_over          to a bridge: the program has ended, hand back
                             orphaned           to a bridge: the kept pid is lost: reason
                             starting           to a bridge: the program is started just now

The greeting that comes before all of them is in `greeting`.

Inside one generation that has workers, over a channel between the leader and each of them:

    leader -> worker         serve              this generation is ready: accept
                             yield              the next one serves: drain; and of which
                                                listeners idle connections migrate (through the
                                                leader): migrates
                             resume             it does not any more: accept again
                             replaced           another process has your place: drain; idle
                                                connections migrate to the others
                             close              nobody accepts on the listeners again
                             give_up            nor on this one: listener
                             stop, force        as to a successor
                             alone              no older generation drains any more
                             look               see whether a client waits: who was woken may
                                                not take it
                             exclusive          whether a client is to wake one process: on
                             count              write what you do into the memory that we share
                             taken, refused ids these connections
                             connections        (descriptors) idle ones, yours to answer: items
    worker -> leader         up                 it could accept
                             connections, taken, refused
                             shutdown           a handler called the server's shutdown()
                             order              one called reload() or stop(): what it is, and name
                             limit              it has served enough, and is to be replaced: why
                             look, count        have all the others do so
    leader -> fork server    fork               (a descriptor, the worker's end of its channel):
                                                number
                             listeners          (descriptors) what those that are forked from now
                                                on are to adopt: bindings
                             serve              as to a worker
    fork server -> leader    forked             so it was: number, pid
                             failed             it could not be: number, reason
                             ended              one of them has: pid, status
"""

from __future__ import annotations

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable

    from typing_extensions import TypeGuard

    Fields = dict[str, Callable[[object], bool]]


def is_number(value: object, least: int = 0) -> TypeGuard[int]:
    """Whether what a neighbour said is a whole number of at least that much."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 31


def is_pid(value: object) -> bool:
    return is_number(value, 1)


def _is_index(value: object) -> bool:
    return value is None or is_number(value)


def is_flag(value: object) -> bool:
    return isinstance(value, bool)


def is_count(value: object) -> bool:
    """Whether it is a number of what was counted."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


def are_counts(value: object) -> bool:
    """Whether these are numbers by name, of what was counted."""
    return isinstance(value, dict) and all(map(is_count, value.values()))


def _is_path(value: object) -> bool:
    return value is None or (isinstance(value, str) and "\0" not in value)


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_time(value: object) -> bool:
    """Whether it is a number of seconds, which a date can be made of."""
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_one and 0 <= value < 1e11  # type: ignore[operator]


def is_report(value: object) -> bool:
    """Whether it says how a reload went."""
    if not isinstance(value, dict) or not isinstance(value.get("ok"), bool):
        return False
    how = is_time(value.get("seconds")) if value["ok"] else is_text(value.get("reason"))
    return how and is_time(value.get("at")) and is_number(value.get("generation"))


def _is_report(value: object) -> bool:
    return value is None or is_report(value)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


FROM_SUCCESSOR: dict[str, Fields] = {
    "adopted": {"index": is_number},
    "ready": {"index": _is_index},
    "closed": {"indexes": _are_numbers},
    "stopping": {},
    "superseded": {"younger": _is_index, "most": _is_index},
    "force": {},
    "taken": {"ids": _are_numbers},
    "refused": {"ids": _are_numbers},
    "replaced_by": {"pid": is_pid, "generation": is_number},
    "hand_back": {},
    "put_off": {"reason": is_text},
}
FROM_PREDECESSOR: dict[str, Fields] = {
    "in_charge": {"pid_file": _is_path},
    "reloaded": {"report": _is_report},
    "counted": {"numbers": are_counts},
    "missing": {"indexes": _are_numbers},
    "reload": {},
    "stop": {"now": lambda value: value is None or is_flag(value)},
    "force": {},
    "ancestor_ended": {},
    "given_up": {},
    "connections": {"items": _is_list},
    "predecessor": {"pid": is_pid, "own": is_number, "numbers": _is_list},
    "wait_over": {},
    "orphaned": {"reason": is_text},
    "starting": {},
}

FROM_LEADER: dict[str, Fields] = {
    "look": {},
    "exclusive": {"on": is_flag},
    "serve": {},
    "yield": {"migrates": _are_numbers},
    "replaced": {},
    "resume": {},
    "close": {},
    "give_up": {"listener": is_number},
    "stop": {},
    "force": {},
    "alone": {},
    "count": {},
    "taken": {"ids": _are_numbers},
    "refused": {"ids": _are_numbers},
    "connections": {"items": _is_list},
}
FROM_WORKER: dict[str, Fields] = {
    "look": {},
    "up": {"pid": is_number},
    "connections": {"items": _is_list},
    "taken": {"ids": _are_numbers},
    "refused": {"ids": _are_numbers},
    "shutdown": {},
    "order": {"what": lambda value: value in ("RELOAD", "STOP", "FORCE"), "name": is_text},
    "count": {},
    "limit": {"why": is_text},
}
TO_FORK_SERVER: dict[str, Fields] = {
    "fork": {"number": is_number},
    "listeners": {"bindings": _is_list},
    "serve": {},
}
FROM_FORK_SERVER: dict[str, Fields] = {
    "forked": {"number": is_number, "pid": is_pid},
    "failed": {"number": is_number, "reason": is_text},
    "ended": {"pid": is_pid, "status": lambda value: isinstance(value, int)},
}


def problem(words: dict[str, Fields], body: dict[str, Any]) -> str:
    """Return what is wrong with a message, "" if nothing is."""
    word = body.get("type")
    fields = words.get(word) if isinstance(word, str) else None
    if fields is None:
        return f"unknown word {str(word)[:40]!r}"
    for name, is_right in fields.items():
        if not is_right(body.get(name)):
            return f"{word!r} with a wrong {name!r}"
    return ""
