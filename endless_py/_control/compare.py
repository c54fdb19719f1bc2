"""Whether what runs is what somebody asks to be started; a reload starts the former again."""

from __future__ import annotations

import json
import os
import shlex
from contextlib import suppress

from endless_py._control.client import Deadline, Failed, connect
from endless_py._control.output import say
from endless_py._handoff.started import COMMAND_VARIABLE

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

# Variables of whoever asks that say nothing about the program.
_OF_A_SHELL = {"_", "COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "TERM", "WINDOWID"}
_PREFIXES = ("ENDLESS_PY_", "LC_", "SSH_", "XDG_", "DBUS_", "LISTEN_", "SYSTEMD_")
_OF_A_MANAGER = {
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
}


def variable(command: list[str]) -> dict[str, str]:
    """Return the variable by which a process and its successors know what they were started as."""
    return {COMMAND_VARIABLE: json.dumps(command)}


def check(pid: int, command: list[str], deadline: Deadline) -> None:
    """Raise Failed when a reload of this process is not a start of this command in this directory.

    Variables that differ are only named: those of two shells always do.
    """
    with connect(pid, deadline) as client:
        client.ask("origin")
        try:
            origin = client.next()
        except Failed:  # it has an older version of this package
            return
    if origin is None:
        return
    differences = []
    if not _is_same_command(origin, command):
        runs = origin["words"] or origin["arguments"]
        text = f"it was started as `{shlex.join(runs)}`, which differs from `{shlex.join(command)}`"
        differences.append(text)
    if not _is_here(origin["directory"]):
        differences.append(f"it was started in {origin['directory']}, not in {os.getcwd()}")
    if differences:
        raise Failed(
            f"process {pid} is not what is to be started, and a reload would not change that: "
            f"{'; '.join(differences)}. Nothing was done; stop it first, or use the reload command"
        )
    names = _other_variables(origin["environment"])
    if names:
        say(
            f"note: a reload keeps the environment of the first start; {', '.join(names)} "
            "differ from it here"
        )


def _is_same_command(origin: dict[str, Any], command: list[str]) -> bool:
    """Whether it is, or may be: a script may have started the interpreter that is seen."""
    words: Optional[list[str]] = origin["words"]
    if words is not None:
        return words == command
    arguments: list[str] = origin["arguments"]
    if os.path.basename(command[0]).startswith("python"):
        return arguments[1:] == command[1:]
    for position, word in enumerate(arguments[1:], 2):
        with suppress(OSError):
            if os.path.samefile(os.path.join(origin["directory"], word), command[0]):
                return arguments[position:] == command[1:]
    return True


def _is_here(directory: str) -> bool:
    if not directory:  # it was gone when the package was imported
        return True
    with suppress(OSError):
        return os.path.samefile(directory, os.getcwd())
    return directory == os.environ.get("PWD")


def _other_variables(theirs: dict[str, str]) -> list[str]:
    ours = dict(os.environ)
    return sorted(
        name
        for name in ours.keys() | theirs.keys()
        if ours.get(name) != theirs.get(name)
        and name not in _OF_A_SHELL | _OF_A_MANAGER
        and not name.startswith(_PREFIXES)
    )
