"""What idle kept connections cost: memory and threads, and new clients in a reload."""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial
from pathlib import Path
from typing import Optional

from measure import (
    APART,
    OURS,
    STANDARD,
    Row,
    Settings,
    ask,
    at_most,
    end_of,
    ratio_row,
    server,
    turns,
)
from reloads import FLOOR, connect, halves, hup, latencies, p99_row

THREADING, FORKING = "ThreadingHTTPServer", "ForkingHTTPServer"
REUSING = "reusing"


def _memory(pid: int) -> float:
    """Resident memory in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no memory is told")


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def _more(settings: Settings, library: str, count: int) -> float:
    """MB that so many idle connections take."""
    with contextlib.ExitStack() as stack:
        program, port = stack.enter_context(server(settings, library, THREADING))
        ask(port)
        before = _memory(program.pid)
        connect(count)(port, stack)
        return _memory(program.pid) - before


def _reload(settings: Settings, count: int) -> tuple[float, int, float]:
    """Seconds from HUP to the old process's end; threads and MB of the new one, before it is asked.

    Every client is then answered by the new one.
    """
    with contextlib.ExitStack() as stack:
        program, port = stack.enter_context(server(settings, REUSING, THREADING))
        clients = connect(count)(port, stack)
        gone = os.pidfd_open(program.pid)
        stack.callback(os.close, gone)
        start = time.monotonic()
        hup(program)
        migrated = end_of(gone) - start
        pid = ask(port)
        found = migrated, _threads(pid), _memory(pid)
        for client in clients:
            client.request("GET", "/")
            assert int(client.getresponse().read()) == pid
        return found


def _latency(
    settings: Settings, kind: str, count: int, goal: Optional[float], library: str = OURS
) -> Row:
    """New connections in the second after a HUP of a server that has idle ones."""
    what = f"p99 of new connections in the second after HUP, {kind}, {count} idle connections"
    if library != OURS:
        what += f"; {FLOOR}"
    runs = [latencies(settings, hup, kind, count, library) for _ in range(settings.pick(5, 1))]
    return p99_row(what, *halves(runs), goal)


def kept(settings: Settings) -> list[Row]:
    """Idle connections: their memory and threads, and what a reload with them costs others."""
    few, many = settings.pick(2000, 5), settings.pick(10000, 20)
    measures = [partial(_more, settings, kind, few) for kind in (STANDARD, OURS, REUSING)]
    standard, ours, reusing = turns(settings.pick(3, 1), *measures)
    what = f"memory of {few} idle connections"
    seconds, threads, memory = zip(*[_reload(settings, many) for _ in range(settings.pick(2, 1))])
    return [
        ratio_row(what, "standard class", ours, standard, None, " MB", True, 1),
        ratio_row(
            f"{what}; reuse_threads", "standard class", reusing, standard, 0.5, " MB", True, 1
        ),
        at_most(f"{many} idle connections, reuse_threads: threads", "-", threads, 100, "", 0),
        at_most(f"{many} idle connections, reuse_threads: memory", "-", memory, None, "MB"),
        at_most(
            f"{many} idle connections, reuse_threads: HUP to the old process's end",
            *("-", seconds, None, "s"),
        ),
        _latency(settings, FORKING, settings.pick(32, 2), 3),
        _latency(settings, THREADING, few, 2),
        _latency(settings, THREADING, few, None, APART),
    ]
