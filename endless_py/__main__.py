"""python -m endless_py: commands for a running server; servers: a folder's, by name, others'."""

from __future__ import annotations

import os
import sys

from endless_py._control.entry import COMMANDS, meant, name_of_program

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional, Sequence


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run what the words ask for; returns the exit status, 2 for wrong arguments."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if "_ARGCOMPLETE" in os.environ or words[:1] == ["completion"]:
        from endless_py._control import completion

        return completion.main(words[1:])
    if words == ["--version"]:
        from endless_py import __version__

        print(f"endless_py {__version__}")
        return 0
    if words and words[0] in COMMANDS:
        from endless_py._control import commands

        return commands.main(words)
    if words and words[0] == "wsgi":
        from endless_py._wsgi import command

        return command.main(words[1:])
    if words and words[0] == "asgi":
        from endless_py._asgi.command import main as serve_asgi

        return serve_asgi(words[1:])
    if words and words[0] == "run":
        from endless_py._run.command import main as run_program

        return run_program(words[1:])
    if words and meant(words[0]):
        text = f"there is no command {words[0]!r}; did you mean {meant(words[0])}?"
        print(f"{name_of_program()}: error: {text}", file=sys.stderr)
        return 2
    from endless_py import _serve  # the commands need none of what it imports

    return _serve.main(words)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
