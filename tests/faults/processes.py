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


def _parent(pid: int) -> int:
    """Return the pid of a process's parent; 0: it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def leaders(program: Program) -> list[int]:
    """Return the program's processes that are not another one's workers, nor fork them for it."""
    pids = program.pids()
    return [pid for pid in pids if _parent(pid) not in (0, *pids)]


def team(leader: int, program: Program) -> tuple[int, list[int]]:
    """Return a leader's fork server (0: it has none) and the workers that this has forked."""
    pids = program.pids()
    forks = next((pid for pid in pids if _parent(pid) == leader), 0)
    return forks, [pid for pid in pids if forks and _parent(pid) == forks]


def wait_for_team(leader: int, program: Program) -> tuple[int, list[int]]:
    """Return the same once it has workers."""
    return wait_until(lambda: (found := team(leader, program))[1] and found, "workers")


def serving(program: Program, port: int, folder: Path) -> dict[str, Any]:
    """Return the state of the only generation that is left, once it serves; {} before.

    Its "pids" are all of its processes: its leader's, which is "pid", first, then the workers'.
    """
    program.process.poll()
    found = leaders(program)
    if len(found) != 1:
        return {}
    try:
        # Any of the processes serves the port, the leader alone the path.
        state, other = (json.loads(get(address, "/state")) for address in (folder / "socket", port))
    except Exception:
        return {}
    calm = state["phase"] == "serving" and not state["successor"] and not state["predecessors"]
    state["pids"] = [worker["pid"] for worker in state["workers"]] or [state["pid"]]
    whole = len(state["pids"]) == state["wanted"] and found == state["pids"][:1] == [state["pid"]]
    more = 1 if state["wanted"] > 1 else 0  # the fork server
    whole = whole and len(program.pids()) == state["wanted"] + more
    same = other["pid"] in state["pids"] and other["generation"] == state["generation"]
    return state if calm and whole and same else {}


def remote_sockets() -> set[str]:
    """Return the pids whose sockets for commands are there."""
    # Read in pieces, as that of connections.
    text = "".join(Path("/proc/net/unix").read_text() for _ in range(3))
    return set(re.findall(rf"/{folder_pattern()}/(\d+)\.sock$", text, re.M))
