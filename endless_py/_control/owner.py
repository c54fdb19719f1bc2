"""Whether the process whose number a pid file has is the one that the file is about.

A number outlives its process, and is another one's after that. So what counts is, in this order:

1. What the process itself says. A server of ours answers whether the file with this device and
   inode is its own. (It is found by its pid, and the kernel tells whose socket that is.) A stranger
   may wait for the number of a server that was killed, and lie: of a file that nobody has locked,
   only root's processes and those of the file's owner are believed.
2. The file's lock (see `_support.filelock`), where the process cannot be asked: it may be starting,
   stopped, or without a folder for its socket. A file that no process holds is nobody's.
3. Where the file has another writer, such as a script's `echo $! > app.pid` for a server that has
   no pid file itself, or where there are no locks: a file that is older than the process is about
   another one, and so is one that belongs neither to root nor to the user of the process. Anybody
   may write a number into a folder that is everybody's.
"""

from __future__ import annotations

import os
from contextlib import suppress

from endless_py._control.client import Client, Deadline, Failed, TimedOut, try_connect
from endless_py._supervisor.pidrecord import Record, is_alive, process_status

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

_PATIENCE = 2.0  # seconds that a server which starts gives the one that it asks
_SLACK = 2.0  # seconds by which the clocks of a file system and of the kernel may differ

# What a file can be to the process that it names.
OWNED = "owned"
STALE = "stale"  # the process does not own it
ALIVE = "alive"  # its owner lives, by the lock, and cannot be asked just now
UNKNOWN = "unknown"  # it cannot be asked, and there are no locks here
GONE = "gone"  # there is no such process


def judge(record: Record, deadline: Deadline) -> tuple[str, str]:
    """Return what the file is to the process of its number, and a sentence where it is not OWNED.

    Raises TimedOut when the process is a server that does not answer.
    """
    pid = record.pid
    assert pid is not None
    if not is_alive(pid):
        return GONE, f"there is no process {pid}"
    client = try_connect(pid, deadline)
    answer = None if client is None else _ask(client, record)
    if answer is None:
        return _unasked(record, pid)
    if answer["owns"]:
        user = _user(pid)
        if record.locked is not False or user in (None, 0, record.uid):
            return OWNED, ""
        return STALE, f"process {pid}, whose number it has, is user {user}'s and does not lock it"
    if answer["pid_file"] is not None:
        return STALE, f"process {pid}, whose number it has, is that of {answer['pid_file']}"
    why = _why_implausible(record, pid)
    return (STALE, why) if why else (OWNED, "")


def why_not_its(record: Record) -> str:
    """As `judge()`, for a server that is to write the file: "" where that must not be.

    The lock is enough here. A server that tries again and again must not wait for an answer.
    """
    if record.locked and not _why_implausible(record, record.pid or 0, by_time=False):
        return ""
    try:
        kind, why = judge(record, Deadline(_PATIENCE))
    except TimedOut:
        if record.locked is not False:
            return ""
        return f"process {record.pid}, whose number it has, does not answer and does not lock it"
    return "" if kind in (OWNED, ALIVE, UNKNOWN) else why


def _ask(client: Client, record: Record) -> Optional[dict[str, Any]]:
    """Return what the process says of the file; None when it has just ended."""
    with client:
        try:
            client.ask("owns", file=record.inode)
            return client.next()
        except Failed:  # it has an older version of this package
            return {"owns": False, "pid_file": None}


def _unasked(record: Record, pid: int) -> tuple[str, str]:
    absent = f"process {pid} does not serve with endless_py (or does not serve yet)"
    if record.locked is False:
        return STALE, absent
    # Who may write a file has its lock as well, and may name anybody in it.
    why = _why_implausible(record, pid, by_time=record.locked is None)
    if why:
        return STALE, why
    return (ALIVE if record.locked else UNKNOWN), absent


def _why_implausible(record: Record, pid: int, by_time: bool = True) -> str:
    """Return why the writer of this file cannot have meant this process, "" if that may be."""
    user = _user(pid)
    if user is not None and record.uid not in (0, user):
        return (
            f"user {record.uid}, who owns it, is neither root nor user {user}, whose process "
            f"{pid} it names"
        )
    started = _started(pid) if by_time else None
    if started is not None and record.written + _SLACK < started:
        return f"it is older than process {pid}, whose number it has"
    return ""


def _user(pid: int) -> Optional[int]:
    """Return the user of a process; None where the system does not tell."""
    with suppress(OSError):
        return os.stat(f"/proc/{pid}").st_uid
    return None


def _started(pid: int) -> Optional[float]:
    """Return when a process was started (time.time()); None where the system does not tell.

    An exec in place does not change that.
    """
    import time

    with suppress(OSError, ValueError, IndexError, AttributeError):
        ticks = int(process_status(pid)[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - age
    return None
