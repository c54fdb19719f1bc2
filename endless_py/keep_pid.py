"""Keeping the pid: whether to, and becoming the new code in place as this process's last act."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from endless_py.command_line import CommandLine

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Union

    Setting = Union[bool, str]

_WATCHERS = ("runsv", "s6-supervise", "supervise")
# They end with the one process they were given, and the container with them.
_CONTAINER_INITS = ("tini", "tini-static", "docker-init", "podman-init", "catatonit", "dumb-init")


def check(setting: Any) -> Setting:
    """Return a keep_pid setting; raises ValueError when it is none."""
    if setting in (True, False, "auto"):
        return bool(setting) if setting != "auto" else "auto"
    raise ValueError(f'keep_pid is {setting!r}; it must be True, False or "auto"')


def decide(settings: list[Setting], notifies: bool) -> tuple[bool, str]:
    """Return whether the pid is kept, and why; one explicit setting of a server is enough.

    notifies says that a manager can be told another pid.
    """
    explicit = [setting for setting in settings if isinstance(setting, bool)]
    if explicit:
        return any(explicit), f"keep_pid = {any(explicit)}"
    if os.getpid() == 1:
        return True, "it is pid 1"
    if os.environ.get("SUPERVISOR_ENABLED"):
        return True, "supervisord watches it"
    if _is_unit() and not notifies:
        return True, "systemd watches it and has no NOTIFY_SOCKET to be told another pid"
    parent = _parent_name()
    if parent in _WATCHERS:
        return True, f"{parent} watches it"
    if parent in _CONTAINER_INITS:
        return True, f"the container ends with it: {parent} waits for its end"
    if _in_foreground():
        return True, "it runs in the foreground of a terminal"
    return False, "nothing was found that watches it"


def _is_unit() -> bool:
    """Whether this is the main process of a systemd unit (not some descendant of one)."""
    if not os.environ.get("INVOCATION_ID"):
        return False
    # systemd.exec(5): set from version 248 on
    main = os.environ.get("SYSTEMD_EXEC_PID")
    return main == str(os.getpid()) if main else os.getppid() == 1


def _parent_name() -> str:
    try:
        with open(f"/proc/{os.getppid()}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        pass
    try:
        import subprocess  # the BSDs and macOS, where runit and s6 run too

        words = ["ps", "-o", "comm=", "-p", str(os.getppid())]
        done = subprocess.run(words, capture_output=True, text=True, timeout=5, check=False)
        return os.path.basename(done.stdout.strip())
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def _in_foreground() -> bool:
    for descriptor in (0, 1, 2):
        with suppress(OSError, AttributeError):
            return os.tcgetpgrp(descriptor) == os.getpgrp()
    return False


class LastAct:
    """Starts a command line in place of this process when the interpreter has finished.

    The dictionary of sys is what finalization empties last: every atexit function has run
    by then, whenever it was registered, and the standard streams are flushed.
    """

    _NAME = "_endless_py_last_act"

    def __init__(
        self, command: CommandLine, environment: dict[str, str], descriptors: list[int]
    ) -> None:
        # Nothing can be imported any more by then, and modules are empty.
        self._executable, self._directory = command.locate(environment)
        self._arguments = [self._executable, *command.arguments[1:]]
        self._environment = environment
        self._keep = sorted({0, 1, 2, *descriptors})
        self._calls = os.chdir, os.set_inheritable, os.closerange, os.execve, os.write
        self._pid, self._getpid = os.getpid(), os.getpid
        vars(sys)[self._NAME] = self

    def __del__(self) -> None:
        if self._getpid() == self._pid:
            self._go()

    def _go(self) -> None:
        chdir, set_inheritable, closerange, execve, write = self._calls
        try:
            chdir(self._directory)
            for descriptor in self._keep[3:]:
                set_inheritable(descriptor, True)
            for low, high in zip(self._keep, [*self._keep[1:], self._keep[-1] + 65536]):
                closerange(low + 1, high)
            execve(self._executable, self._arguments, self._environment)
        except BaseException as error:
            write(2, f"endless_py[{self._pid}]: cannot start anew: {error}\n".encode())
