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
    """Return a command's exit status, its output and its error output."""
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output, without_waits(errors)


def without_waits(errors):
    """How long a command has to wait, and so what it says of that, depends on the machine."""
    lines = errors.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("waits: "))


def command(*words, seconds=TIMEOUT):
    """Run a command; return the same."""
    return finish(start_command(*words), seconds)
