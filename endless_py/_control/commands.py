"""python -m endless_py reload, stop, status, upgrade and start-or-reload.

Exit status: 0 done, 1 failed, 2 wrong arguments, 3 not done within --timeout, 4 stopped, but
requests were cut.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import suppress
from functools import partial

from endless_py._control import compare, target
from endless_py._control.client import (
    Client,
    Deadline,
    Failed,
    TimedOut,
    Unanswered,
    chain,
    connect,
    is_alive,
)
from endless_py._control.output import CUT, FAILED, OK, TIMED_OUT, complain, say, wait_gone
from endless_py._control.reload import reload
from endless_py.exceptions import EndlessError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Sequence

# -- stop ---------------------------------------------------------------------


def _stop(pid: int, deadline: Deadline, word: str) -> int:
    watched: dict[int, Client] = {}
    try:
        with connect(pid, deadline) as client:
            with suppress(Failed):  # it may end by itself meanwhile
                for other in [state["pid"] for state in chain(pid, deadline)]:
                    if other != pid:
                        watched[other] = connect(other, deadline)
                        watched[other].ask("watch")
            client.ask("stop")
            taken = client.next() is not None
            cut = client.wait_end()
        # An order that it did not live to take has not reached the others either.
        if not taken and (any(map(is_alive, watched)) or target.names_another(word, pid, deadline)):
            raise Unanswered(f"process {pid} ended before it answered")
        for watching in watched.values():
            cut += watching.wait_end()
    finally:
        for watching in watched.values():
            watching.close()
    wait_gone([pid, *watched], deadline)
    lost = f"; {cut} request{'s were' if cut > 1 else ' was'} cut" if cut else ""
    say(f"stopped: pid {', '.join(map(str, sorted({pid, *watched})))} has ended{lost}")
    return CUT if cut else OK


# -- status -------------------------------------------------------------------


def _status(pid: int, deadline: Deadline, as_json: bool) -> int:
    states = chain(pid, deadline)
    if as_json:
        say(json.dumps({"generations": states}, indent=2))
        return OK
    rows = [("GENERATION", "PID", "STATE", "SINCE", "SERVER", "ACTIVE", "IDLE")]
    for state in states:
        name = f"{state['generation']}{' (bridge)' * state['bridge']}"
        first = (name, str(state["pid"]), state["phase"], _when(state["since"]))
        for server in state["servers"] or [{"address": "-", "active": "-", "idle": "-"}]:
            numbers = (str(server["active"]), str(server["idle"]))
            rows.append((*first, server["address"], *numbers))
            first = ("", "", "", "")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip())
    last = max(
        (state["last_reload"] for state in states if state["last_reload"]),
        key=lambda report: float(report["at"]),
        default=None,
    )
    say(f"last reload: {_outcome(last)}")
    for upgrade in [state["upgrade"] for state in states if state.get("upgrade")][-1:]:
        _show_upgrade(upgrade)
    return OK


def _show_upgrade(upgrade: dict[str, Any]) -> None:
    if "error" in upgrade:
        say(f"upgrade: {upgrade['error']}")
        return
    look = upgrade["last_look"]
    say(f"upgrade: version {upgrade['version']}, from {upgrade['source']}")
    say(f"last look: {_when(look['at']) + ', ' + look['text'] if look else 'none'}")


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _outcome(report: Optional[dict[str, Any]]) -> str:
    if report is None:
        return "none"
    if report["ok"]:
        what = f"generation {report['generation']} served after {report['seconds']:.3f} s"
    else:
        what = f"generation {report['generation']} failed: {report['reason']}"
    return f"{_when(report['at'])}, {what}"


# -- upgrade ------------------------------------------------------------------


def _upgrade(pid: int, deadline: Deadline, check_only: bool) -> int:
    with connect(pid, deadline) as client:
        client.ask("upgrade", check_only=check_only)
        answer = client.next()
    if answer is None:
        raise Unanswered(f"process {pid} ended before it could say what became of the upgrade")
    if answer["result"] not in ("unchanged", "available", "upgraded"):
        raise Failed(f"{answer['result']}: {answer['text']}")
    say(f"{answer['result']}: {answer['text']}")
    return OK


# -- start-or-reload ----------------------------------------------------------


def _start_or_reload(
    path: str, command: list[str], log_path: Optional[str], deadline: Deadline
) -> int:
    def reload_what_is_asked(pid: int) -> int:
        compare.check(pid, command, deadline)
        return reload(pid, deadline)

    if target.is_pid(path):
        if not is_alive(int(path)):
            raise Failed(f"there is no process {path}; give a pid file to start one")
        return target.run(path, deadline, reload_what_is_asked)
    from endless_py._control import launch  # the other commands start nothing

    while True:
        pid = target.running(path, deadline)
        if pid is None:
            with launch.one_at_a_time(path, deadline):
                pid = target.running(path, deadline)  # another one may have been started meanwhile
                if pid is None:
                    return _start(path, command, log_path or f"{path}.log", deadline)
        try:
            return reload_what_is_asked(pid)
        except Unanswered:
            if not target.names_another(path, pid, deadline) and is_alive(pid):
                raise


def _start(path: str, command: list[str], log_path: str, deadline: Deadline) -> int:
    from endless_py._control import launch

    pid, seconds = launch.start(path, command, log_path, deadline)
    say(f"started: pid {pid} serves after {seconds:.3f} s; its log is {log_path}")
    return OK


# -- the command line ---------------------------------------------------------


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{word!r} is not a positive number of seconds")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m endless_py")
    kinds = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str, timeout: float) -> argparse.ArgumentParser:
        kind = kinds.add_parser(name, help=text, description=text)
        help_text = f"wait at most so long, then exit with status 3; default: {timeout:g}"
        kind.add_argument(
            "--timeout", type=_seconds, default=timeout, metavar="SECONDS", help=help_text
        )
        kind.add_argument("target", metavar="TARGET", help="a pid or a pid file")
        return kind

    kind = add("reload", "Reload a server and say how it went.", 120.0)
    kind.add_argument(
        "--wait-drained",
        action="store_true",
        help="wait until all older generations have ended",
    )
    kind.add_argument(
        "--no-wait",
        action="store_true",
        help="where the pid is kept, do not wait until it has drained and serves again itself",
    )
    add("stop", "Stop a server; wait until it has drained and ended.", 120.0)
    kind = add("status", "Show the generations of a server.", 10.0)
    kind.add_argument("--json", action="store_true", help="as JSON")
    kind = add("upgrade", "Have a server look for a new version of itself now.", 600.0)
    kind.add_argument(
        "--check-only", action="store_true", help="say whether there is one that passes, no more"
    )
    kind = add(
        "start-or-reload",
        "Reload the server whose pid TARGET, a pid file, has; start it if there is none.",
        120.0,
    )
    kind.add_argument(
        "--log", metavar="PATH", help="where the started server writes; default: TARGET.log"
    )
    kind.add_argument("words", nargs="+", metavar="-- COMMAND", help="what to start")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands; returns the exit status."""
    options = _parser().parse_args(arguments)
    deadline = Deadline(options.timeout)
    do: Callable[[Callable[[int], int]], int] = partial(target.run, options.target, deadline)
    run: dict[str, Callable[[], int]] = {
        "reload": lambda: do(
            lambda pid: reload(pid, deadline, options.wait_drained, not options.no_wait)
        ),
        "stop": lambda: do(lambda pid: _stop(pid, deadline, options.target)),
        "status": lambda: do(lambda pid: _status(pid, deadline, options.json)),
        "upgrade": lambda: do(lambda pid: _upgrade(pid, deadline, options.check_only)),
        "start-or-reload": lambda: _start_or_reload(
            options.target, options.words, options.log, deadline
        ),
    }
    try:
        return run[options.command]()
    except TimedOut as error:
        what = f": {error}" if str(error) else "; nothing was undone"
        complain(f"{options.command} is not done after {options.timeout:g} s{what}")
        return TIMED_OUT
    except (EndlessError, OSError, ValueError) as error:
        complain(str(error))
        return FAILED
