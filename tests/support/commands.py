"""The commands for a running server, started as an operator starts them."""

from __future__ import annotations

import subprocess
import sys

from harness import TIMEOUT, environment


def start_command(*words, cwd=None):
    return subprocess.Popen(
        [sys.executable, "-m", "endless_py", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        cwd=cwd,
        text=True,
    )


def finish(process, seconds=TIMEOUT):
    """Return a command's exit status, its output and its error output.

    How long each of them has to wait, and so what it says of that, depends on the machine.
    """
    output, errors = process.communicate(timeout=seconds)
    lines = errors.splitlines(keepends=True)
    return process.returncode, output, "".join(x for x in lines if not x.startswith("waits: "))


def command(*words, seconds=TIMEOUT):
    """Run a command; return the same."""
    return finish(start_command(*words), seconds)
