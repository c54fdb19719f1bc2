"""python -m endless_py run: read the command line, change what has to be, run the program."""

from __future__ import annotations

import sys

from endless_py._reload import process, settings
from endless_py._run import options, program
from endless_py._support import platform
from endless_py.exceptions import UnsupportedPlatform

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Sequence


def main(words: Sequence[str]) -> int:
    """Run what the words after `run` name; returns the exit status: 2 when they are wrong.

    What the program raises comes out, SystemExit included.
    """
    try:
        asked = options.parse(words)
        if asked.help:
            print(options.help_text(), end="")
            return 0
        platform.require()
        found = program.prepare(asked)
    except (options.UsageError, UnsupportedPlatform) as error:
        print(f"{options.PROG}: error: {error}", file=sys.stderr)
        return 2
    _change(asked)
    found.run()
    return 0


def _change(asked: options.Options) -> None:
    """Before the program is imported: see to its servers, its reloaders, its handler for HUP."""
    from endless_py._run import graft, others  # late: a wrong command line is told at once
    from endless_py._server.mixin import GracefulMixIn

    settings.set_defaults(GracefulMixIn, asked.settings)
    graft.graft()
    others.keep_off(asked.watch, asked.take_hup)
    if asked.watch:
        from endless_py._reload.hooks import READY
        from endless_py._run.watch import ModuleWatch

        watch = ModuleWatch(asked.watch_interval)
        process.current.hooks.steps[READY].append(watch.start)
