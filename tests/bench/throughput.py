"""Requests and echoes per second, against what people use instead."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Callable, Optional

from burn import turns_in
from harness import TIMEOUT
from measure import (
    OURS,
    STANDARD,
    NotMeasured,
    Row,
    Settings,
    gunicorn,
    ratio_row,
    run_client,
    server,
    tool,
    turns,
    wsgi_server,
)

ECHOES = [
    *("ThreadingTCPServer", "ForkingTCPServer", "TCPServer"),
    *("ThreadingUDPServer", "ForkingUDPServer", "UDPServer"),
]
WSGI = {"gunicorn, gthread": 1.5, "waitress": 1.0, "uWSGI": None}  # how much faster ours is to be
# By what a class's name begins with: what else is measured, its name in the table, its goal.
EXTRAS = {
    "Forking": ("imported", "the standard class with ours imported", None),
    "Threading": ("reusing", "reuse_threads", 1.1),
}


def wrk(port: int, seconds: int, *more: str, path: str = "/") -> float:
    """Requests per second of 16 clients."""
    words = [tool("wrk"), "-t1", "-c16", f"-d{seconds}s", *more, f"http://127.0.0.1:{port}{path}"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=True)
    wrong = re.search(r"Non-2xx.*: (\d+)", done.stdout)
    rate = re.search(r"Requests/sec: +([\d.]+)", done.stdout)
    if wrong or rate is None:
        raise AssertionError(f"wrk saw wrong answers:\n{done.stdout}")
    return float(rate[1])


def _processor(pid: int) -> float:
    """Seconds of processor time of a process so far, with those of its children that it reaped."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


class _Load:
    """One server under load: how much it answers in a second, and what an answer costs it."""

    def __init__(self, pid: int, seconds: float, rate: Callable[[], float]) -> None:
        self._pid, self._seconds, self._rate = pid, seconds, rate
        self.costs: list[float] = []

    def __call__(self) -> float:
        before = _processor(self._pid)
        rate = self._rate()
        spent = _processor(self._pid) - before
        self.costs.append(1e6 * spent / max(1.0, rate * self._seconds))
        return rate


def _cost_row(
    what: str,
    load: _Load,
    other: _Load,
    against: str = "standard class",
    goal: Optional[float] = None,
) -> Row:
    """What does not depend on who else uses the machine."""
    what = f"{what}: the server's processor time for each"
    return ratio_row(what, against, load.costs, other.costs, goal, " us", most=True)


def _requests(settings: Settings, what: str, reusing: float, cost: float, *more: str) -> list[Row]:
    """Rows of requests; the goals are the least rate of `reuse_threads` and the most cost."""
    with contextlib.ExitStack() as stack:
        seconds = settings.pick(2, 1)

        def load(library: str) -> _Load:
            program, port = stack.enter_context(server(settings, library, "ThreadingHTTPServer"))
            return _Load(program.pid, seconds, partial(wrk, port, seconds, *more))

        names = [OURS, "reusing", "nodelay", "waiting", "pooled", STANDARD]
        loads = {name: load(name) for name in names}
        rates = dict(zip(names, turns(settings.pick(7, 1), *loads.values())))
    fair, rows = "standard class with TCP_NODELAY", []
    for name, label, least, most in (
        (OURS, "", 1.0, cost),
        ("reusing", "; reuse_threads", reusing, None),
        ("waiting", "; the floor", None, None),
        ("pooled", "; a pool of threads, the floor of reuse_threads", None, None),
    ):
        named = f"{what}{label}"
        rows.append(ratio_row(named, fair, rates[name], rates["nodelay"], least))
        rows.append(_cost_row(named, loads[name], loads["nodelay"], fair, most))
    rows.append(ratio_row(what, "standard class", rates[OURS], rates[STANDARD], None))
    return rows


def keepalive(settings: Settings) -> list[Row]:
    """Requests on 16 kept connections.

    The floor is the standard class that sets TCP_NODELAY and waits for its client and for one
    thing more, as a connection must that may have to migrate.
    """
    return _requests(settings, "requests/s, keep-alive, wrk -c16", 1.0, 1.05)


def connections(settings: Settings) -> list[Row]:
    """Requests on a connection each, 16 at a time; the floor is as for kept ones."""
    close = ("-H", "Connection: close")
    return _requests(settings, "requests/s, a connection each, wrk -c16", 1.8, 1.0, *close)


def cores(settings: Settings) -> list[Row]:
    """Requests whose handler computes for 2 ms, on two cores and on one.

    Nothing where the interpreter has a GIL: there the second core is of no use.
    """
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return []
    one, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise NotMeasured("a machine with two cores")
    two = {one, others[0]}
    path, seconds = f"/burn?{turns_in(0.002)}", settings.pick(3, 1)
    with contextlib.ExitStack() as stack:
        loads = []
        for library in (OURS, STANDARD):
            for those in (two, {one}):
                program, port = stack.enter_context(
                    server(settings, library, "ThreadingHTTPServer")
                )
                os.sched_setaffinity(program.pid, those)  # its threads will have it from the first
                rate = partial(wrk, port, seconds, "-H", "Connection: close", path=path)
                loads.append(_Load(program.pid, seconds, rate))
        ours, ours_on_one, standard, standard_on_one = turns(settings.pick(7, 1), *loads)
    what = "requests/s, 2 ms of Python each, no GIL, two cores"
    return [
        ratio_row(what, "one core", ours, ours_on_one, 1.8),
        ratio_row(f"{what}; the standard class", "one core", standard, standard_on_one, None),
        ratio_row(what, "standard class", ours, standard, 1),
        # Twice as much for each, and the second core would be of no use.
        _cost_row(what, loads[0], loads[1], "one core"),
        _cost_row(f"{what}; the standard class", loads[2], loads[3], "one core"),
        _cost_row(what, loads[0], loads[2]),
    ]


def wsgi(settings: Settings) -> list[Row]:
    """`python -m endless_py wsgi` and other servers of the same application, 16 threads each."""
    rows, seconds = [], settings.pick(2, 1)
    with contextlib.ExitStack() as stack:
        ports = {"ours": stack.enter_context(wsgi_server(settings, "endless_py"))}
        missing = {}
        for name in WSGI:
            try:
                server = gunicorn(settings) if "gunicorn" in name else wsgi_server(settings, name)
                ports[name] = stack.enter_context(server)
            except NotMeasured as error:
                missing[name] = str(error)
        for kind, more in (
            ("keep-alive", ()),
            ("a connection each", ("-H", "Connection: close")),
        ):
            what = f"WSGI requests/s, {kind}, wrk -c16"
            measures = [partial(wrk, port, seconds, *more) for port in ports.values()]
            found = dict(zip(ports, turns(settings.pick(5, 1), *measures)))
            for name, goal in WSGI.items():
                if name in found:
                    rows.append(ratio_row(what, name, found["ours"], found[name], goal))
                else:
                    least = f"at least {goal:g} x" if goal else ""
                    rows.append(Row(what, name, least, missing[name], ""))
    return rows


def echo(settings: Settings) -> list[Row]:
    """Lines and datagrams that come back, four under way; a connection for each line.

    The floor is the standard class that merely knows which handlers are active.
    """
    rows = []
    for name in ECHOES:
        kind = "udp" if "UDP" in name else "tcp"
        seconds = 1.0 if not settings.quick else 0.1
        with contextlib.ExitStack() as stack:
            loads = []
            more = [EXTRAS[prefix] for prefix in EXTRAS if name.startswith(prefix)]
            for library in [OURS, STANDARD, "counting", *(library for library, _, _ in more)]:
                program, port = stack.enter_context(server(settings, library, name))
                rate = partial(run_client, settings, kind, port, seconds)
                loads.append(_Load(program.pid, seconds, rate))
            ours, standard, floor, *others = turns(settings.pick(5, 1), *loads)
        what = f"echoes/s, {name}"
        least = 0.9 if "Forking" in name else 1.0
        rows.append(ratio_row(what, "standard class", ours, standard, least))
        rows.append(ratio_row(f"{what}; the floor", "standard class", floor, standard, None))
        for values, (_, label, goal) in zip(others, more):
            rows.append(ratio_row(f"{what}; {label}", "standard class", values, standard, goal))
        rows.append(_cost_row(what, loads[0], loads[1]))
        rows.append(_cost_row(f"{what}; the floor", loads[2], loads[1]))
    return rows
