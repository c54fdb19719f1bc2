"""endless-py completion SHELL: what a shell needs to complete the commands and their options."""

from __future__ import annotations

import argparse
import os

from endless_py._control.entry import name_of_program
from endless_py._control.output import FAILED, OK, complain

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Sequence

_SHELLS = ("bash", "zsh", "fish")


def _argcomplete() -> Any:
    try:
        import argcomplete
    except ImportError:
        return None
    return argcomplete


def main(words: Sequence[str]) -> int:
    """Print a shell's script; or complete, where it is what that script has called."""
    library = _argcomplete()
    if "_ARGCOMPLETE" in os.environ:
        if library is not None:
            from endless_py._control import commands  # which takes longer

            library.autocomplete(commands.parser(everything=True))
        return FAILED
    parser = argparse.ArgumentParser(
        prog=f"{name_of_program()} completion",
        description="Print what your shell needs to complete endless-py; in its start file: "
        'eval "$(endless-py completion bash)".',
    )
    parser.add_argument("shell", choices=_SHELLS)
    shell = parser.parse_args(words).shell
    if library is None:
        complain("this needs argcomplete: python3 -m pip install 'endless-py[completion]'")
        return FAILED
    print(library.shellcode(["endless-py"], shell=shell))
    return OK
