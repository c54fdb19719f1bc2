"""Whether this interpreter was started to run one of the commands for a running server.

Such a process serves nothing, so it is not to be made into one that can be reloaded: what
`import endless_py` does for a program takes time, and variables out of the environment.
"""

from __future__ import annotations

import os
import sys

from endless_py._handoff.command_line import original_arguments

COMMANDS = ("reload", "stop", "status", "upgrade", "start-or-reload")
OTHERS = ("run", "wsgi", "asgi", "completion")  # what else may stand in a command's place
_SCRIPT = "endless-py"
_MODULES = ("endless_py", "endless_py.__main__")


def name_of_program() -> str:
    """Return what the user has called: the console script, or the module."""
    name = os.path.basename((getattr(sys, "argv", None) or [""])[0])
    return _SCRIPT if os.path.splitext(name)[0] == _SCRIPT else "python -m endless_py"


def meant(word: str) -> str:
    """Return the command that somebody has misspelt, "" if the word is none."""
    if word.startswith("-") or word.isdigit() or word in OTHERS:
        return ""
    import difflib  # late, as only a mistake needs it

    return "".join(difflib.get_close_matches(word, [*COMMANDS, *OTHERS], n=1))


def runs_command() -> bool:
    """Whether it runs `python -m endless_py COMMAND ...`, or the console script so."""
    arguments: list[str] = getattr(sys, "argv", [])  # not there where Python is embedded
    if len(arguments) < 2 or arguments[1] not in COMMANDS:
        return False
    if arguments[0] == "-m":  # Python still looks for the module, the last word before these
        word = "".join(original_arguments()[: 1 - len(arguments)][-1:])
        return word in _MODULES or (word[:1] == "-" and word.partition("m")[2] in _MODULES)
    return os.path.splitext(os.path.basename(arguments[0]))[0] == _SCRIPT
