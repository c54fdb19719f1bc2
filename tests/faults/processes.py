"""What can be seen of a process from outside, and what can be done to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable

from harness import TIMEOUT, Program, get

from endless_py._control.socket import folder_pattern


def wait_until(condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
    """Wait for a state that nothing announces; return what the condition returned."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout:g} s")
        time.sleep(0.005)


def _states(pid: int) -> set[str]:
    """Return the letters of the states that a process's threads are in; none: it is gone."""
    found = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread has just ended
                found.add((task / "stat").read_text().rpartition(")")[2].split()[0])
    return found


def has_ended(pid: int) -> bool:
    return _states(pid) <= {"Z", "X"}


def rests(pid: int) -> bool:
    """Whether a process did nothing at all for a moment; a loop that spins is never seen to."""

    def used() -> dict[str, str]:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return {task.name: (task / "schedstat").read_text().split()[0] for task in tasks}

    with contextlib.suppress(FileNotFoundError):  # a thread has just ended
        before = used()
        time.sleep(0.05)
        return used() == before
    return False


def wait_stopped(pid: int) -> bool:
    """Wait until a process has been stopped by a signal, all threads of it; False: it has ended."""
    wait_until(lambda: _states(pid) <= {"T"} or has_ended(pid), f"{pid} stops")
    return not has_ended(pid)


def connections(pid: int, port: int) -> set[int]:
    """Return the clients' ports of the connections to `port` that a process has accepted."""
    inodes = set()
    for descriptor in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(descriptor.path))
    found = set()
    # The table is read in pieces; what moves in it meanwhile may be missing from one reading.
    lines = [s for _ in range(3) for s in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    for line in lines:
        words = line.split()
        local, remote = (int(words[i].partition(":")[2], 16) for i in (1, 2))
        # The listener's own line has no client: 0.
        if local == port and remote and f"socket:[{words[9]}]" in inodes:
            found.add(remote)
    return found


def kill(pid: int, port: int) -> set[int]:
    """SIGKILL a process; return the connections that it had at that moment, none if it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    if not wait_stopped(pid):
        return set()
    handled = connections(pid, port)
    os.kill(pid, signal.SIGKILL)
    return handled


def descriptors(pid: int) -> list[str]:
    """Return the kinds of a process's open descriptors, sorted."""
    found = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            name = os.readlink(entry.path).partition(":")[0]
            # A pid file that was linked under its name is known to the kernel by its former one.
            found.append(re.sub(r"/\.pid\.[^/]* \(deleted\)$", "/pid", name))
    return sorted(found)


def surplus(pid: int, normal: list[str]) -> Counter[str]:
    """Return what a process has open beyond what is normal.

    It may have less: on a busy machine the look that found what is normal may have caught what
    was about to be closed.
    """
    return Counter(descriptors(pid)) - Counter(normal)


def lasting_surplus(pid: int, normal: list[str]) -> dict[str, int]:
    """Return the same once ten seconds have not taken it away; empty as soon as nothing is left."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not surplus(pid, normal), "only the usual descriptors", 10)
    return dict(surplus(pid, normal))


def memory(pid: int) -> tuple[int, int]:
    """Return a process's proportional and resident memory, in KiB."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0])
    return found["Pss"], found["Rss"]


def limit(pid: int, kind: int, value: int) -> None:
    """Set a process's soft limit."""
    hard = resource.prlimit(pid, kind)[1]
    resource.prlimit(pid, kind, (value if hard < 0 else min(value, hard), hard))


def lift_limits(pids: list[int]) -> None:
    for pid in pids:
        for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
            with contextlib.suppress(OSError):
                hard = resource.prlimit(pid, kind)[1]
                resource.prlimit(pid, kind, (hard, hard))


def serving(program: Program, port: int, folder: Path) -> dict[str, Any]:
    """Return the state of the only process that is left, once it serves; {} before."""
    program.process.poll()
    pids = program.pids()
    if len(pids) != 1:
        return {}
    try:
        states = [json.loads(get(address, "/state")) for address in (port, folder / "socket")]
    except Exception:
        return {}
    state = states[0]
    calm = state["phase"] == "serving" and not state["successor"] and not state["predecessors"]
    return state if calm and all(s["pid"] == pids[0] for s in states) else {}


def remote_sockets() -> set[str]:
    """Return the pids whose sockets for commands are there."""
    text = Path("/proc/net/unix").read_text()
    return set(re.findall(rf"/{folder_pattern()}/(\d+)\.sock$", text, re.M))
