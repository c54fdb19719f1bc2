"""Several processes of one generation: what they answer, and the memory of each further one."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from burn import turns_in
from harness import TIMEOUT, Program, free_port
from measure import (
    HERE,
    OURS,
    NotMeasured,
    Row,
    Settings,
    command,
    differences,
    first_answer,
    gunicorn,
    ratio_row,
    spread,
    tool,
    turns,
)
from throughput import wrk

KIND = "ThreadingHTTPServer"
KINDS = (("keep-alive", ()), ("a connection each", ("-H", "Connection: close")))


@contextlib.contextmanager
def _ours(settings: Settings, count: int):
    env = {**settings.env(), "ENDLESS_PY_WORKERS": str(count)}
    with Program(command=command(OURS, KIND), env=env) as program:
        yield program, int(program.wait(r"^port (\d+)$")[1])


@contextlib.contextmanager
def _wsgi(settings: Settings, count: int):
    port = free_port()
    words = [sys.executable, "-m", "endless_py", "wsgi", "--threads", "16", "-w", str(count)]
    words += ["-b", f"127.0.0.1:{port}", "application:application"]
    with Program(command=words, cwd=HERE, env=settings.env()) as program:
        first_answer(port)
        yield program, port


def _late(port: int, seconds: int, path: str, *more: str) -> float:
    """The 99th percentile of the times of 16 clients, in milliseconds."""
    words = [tool("wrk"), "-t1", "-c16", f"-d{seconds}s", "--latency", *more]
    words += [f"http://127.0.0.1:{port}{path}"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=True)
    number, unit = re.search(r"99% +([\d.]+)(us|ms|s)", done.stdout).groups()
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def _memory(pids: list[int]) -> float:
    """What these processes use, in megabytes; what they share is counted once."""
    found = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found += int(re.search(r"^Pss: +(\d+)", text, re.M)[1])
    return found / 1024


def _further(settings: Settings, start) -> list[float]:
    """Megabytes of each worker more than one, once all have answered."""
    found = []
    for _ in range(settings.pick(5, 1)):
        used = []
        for count in (2, 4):
            with start(count) as (program, port):
                for _ in range(200):
                    with contextlib.suppress(ConnectionError):
                        first_answer(port)
                time.sleep(0.3)
                used.append(_memory(program.pids()))
        found.append((used[1] - used[0]) / 2)
    return found


def workers(settings: Settings) -> list[Row]:
    """Requests whose handler computes for 2 ms, by several processes; and memory."""
    if len(os.sched_getaffinity(0)) < 2:
        raise NotMeasured("a machine with two cores")
    path, seconds = f"/burn?{turns_in(0.002)}", settings.pick(3, 1)
    rows, rounds = [], settings.pick(5, 1)
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(_ours(settings, count))[1] for count in (1, 2, 4)]
        for kind, more in KINDS:
            rates = [partial(wrk, port, seconds, *more, path=path) for port in ports]
            one, two, four = turns(rounds, *rates)
            what = f"requests/s, 2 ms of Python each, {kind}, workers = 2"
            rows.append(ratio_row(what, "workers = 1", two, one, 1.9))
            rows.append(ratio_row(what.replace("= 2", "= 4"), "workers = 1", four, one, None))
    try:
        return rows + _beside_gunicorn(settings, path)
    except NotMeasured as error:
        return [*rows, Row("WSGI, 2 workers", "gunicorn", "", f"not measured: {error}", "")]


def _beside_gunicorn(settings: Settings, path: str) -> list[Row]:
    rows: list[Row] = []
    seconds, rounds = settings.pick(3, 1), settings.pick(5, 1)
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(gunicorn(settings, 2))
        ours = stack.enter_context(_wsgi(settings, 2))[1]
        for kind, more in KINDS:
            rates = [partial(wrk, port, seconds, *more, path=path) for port in (ours, other)]
            found = turns(rounds, *rates)
            what = f"WSGI requests/s, 2 ms of Python each, {kind}, 2 workers, 16 threads each"
            rows.append(ratio_row(what, "gunicorn, gthread, the same", *found, 1.0))
            late = [partial(_late, port, seconds, path, *more) for port in (ours, other)]
            found = turns(rounds, *late)
            what = what.replace("requests/s", "p99")
            rows.append(
                ratio_row(what, "gunicorn, gthread, the same", *found, None, " ms", digits=1)
            )
    mine = _further(settings, partial(_wsgi, settings))
    theirs = _further(settings, partial(_gunicorn, settings))
    what = "memory of each further worker, WSGI (Pss)"
    numbers = f"{statistics.median(mine):.1f} MB against {statistics.median(theirs):.1f} MB"
    more = differences(mine, theirs)
    rows.append(Row(what, "gunicorn --preload", "", numbers, spread(more, " MB", 1)))
    return rows


@contextlib.contextmanager
def _gunicorn(settings: Settings, count: int):
    port = free_port()
    words = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--preload"]
    words += ["--workers", str(count), "--threads", "16", "--bind", f"127.0.0.1:{port}"]
    with Program(
        command=[*words, "application:application"], cwd=HERE, env=settings.env()
    ) as program:
        program.wait("Booting worker")
        first_answer(port)
        yield program, port
