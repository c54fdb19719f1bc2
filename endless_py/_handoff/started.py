"""What this process was started with, as far as a program can change it later.

A reload is to be a fresh start of the command, so a successor gets this and not what the program
has made of it: variables that it has set, a longer PATH, a umask, signals that it ignores. It is
noted when the package is imported, before most programs change anything; Linux tells the variables
of the start at any time.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal's are gone when the interpreter ends
import os
import signal
from contextlib import suppress
from functools import partial

from endless_py._handoff import command_line
from endless_py._support import sigmask

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

    Identity = tuple[int, int, int]

COMMAND_VARIABLE = "ENDLESS_PY_COMMAND"


class Started:
    """The start of this process."""

    def __init__(self) -> None:
        self.command = command_line.capture()
        self.environment = _first_environment()
        # What `start-or-reload` was told to start, as JSON; goes on to every generation.
        self._words = os.environ.pop(COMMAND_VARIABLE, None)
        self.umask = os.umask(0o077)
        os.umask(self.umask)
        self.nice = os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0
        self.blocked: set[int] = set()
        if hasattr(signal, "pthread_sigmask"):
            self.blocked = set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        self._ignored = _ignored()
        self._descriptors: dict[int, Identity] = {}

    def origin(self) -> dict[str, Any]:
        """Return what the `start-or-reload` command compares with what it is told."""
        words = None
        with suppress(TypeError, ValueError):
            import json  # late, as only a command needs it

            words = json.loads(self._words)  # type: ignore[arg-type]
        return {
            "words": words,
            "arguments": self.command.arguments,
            "directory": self.command.directory,
            "environment": self.environment,
        }

    def note_descriptors(self) -> None:
        """Note what a run script or a supervisor has opened for this process.

        Whatever Python opens is not inheritable, and by now nothing of a handoff is.
        """
        for number in _open_descriptors():
            with suppress(OSError):
                if number > 2 and os.get_inheritable(number):
                    self._descriptors[number] = _identity(number)

    def descriptors(self) -> tuple[set[int], set[int]]:
        """Return the numbers of those that are still what they were, and of those that are not.

        What came under the second numbers has been closed (a notification that was sent, for
        example), and the number may be in use for something else.
        """
        same = set()
        for number, identity in self._descriptors.items():
            with suppress(OSError):
                if _identity(number) == identity:
                    same.add(number)
        return same, self._descriptors.keys() - same

    def changed_signals(self, roles: Iterable[int]) -> tuple[set[int], set[int]]:
        """Return the signals that are ignored now and were not, and those that were.

        Those with a role are left as they are: one that has come must not get lost.
        """
        roles = set(roles)
        return _ignored() - self._ignored - roles, self._ignored - roles

    def go_back(self, roles: Iterable[int]) -> list[Callable[[], object]]:
        """Make this process, in its main thread, the one that was started, for new code in place.

        What is returned is to be called at the very end; each may raise. Signals with a role wait.
        """
        default, ignored = self.changed_signals(roles)
        sigmask.block(default)
        for number in default:
            signal.signal(number, signal.SIG_DFL)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        steps: list[Callable[[], object]] = [partial(os.umask, self.umask)]
        if hasattr(os, "setpriority"):
            steps.append(partial(os.setpriority, os.PRIO_PROCESS, 0, self.nice))
        blocked = self.blocked.union(roles)
        steps.append(partial(_signal.pthread_sigmask, _signal.SIG_SETMASK, blocked))
        return steps


def _first_environment() -> dict[str, str]:
    """Return the variables that the command was started with, else those of the present."""
    with suppress(OSError):
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")[:-1]
        # A program that shows a title of its own in `ps` writes it over this.
        if entries and all(entry.find(b"=", 1) > 0 for entry in entries):
            pairs = (os.fsdecode(entry).partition("=") for entry in reversed(entries))
            return {name: value for name, _, value in pairs}
    return dict(os.environ)


def _ignored() -> set[int]:
    numbers = signal.valid_signals()
    return {int(n) for n in numbers if signal.getsignal(n) is signal.SIG_IGN}


def _open_descriptors() -> list[int]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return [int(name) for name in os.listdir(folder) if name.isdigit()]
    return []


def _identity(descriptor: int) -> Identity:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_mode
