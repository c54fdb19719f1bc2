"""A check: the new version starts, as far as its first server."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import BinaryIO, Optional

from endless_py._reload import dry_start, process
from endless_py.upgrade.check import Candidate, Check
from endless_py.upgrade.errors import Refused
from endless_py.upgrade.worker import environment_for_children, read_line

_CLEAN_UP = 1.0  # seconds a program has for its own clean-up after its answer
_LAST_WORDS = 300  # characters of what a failing program wrote last


class DryStart(Check):
    """The new version starts, in a process of its own, as far as its first server.

    The program runs until it makes its first endless_py server, where it answers a challenge
    on a pipe and ends by SystemExit without having bound anything. What it does before that
    is really done.

    command     what to start, a sequence of words in which "{release}" stands for the
                release's path; default: this process's own command line, with the target's
                path in it, or as the folder it is started in, replaced by the release's
    timeout     seconds; default 30
    """

    def __init__(self, command: Optional[Sequence[str]] = None, timeout: float = 30.0):
        self.command = command
        self.timeout = timeout

    def run(self, candidate: Candidate) -> None:
        words, directory = self._command_for(candidate)
        token = secrets.token_hex(16)
        ours, theirs = os.pipe()
        environment = environment_for_children()
        environment[dry_start.VARIABLE] = f"{theirs}:{token}"
        environment["PWD"] = directory
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # the release stays as it was published
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, ours)
            output = stack.enter_context(tempfile.TemporaryFile())
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=directory,
                    env=environment,
                    pass_fds=(theirs,),
                    start_new_session=True,
                )
            except OSError as error:
                raise Refused(f"its dry start fails: {error}") from error
            finally:
                os.close(theirs)
            stack.callback(_end, process, ours)
            deadline = time.monotonic() + self.timeout
            answered = read_line(ours, deadline)
            if answered == dry_start.answer(token):
                return
            if time.monotonic() >= deadline:
                problem = f"it reached no server within {self.timeout:g} s"
            else:
                problem = f"it ended{_status(process, deadline)} before it reached a server"
            raise Refused(f"its dry start fails: {problem}{_last_words(output)}")

    def _command_for(self, candidate: Candidate) -> tuple[list[str], str]:
        """The words to start, and the directory to start them in."""
        release, own = str(candidate.release), process.current.spawn.command
        directory = own.directory or os.getcwd()
        if self.command is not None:
            return [word.replace("{release}", release) for word in self.command], directory
        target = str(candidate.target)

        def moved(path: str) -> Optional[str]:
            """A path to or below the target, as it would be in the release."""
            full = os.path.normpath(os.path.join(directory, path))
            if full == target:
                return release
            return release + full[len(target) :] if full.startswith(target + os.sep) else None

        words = [own.executable, *own.arguments[1:]]
        new_directory = moved(directory)
        # In a folder that moves, relative words name the same things as before.
        replaced = [
            moved(word) or word if os.path.isabs(word) or not new_directory else word
            for word in words
        ]
        if replaced == words and new_directory is None:
            raise Refused(
                f"its dry start cannot be done: {target} is not in this process's command line, "
                f"{' '.join(words)}; give DryStart(command=...)"
            )
        return replaced, new_directory or directory


def _end(process: subprocess.Popen[bytes], descriptor: int) -> None:
    """End what the dry start has started, all of it."""
    read_line(descriptor, time.monotonic() + _CLEAN_UP)
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _status(process: subprocess.Popen[bytes], deadline: float) -> str:
    try:
        status = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return ""
    return f" with status {status}" if status >= 0 else f" by signal {-status}"


def _last_words(output: BinaryIO) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - 4 * _LAST_WORDS))
    lines = output.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1].strip()[-_LAST_WORDS:]}" if lines else ""
