"""A forking server that is given more new connections than the machine can fork for."""

from __future__ import annotations

import json
import time
from functools import partial
from itertools import chain
from typing import Optional

from harness import TIMEOUT
from measure import OURS, STANDARD, Row, Settings, ask, server, start_client, turns
from reloads import MS, p99

KIND = "ForkingHTTPServer"
RELOADS = 8
Seconds = Optional[float]  # that an answer took; None: there was none


def _crowd(settings: Settings, library: str, reloads: int) -> list[Seconds]:
    """What the clients of some seconds have seen, and as many reloads meanwhile."""
    seconds = 12 if not settings.quick else 0.2
    with server(settings, library, KIND) as (program, port):
        ask(port)
        with start_client(settings, "crowd", port, seconds) as client:
            client.stdout.readline()
            pid = program.pid
            for generation in range(1, reloads + 1):
                time.sleep(seconds / (reloads + 1))
                pid = program.reload(generation, pid)
            out, _ = client.communicate(timeout=seconds + 2 * TIMEOUT)
    found: list[Seconds] = json.loads(out)
    return found


def _say(runs: list[list[Seconds]]) -> tuple[float, float, str]:
    """The share of requests without an answer, the p99 (ms) of the others, and both in words."""
    found = [*chain(*runs)]
    answered = [MS * taken for taken in found if taken is not None]
    failed = 1 - len(answered) / len(found)
    tail = p99(answered) if answered else float("inf")
    return failed, tail, f"{failed:.1%} of {len(found):,} failed, p99 {tail:,.0f} ms"


def overload(settings: Settings) -> list[Row]:
    """Ours with and without reloads, which tells what forks cost from what reloads do."""
    reloads = settings.pick(RELOADS, 1)
    standard, still, reloaded = turns(
        settings.pick(2, 1),
        partial(_crowd, settings, STANDARD, 0),
        partial(_crowd, settings, OURS, 0),
        partial(_crowd, settings, OURS, reloads),
    )
    what = f"{KIND}, more new connections than it can fork for"
    base = _say(standard)
    rows = []
    for name, runs, has_goal in [
        (f"{what}, {reloads} reloads", reloaded, True),
        (f"{what}, no reload", still, False),
    ]:
        failed, tail, text = _say(runs)
        each = [_say([run])[0] for run in runs]
        rows.append(
            Row(
                name,
                "standard class, no reload",
                "no more failures, no larger p99" if has_goal else "",
                f"{text}; against {base[2]}",
                f"{min(each):.1%} to {max(each):.1%} failed",
                (failed <= base[0] and tail <= base[1]) if has_goal else None,
            )
        )
    return rows
