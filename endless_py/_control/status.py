"""python -m endless_py status: who serves, since when, until when, for whom."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from contextlib import suppress

from endless_py._control import target
from endless_py._control.client import Deadline, chain, try_connect
from endless_py._control.output import OK, Says, say
from endless_py._control.socket import private_folders
from endless_py._support.escape import escaped
from endless_py.exceptions import EndlessError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    States = list[dict[str, Any]]

_EVERY = 1.0  # seconds from one look to the next
_QUICK = 0.5  # seconds that one has to say what it waits for
_PATIENCE = 5.0  # seconds that one process has to answer


# -- what is asked for --------------------------------------------------------


def show(pid: int, deadline: Deadline, as_json: bool = False, verbose: bool = False) -> int:
    """Print the status of one server."""
    states = chain(pid, deadline, verbose)
    if as_json:
        say(json.dumps({"generations": states}, indent=2))
    else:
        say("\n".join(lines(states, verbose)))
    return OK


def show_all(deadline: Deadline, as_json: bool = False, verbose: bool = False) -> int:
    """Print the status of every server of this user; root sees those of all users."""
    servers = _servers(deadline, verbose)
    if as_json:
        found = [{"command": words, "generations": states} for words, states in servers]
        say(json.dumps({"servers": found}, indent=2))
    else:
        say("\n".join(_all_lines(servers, verbose)))
    return OK


def watch(word: Optional[str], seconds: float, verbose: bool = False) -> int:
    """Print it again and again, in place on a terminal, else when it has changed."""
    look: Callable[[], list[str]]
    newest = _Newest()
    if word is None:
        look = lambda: _all_lines(_servers(Deadline(seconds), verbose), verbose)  # noqa: E731
    else:
        look = lambda: newest.look(word, Deadline(seconds), verbose)  # noqa: E731
    in_place, shown = sys.stdout.isatty(), [""]
    with suppress(KeyboardInterrupt):
        while True:
            found = look()
            if in_place:
                screen = "".join(f"{escaped(line)}\x1b[K\n" for line in found)
                now = time.strftime("%H:%M:%S")
                print(f"\x1b[H{screen}{now}; Ctrl-C ends\x1b[K\x1b[J", end="", flush=True)
            elif found != shown:
                say("\n".join(found) + "\n")
            shown = found
            time.sleep(_EVERY)
    if in_place:
        print()
    return OK


class _Newest:
    """Follows one server, though a reload gives it another pid."""

    def __init__(self) -> None:
        self._last: Optional[dict[str, Any]] = None

    def look(self, word: str, deadline: Deadline, verbose: bool) -> list[str]:
        last = self._last
        pid = last["pid"] if last and target.is_pid(word) else target.find(word, deadline)
        try:
            states = chain(pid, deadline, verbose)
        except EndlessError:
            found = self._younger(deadline, verbose)
            if found is None:
                raise
            states = found
        self._last = states[-1]
        return lines(states, verbose)

    def _younger(self, deadline: Deadline, verbose: bool) -> Optional[States]:
        """Return the generations of what serves the same addresses since; between two looks a
        reload may have begun and ended, and nothing leads from the old pid to the new one.
        """
        if self._last is None:
            return None
        addresses = {server["address"] for server in self._last["servers"]}
        for _, states in _servers(deadline, verbose):
            served = {server["address"] for server in states[-1]["servers"]}
            if addresses & served and states[-1]["generation"] > self._last["generation"]:
                return states
        return None


def _servers(deadline: Deadline, verbose: bool) -> list[tuple[list[str], States]]:
    """Return the command line and the generations of each server that this user may ask."""
    uid = os.geteuid()
    found: list[tuple[list[str], States]] = []
    seen: set[int] = set()
    for folder in private_folders(uid or None):
        with suppress(OSError):
            for name in sorted(os.listdir(folder)):
                match = re.fullmatch(r"(\d+)\.sock", name)
                pid = int(match[1]) if match else 0
                if pid and pid not in seen:
                    with suppress(EndlessError):
                        patience = Deadline(min(_PATIENCE, deadline.remaining() or _PATIENCE))
                        states = chain(pid, patience, verbose)
                        seen |= {state["pid"] for state in states}
                        found.append((_words(pid, deadline), states))
    return sorted(found, key=lambda server: int(server[1][-1]["pid"]))


def _words(pid: int, deadline: Deadline) -> list[str]:
    """Return what a server was started as."""
    client = try_connect(pid, deadline)
    if client is None:
        return []
    with client:
        client.ask("origin")
        answer = client.next()
    return [] if answer is None else list(answer["arguments"])


def _all_lines(servers: list[tuple[list[str], States]], verbose: bool) -> list[str]:
    shown = []
    for words, states in servers:
        shown += [f"{' '.join(words) or '?'}:", *(f"  {line}" for line in lines(states, verbose))]
    return shown or ["no server of this user is running"]


# -- how it is shown ----------------------------------------------------------


def lines(states: States, verbose: bool = False) -> list[str]:
    """Return the generations of a server, oldest first, for an operator."""
    found = table(_generations(states))
    last = max(
        (state["last_reload"] for state in states if state["last_reload"]),
        key=lambda report: float(report["at"]),
        default=None,
    )
    found.append(f"last reload: {_outcome(last)}")
    for upgrade in [state["upgrade"] for state in states if state.get("upgrade")][-1:]:
        found += _upgrade(upgrade)
    if verbose:
        counters = states[-1].get("counters") or {}
        told = [f"{name.replace('_', ' ')} {number}" for name, number in counters.items()]
        found += [f"since the first start: {', '.join(told)}"] if told else []
        rows = _connections(states)
        found += ["", *table(rows)] if len(rows) > 1 else ["no connections"]
    return found


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows as lines, in columns that are as wide as what is in them."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip() for row in rows
    ]


def _generations(states: States) -> list[tuple[str, ...]]:
    until = any(state.get("until") for state in states)  # a column that most have no use for
    head = ("GENERATION", "PID", "STATE", "SINCE", *(["UNTIL"] * until), "SERVER", "ACTIVE", "IDLE")
    rows: list[tuple[str, ...]] = [head]
    for state in states:
        name = f"{state['generation']}{' (bridge)' * state['bridge']}"
        first = [name, str(state["pid"]), state["phase"], when(state["since"])]
        if until:
            first.append(when(state["until"]) if state.get("until") else "-")
        for server in state["servers"] or [{"address": "-", "active": "-", "idle": "-"}]:
            numbers = (str(server["active"]), str(server["idle"]))
            rows.append((*first, server["address"], *numbers))
            first = [""] * len(first)
        for worker in state.get("workers") or ():
            rows.append((*_worker(worker, len(first)),))
    return rows


def _worker(worker: dict[str, Any], columns: int) -> list[str]:
    row = ["", str(worker["pid"]), "", when(worker["since"]), *[""] * (columns - 4)]
    what = f"worker {worker['number']}, {worker['served']} served"
    if worker["memory"] is not None:
        what += f", {worker['memory'] / 1e6:.0f} MB"
    return [*row, what, str(worker["active"]), str(worker["idle"])]


def _connections(states: States) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("PID", "CLIENT", "AGE", "SERVER", "REQUEST")]
    for state in states:
        for one in state.get("connections") or ():
            request = "(idle)" if one["idle"] else one["request"] or "-"
            age = f"{one['seconds']:.1f} s"
            rows.append((str(state["pid"]), one["client"], age, one["listener"], request))
    return rows


def waits_for(states: States) -> str:
    """Return what is waited for, in a few words; "" where nothing is."""
    said = []
    for state in states:
        until = state.get("until")
        left = "" if not until else f", at most {max(0, round(until - time.time()))} s"
        if state["phase"] in ("draining", "retiring", "stopping"):
            count = sum(server["active"] + server["idle"] for server in state["servers"])
            noun = "connection" if count == 1 else "connections"
            who = f"generation {state['generation']}: " if len(states) > 1 else ""
            said.append(f"{who}{count} {noun}{left}" if count else f"{who}its program's end")
        elif state["phase"] == "stopping soon":
            said.append(f"load balancers are to notice{left}")
        elif state["phase"] in ("reloading", "handing back") and state["successor"]:
            said.append(f"generation {state['successor']['generation']} starts{left}")
    return "; ".join(said)


class Progress:
    """Says what a command waits for, as the server tells it; called while it waits."""

    def __init__(self, says: Says, otherwise: str = "") -> None:
        """otherwise is what to say where the server waits for nothing."""
        self._says = says
        self._otherwise = otherwise
        self.pids: list[int] = []  # those that may be asked

    def __call__(self) -> None:
        for pid in self.pids:
            with suppress(EndlessError, OSError):
                states = chain(pid, Deadline(_QUICK))
                self.pids = [state["pid"] for state in states]
                self._says.waits(waits_for(states) or self._otherwise)
                return
        self._says.waits(self._otherwise)


def _upgrade(upgrade: dict[str, Any]) -> list[str]:
    if "error" in upgrade:
        return [f"upgrade: {upgrade['error']}"]
    look = upgrade["last_look"]
    return [
        f"upgrade: version {upgrade['version']}, from {upgrade['source']}",
        f"last look: {when(look['at']) + ', ' + look['text'] if look else 'none'}",
    ]


def when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _outcome(report: Optional[dict[str, Any]]) -> str:
    if report is None:
        return "none"
    if report["ok"]:
        what = f"generation {report['generation']} served after {report['seconds']:.3f} s"
    else:
        what = str(report["reason"])
        if not what.startswith("reload "):
            what = f"generation {report['generation']} failed: {what}"
    return f"{when(report['at'])}, {what}"
