"""python -m endless_py reload, stop, status, upgrade and start-or-reload.

Exit status: 0 done, 1 failed, 2 wrong arguments, 3 not done within --timeout, 4 stopped, but
requests were cut, 130 interrupted.
"""

from __future__ import annotations

import argparse
from contextlib import suppress

from endless_py._control import compare, status, target
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
from endless_py._control.entry import OTHERS, name_of_program
from endless_py._control.output import (
    CUT,
    FAILED,
    INTERRUPTED,
    OK,
    TIMED_OUT,
    Says,
    say,
    wait_gone,
)
from endless_py._control.reload import reload
from endless_py.exceptions import EndlessError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Callable, Optional, Sequence

# -- stop ---------------------------------------------------------------------


def _stop(pid: int, deadline: Deadline, word: str, says: Says) -> int:
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
    ended = sorted({pid, *watched})
    says.say(f"stopped: pid {', '.join(map(str, ended))} has ended{lost}", pids=ended, cut=cut)
    return CUT if cut else OK


# -- upgrade ------------------------------------------------------------------


def _upgrade(pid: int, deadline: Deadline, check_only: bool, says: Says) -> int:
    with connect(pid, deadline) as client:
        client.ask("upgrade", check_only=check_only)
        answer = client.next()
    if answer is None:
        raise Unanswered(f"process {pid} ended before it could say what became of the upgrade")
    if answer["result"] not in ("unchanged", "available", "upgraded"):
        raise Failed(f"{answer['result']}: {answer['text']}")
    says.say(f"{answer['result']}: {answer['text']}")
    return OK


# -- start-or-reload ----------------------------------------------------------


def _start_or_reload(
    path: str,
    command: list[str],
    log_path: Optional[str],
    deadline: Deadline,
    says: Says,
    progress: status.Progress,
) -> int:
    def reload_what_is_asked(pid: int) -> int:
        progress.pids = [pid]
        compare.check(pid, command, deadline)
        return reload(pid, deadline, says)

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


def parser(everything: bool = False) -> argparse.ArgumentParser:
    """Return what reads the commands; everything: what shells complete, other first words too."""
    found = argparse.ArgumentParser(
        prog=name_of_program(), description="Commands for a running server."
    )
    kinds = found.add_subparsers(dest="command", required=True)

    def add(name: str, text: str, timeout: float) -> argparse.ArgumentParser:
        kind = kinds.add_parser(name, help=text, description=text)
        help_text = f"wait at most so long, then exit with status 3; default: {timeout:g}"
        kind.add_argument(
            "--timeout", type=_seconds, default=timeout, metavar="SECONDS", help=help_text
        )
        many = "?" if name == "status" else None
        kind.add_argument("target", nargs=many, metavar="TARGET", help="a pid or a pid file")
        if name in ("reload", "stop", "status"):
            kind.add_argument("--json", action="store_true", help="say it as JSON")
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
    kind = add("status", "Show a server; without TARGET, all of this user's servers.", 10.0)
    kind.add_argument(
        "-v", "--verbose", action="store_true", help="with its connections and counters"
    )
    kind.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
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
    for name in OTHERS if everything else ():
        kinds.add_parser(name, add_help=False)
    return found


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands; returns the exit status."""
    reads = parser()
    options = reads.parse_args(arguments)
    if options.command == "status" and options.watch and options.json:
        reads.error("--watch is for people, --json for programs")
    shows = options.command == "status"
    says = Says(not shows and getattr(options, "json", False))
    looks = "the server looks for a new version" if options.command == "upgrade" else ""
    progress = status.Progress(says, looks)
    deadline = Deadline(options.timeout, None if shows else progress)
    try:
        return says.end(_run(options, deadline, says, progress))
    except TimedOut as error:
        what = f": {error}" if str(error) else "; nothing was undone"
        says.fail(f"{options.command} is not done after {options.timeout:g} s{what}")
        return says.end(TIMED_OUT)
    except (EndlessError, OSError, ValueError) as error:
        says.fail(str(error))
        return says.end(FAILED)
    except KeyboardInterrupt:
        says.fail(f"{options.command} is not waited for any more; nothing was undone")
        return says.end(INTERRUPTED)


def _run(
    options: argparse.Namespace, deadline: Deadline, says: Says, progress: status.Progress
) -> int:
    name, word = options.command, options.target

    def on_target(act: Callable[[int], int]) -> int:
        def act_on(pid: int) -> int:
            progress.pids = [pid]
            return act(pid)

        return target.run(word, deadline, act_on)

    if name == "reload":
        how = options.wait_drained, not options.no_wait
        return on_target(lambda pid: reload(pid, deadline, says, *how))
    if name == "stop":
        return on_target(lambda pid: _stop(pid, deadline, word, says))
    if name == "upgrade":
        return on_target(lambda pid: _upgrade(pid, deadline, options.check_only, says))
    if name == "start-or-reload":
        return _start_or_reload(word, options.words, options.log, deadline, says, progress)
    if options.watch:
        return status.watch(word, options.timeout, options.verbose)
    if word is None:
        return status.show_all(deadline, options.json, options.verbose)
    return on_target(lambda pid: status.show(pid, deadline, options.json, options.verbose))
