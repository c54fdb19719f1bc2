"""What a reload costs, and whom."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from functools import partial
from itertools import chain
from typing import Callable, Optional, Tuple

from harness import TIMEOUT, free_port
from measure import (
    APART,
    MINIMAL,
    OURS,
    STANDARD,
    Row,
    Settings,
    ask,
    at_most,
    command,
    differences,
    end_of,
    first_answer,
    ratio_row,
    ratios,
    server,
    spread,
    start_client,
    turns,
)

KIND = "ThreadingHTTPServer"
FLOOR = "the floor with a successor that is nobody's child"
MS = 1000.0


def _start(settings: Settings, count: int = 1, library: str = OURS) -> float:
    """Milliseconds from the start of the program to its first answer."""
    port = free_port()
    start = time.monotonic()
    words = command(library, KIND, port, count)
    with contextlib.ExitStack() as stack:
        said = stack.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=said, env=settings.env()
        )
        stack.callback(process.wait, TIMEOUT)
        stack.callback(process.kill)
        try:
            return MS * (first_answer(port)[0] - start)
        except AssertionError as error:
            said.seek(0)
            raise AssertionError(f"{error}; it said: {said.read().decode()}") from None


def _reload(
    settings: Settings,
    count: int = 1,
    prepare: Callable[[int, contextlib.ExitStack], object] = lambda port, stack: None,
    library: str = OURS,
) -> tuple[float, float]:
    """Milliseconds from HUP to the first answer by the successor, and to the incumbent's end."""
    with contextlib.ExitStack() as stack:
        program, port = stack.enter_context(server(settings, library, KIND, 0, count))
        if library == OURS:
            program.wait_serving(0, count)
        else:
            ask(port)
        prepare(port, stack)
        gone = os.pidfd_open(program.pid)
        stack.callback(os.close, gone)
        start = time.monotonic()
        os.kill(program.pid, signal.SIGHUP)
        answer, _ = first_answer(port, not_by=program.pid)
        return MS * (answer - start), MS * (end_of(gone) - start)


def connect(
    count: int,
) -> Callable[[int, contextlib.ExitStack], list[http.client.HTTPConnection]]:
    """Keep that many connections, each of which has had an answer."""

    def prepare(port: int, stack: contextlib.ExitStack) -> list[http.client.HTTPConnection]:
        clients = []
        for _ in range(count):
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
            stack.callback(client.close)
            client.request("GET", "/")
            client.getresponse().read()
            clients.append(client)
        return clients

    return prepare


def reload(settings: Settings) -> list[Row]:
    """From HUP to the first answer, less what a start of the same program takes.

    The floor is the least that a server of the standard library needs for a reload; the second one
    also starts its successor by a small interpreter, as ours does. What takes a lot of memory or
    threads comes after what does not.
    """
    megabytes, listeners, idle = (
        settings.pick(1024, 8),
        settings.pick(200, 3),
        settings.pick(2000, 5),
    )
    few = settings.pick(7, 1)
    start, small, bare_start, bare_hup, apart_hup = turns(
        settings.pick(21, 1),
        lambda: _start(settings),
        lambda: _reload(settings)[0],
        lambda: _start(settings, 1, MINIMAL),
        lambda: _reload(settings, library=MINIMAL)[0],
        lambda: _reload(settings, library=APART)[0],
    )
    start_many, many = turns(
        few, lambda: _start(settings, listeners), lambda: _reload(settings, listeners)[0]
    )
    without, memory = turns(
        few,
        lambda: _reload(settings)[0],
        lambda: _reload(settings, 1, lambda port, _: ask(port, f"/use?{megabytes}"))[0],
    )
    none, connected = turns(
        few, lambda: _reload(settings), lambda: _reload(settings, 1, connect(idle))
    )
    what, bare = "HUP to first answer", "start to first answer of the same program"
    more = differences(small, start)
    each = [(d - statistics.median(more)) / listeners for d in differences(many, start_many)]
    kept, gone = (
        [MS * d / idle for d in differences(with_them, without_them)]
        for with_them, without_them in zip(zip(*connected), zip(*none))
    )
    return [
        at_most(f"{what}, difference", bare, more, 5, "ms"),
        ratio_row(f"{what}, ratio", bare, small, start, 1.05, " ms", most=True, digits=1),
        at_most(
            f"{what}, difference; the floor", bare, differences(bare_hup, bare_start), None, "ms"
        ),
        ratio_row(
            f"{what}, ratio; the floor",
            bare,
            bare_hup,
            bare_start,
            None,
            " ms",
            most=True,
            digits=1,
        ),
        at_most(
            f"{what}, difference; {FLOOR}",
            bare,
            differences(apart_hup, bare_start),
            None,
            "ms",
        ),
        at_most(
            f"{what}, {megabytes} MB in use by the incumbent: more than without",
            "the small case",
            differences(memory, without),
            5,
            "ms",
        ),
        at_most(f"{what}, {listeners} listeners: more for each", bare, each, 0.2, "ms", 3),
        at_most(f"{what}, {idle} idle connections: more for each", "no connection", kept, 50, "us"),
        at_most(
            f"HUP to the old process's end, {idle} idle connections: more for each",
            "no connection",
            gone,
            None,
            "us",
        ),
    ]


def _last_handler(settings: Settings, library: str) -> float:
    """Milliseconds from the end of a connection to the end of the process that had it."""
    with server(settings, library, KIND, 0, 1 if library == OURS else 0) as (program, port):
        gone = os.pidfd_open(program.pid)
        try:
            with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
                client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 1\r\nConnection: close\r\n\r\n")
                if library == OURS:
                    ask(port)  # after this one the other is active
                    os.kill(program.pid, signal.SIGHUP)
                    program.wait("finishing ")
                    first_answer(port, not_by=program.pid)
                client.sendall(b"x")
                while client.recv(4096):
                    pass
                start = time.monotonic()
            return MS * (end_of(gone) - start)
        finally:
            os.close(gone)


def end(settings: Settings) -> list[Row]:
    """From the last handler's end to the end of the old process."""
    ours, bare = turns(
        settings.pick(15, 1),
        lambda: _last_handler(settings, OURS),
        lambda: _last_handler(settings, STANDARD),
    )
    what = "last handler's end to old process gone"
    return [
        at_most(
            f"{what}, difference", "exit of a standard program", differences(ours, bare), 5, "ms"
        ),
        at_most(f"{what}, in all", "-", ours, None, "ms"),
    ]


Sample = Tuple[float, float, int]  # moment after the event (s), latency (ms), pid


def latencies(
    settings: Settings,
    event: Callable[[object], object],
    kind: str = KIND,
    idle: int = 0,
    library: str = OURS,
) -> list[Sample]:
    """New connections before and after something happens to the server, which has idle ones."""
    before, after = (1.0, 2.0) if not settings.quick else (0.2, 0.5)
    samples: list[Sample] = []
    while {0 <= moment < 1 for moment, _, _ in samples} != {True, False}:  # else it had no turn
        with contextlib.ExitStack() as stack:
            program, port = stack.enter_context(server(settings, library, kind))
            connect(idle)(port, stack)
            ask(port)
            with start_client(settings, "latency", port, before + after) as client:
                client.stdout.read(1)
                time.sleep(before)
                moment = time.monotonic()
                event(program)
                out, _ = client.communicate(timeout=TIMEOUT)
        samples = [(start - moment, MS * taken, pid) for start, taken, pid in json.loads(out)]
    return samples


def hup(program) -> None:
    os.kill(program.pid, signal.SIGHUP)


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def halves(runs: list[list[Sample]]) -> tuple[list[list[float]], list[list[float]]]:
    """The latencies of each run in the second after the event, and all others."""
    inside = [[taken for moment, taken, _ in run if 0 <= moment < 1] for run in runs]
    outside = [[taken for moment, taken, _ in run if not 0 <= moment < 1] for run in runs]
    return inside, outside


def p99_row(
    what: str, inside: list[list[float]], outside: list[list[float]], goal: Optional[float]
) -> Row:
    """A row about the p99 of all runs together; the spread is that of each."""
    pooled = p99([*chain(*inside)]), p99([*chain(*outside)])
    ratio = pooled[0] / pooled[1]
    return Row(
        what,
        "outside reloads",
        f"at most {goal:g} x" if goal else "",
        f"{ratio:.2f} x ({pooled[0]:.2f} against {pooled[1]:.2f} ms)",
        spread(ratios([p99(i) for i in inside], [p99(o) for o in outside]), " x"),
        ratio <= goal if goal else None,
    )


def latency(settings: Settings) -> list[Row]:
    """New connections in the second after HUP.

    The floor is that of a program that merely reloads, of which nobody's child is the successor;
    and the start of any program beside this one shows what the machine does to it.
    """

    def beside(program) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(server(settings, OURS, KIND))

    turns_ = settings.pick(8, 1)
    kinds = [
        ("in the second after HUP", partial(latencies, settings, hup)),
        (f"the same; {FLOOR}", partial(latencies, settings, hup, library=APART)),
        ("in the second after the start of a program", partial(latencies, settings, beside)),
    ]
    runs = {what: values for (what, _), values in zip(kinds, turns(turns_, *(m for _, m in kinds)))}
    rows = []
    for what, _ in kinds:
        inside, outside = halves(runs[what])
        goal = 1.5 if what == kinds[0][0] else None
        rows.append(p99_row(f"p99 of new connections, {what}", inside, outside, goal))
        most = [max(i) for i in inside], [max(o) for o in outside]
        rows.append(
            ratio_row(
                f"largest of new connections, {what}",
                "outside reloads",
                *most,
                None,
                " ms",
                digits=1,
            )
        )
    return rows
