"""The command line of `run`: its own options, then the program and its arguments."""

from __future__ import annotations

from endless_py._control.entry import name_of_program
from endless_py._reload import settings

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence

PROG = f"{name_of_program()} run"
# What nobody would say ready, and what only our own class for HTTPS has.
_NOT_OFFERED = ("ready_on_serve", "handshake_timeout")
_OFFERED = {
    "--" + name.replace("_", "-"): name for name in settings.NAMES if name not in _NOT_OFFERED
}
_MEANING = {
    "drain_timeout": "SECONDS  active requests may take after a reload or a stop; default: 60",
    "ready_timeout": "SECONDS  the new code may take to serve; default: 60",
    "keepalive_grace": "SECONDS  an idle connection that cannot move is kept; default: 5",
    "stop_delay": "SECONDS  it goes on accepting after TERM, and is not ready; default: 0",
    "exit_grace": "SECONDS  the program may take to end after its drain; default: auto",
    "keep_pid": "[=auto|yes|no]  whether a reload keeps the pid; default: auto",
    "handler_warn_after": "SECONDS  after which a handler is named, with its stack; default: none",
    "tcp_nodelay": "[=yes|no]  TCP_NODELAY on accepted connections; default: yes",
    "max_handlers": "NUMBER  of handlers at once in a threading server; default: none",
    "max_draining": "NUMBER  of older generations that drain at once; default: 8",
    "reuse_threads": "[=yes|no]  whether a thread serves several connections; default: no",
    "workers": "NUMBER|auto  of processes that accept on the listener; default: 1",
    "max_requests": "NUMBER  that a process handles before it is replaced; default: none",
    "max_requests_jitter": "NUMBER  of requests that each may handle more, by chance; default: 0",
    "max_rss": "MEGABYTES  in memory above which a process is replaced; default: none",
    "health": "ADDRESS  HOST:PORT at which health checks are answered; default: none",
    "pid_file": "PATH  of a file with the pid of the serving process; default: none",
}
USAGE = f"""\
usage: {PROG} [OPTIONS] [--] SCRIPT [ARGUMENTS]
       {PROG} [OPTIONS] -m MODULE [ARGUMENTS]
       {PROG} [OPTIONS] COMMAND [ARGUMENTS]
"""


class UsageError(Exception):
    """A command line, or a variable, that cannot be followed; the text is for who wrote it."""


class Options:
    """What a command line asks for."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.watch = self.take_hup = self.help = False
        self.watch_interval = 2.0
        self.module: Optional[str] = None  # else `program` is a script or a command
        self.program = ""
        self.arguments: list[str] = []


def help_text() -> str:
    rows = [
        f"  {option}{' ' * (_MEANING[name][0] != '[')}{_MEANING[name]}"
        for option, name in _OFFERED.items()
    ]
    rows += [
        "  --watch  reload when a module that the program has imported changes",
        "  --watch-interval SECONDS  where the system tells of no changes; default: 2",
        "  --take-hup  HUP reloads even where the program has a handler of its own",
    ]
    return (
        f"{USAGE}\nRun a program unchanged, with the servers of the standard library, and all that "
        "derive from them,\nreplaceable: kill -HUP reloads.\n\n" + "\n".join(rows) + "\n\n"
        "No limit: none. Defaults come from variables: ENDLESS_PY_DRAIN_TIMEOUT=30, ...\n"
    )


def parse(words: Sequence[str]) -> Options:
    """Return what the words after `run` ask for; raises UsageError."""
    options, left = Options(), list(words)
    problem = settings.problem_in_environment()
    if problem:
        raise UsageError(problem)
    while left:
        word = left.pop(0)
        if word == "--":
            break
        if word[:2] == "-m":
            options.module = word[2:] or (left.pop(0) if left else "")
            if not options.module:
                raise UsageError("-m: which module is missing")
            break
        if word[:1] != "-" or word == "-":
            left.insert(0, word)
            break
        if word in ("-h", "--help"):
            options.help = True
            return options
        _option(options, word, left)
    if options.module is None:
        if not left:
            raise UsageError("which program to run is missing")
        options.program = left.pop(0)
    options.arguments = left
    return options


def _option(options: Options, word: str, left: list[str]) -> None:
    option, given, text = word.partition("=")
    name = _OFFERED.get(option)
    if option in ("--watch", "--take-hup"):
        if given:
            raise UsageError(f"{option} takes no value")
        setattr(options, option[2:].replace("-", "_"), True)
        return
    if name is None and option != "--watch-interval":
        raise UsageError(f"there is no option {option}; see --help")
    if not given:
        if name in settings.SWITCHES:
            text = "yes"
        elif left:
            text = left.pop(0)
        else:
            raise UsageError(f"{option}: its value is missing")
    try:
        if name is None:
            options.watch_interval = float(text)
            if not 0 < options.watch_interval <= 86400:
                raise ValueError
        else:
            options.settings[name] = settings.from_text(name, text)
    except ValueError as error:
        why = str(error) or f"it must be more than 0 seconds, at most a day, not {text!r}"
        raise UsageError(f"{option}: {why}") from None
