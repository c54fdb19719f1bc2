"""Whether a reload keeps the pid: the setting, and which supervisor can be seen."""

from __future__ import annotations

import os
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Literal, Union

    Setting = Union[bool, Literal["auto"]]

_WATCHERS = ("runsv", "s6-supervise", "supervise")
# Each ends when the one process that it started does, and the container ends with it.
_CONTAINER_INITS = ("tini", "tini-static", "docker-init", "podman-init", "catatonit", "dumb-init")


def check(setting: Any) -> Setting:
    """Return a valid keep_pid setting; raises ValueError for anything else."""
    if setting in (True, False, "auto"):
        return bool(setting) if setting != "auto" else "auto"
    raise ValueError(f'keep_pid is {setting!r}; it must be True, False or "auto"')


def decide(settings: list[Setting], notifies: bool) -> tuple[bool, str]:
    """Return whether the pid is kept, and why.

    settings are those of all servers: one True among them keeps it. notifies says that a service
    manager can be told another pid.
    """
    explicit = [bool(setting) for setting in settings if setting != "auto"]
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
        return True, f"the container ends when it does: {parent} waits for that"
    if in_foreground():
        return True, "it runs in the foreground of a terminal"
    if notifies:
        return False, "the manager that listens at NOTIFY_SOCKET is told the new one"
    return False, "no supervisor was found"


def is_watched(notifies: bool) -> bool:
    """Whether a supervisor is there that waits for the end of this process."""
    watchers = (*_WATCHERS, *_CONTAINER_INITS)
    known = notifies or os.getpid() == 1 or bool(os.environ.get("SUPERVISOR_ENABLED"))
    return known or _is_unit() or _parent_name() in watchers


def ends_all(pid: int) -> bool:
    """Whether the end of this pid ends every other process: a container's, or a unit's."""
    return pid == 1 or os.environ.get("SYSTEMD_EXEC_PID") == str(pid)


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
    except (ImportError, OSError):  # no descriptor is left to read it
        return ""
    try:
        words = ["ps", "-o", "comm=", "-p", str(os.getppid())]
        done = subprocess.run(words, capture_output=True, text=True, timeout=5, check=False)
        return os.path.basename(done.stdout.strip())
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def in_foreground() -> bool:
    for descriptor in (0, 1, 2):
        with suppress(OSError, AttributeError):
            return os.tcgetpgrp(descriptor) == os.getpgrp()
    return False
