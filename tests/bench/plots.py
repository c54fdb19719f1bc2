"""Two pictures: what clients see while new code takes over, and the rates with their spread."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple, Optional, Sequence

from harness import TIMEOUT, free_port
from measure import (
    HERE,
    STANDARD,
    NotMeasured,
    Row,
    Settings,
    command,
    end_of,
    first_answer,
    gunicorn,
    start_client,
    wsgi_server,
)

BEFORE, AFTER = 1.0, 3.0  # seconds
COLOURS = {"old": "#1f77b4", "new": "#2ca02c"}


class Run(NamedTuple):
    """What one server's clients saw; moments are seconds after the order, times are seconds."""

    what: str
    samples: list[tuple[float, float, Optional[int]]]  # moment, time, pid (None: it failed)
    ready: Optional[float]
    old_gone: float


def _watch(settings: Settings, what: str, port: int, order) -> Run:
    """Ask every 2 ms, and give the order meanwhile; order(pid) gets that of who answers."""
    pid = first_answer(port)[1]
    gone = os.pidfd_open(pid)
    seconds = settings.pick(BEFORE + AFTER, 0.6)
    try:
        with start_client(settings, "every", port, seconds) as client:
            client.stdout.read(1)
            time.sleep(settings.pick(BEFORE, 0.2))
            moment = time.monotonic()
            order(pid)
            old_gone = end_of(gone) - moment
            out, _ = client.communicate(timeout=TIMEOUT)
    finally:
        os.close(gone)
    samples = [(start - moment, taken, found) for start, taken, found in json.loads(out)]
    ready = [start + taken for start, taken, found in samples if found not in (None, pid)]
    return Run(what, samples, min(ready, default=None), old_gone)


def _ours(settings: Settings) -> Run:
    with wsgi_server(settings, "endless_py") as port:
        return _watch(settings, "endless_py: HUP", port, lambda pid: os.kill(pid, signal.SIGHUP))


def _gunicorn(settings: Settings) -> Run:
    def hup(pid: int) -> None:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        os.kill(int(words[1]), signal.SIGHUP)  # its master

    with gunicorn(settings) as port:
        return _watch(settings, "gunicorn: HUP", port, hup)


def _restart(settings: Settings) -> Run:
    """The standard class, ended and started again, as a deploy without any help does it."""
    port, words = free_port(), command(STANDARD, "ThreadingHTTPServer")
    with contextlib.ExitStack() as stack:

        def start() -> None:
            process = subprocess.Popen(
                [*words, str(port)], stdout=subprocess.DEVNULL, env=settings.env(), cwd=HERE
            )
            stack.callback(process.wait, TIMEOUT)
            stack.callback(process.kill)

        def restart(pid: int) -> None:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
            start()

        start()
        return _watch(settings, "http.server: ended and started again", port, restart)


def reload_picture(settings: Settings, folder: Path) -> None:
    """Draw the latency of new connections over time, of three servers below each other."""
    runs = []
    for run in (_ours, _gunicorn, _restart):
        with contextlib.suppress(NotMeasured):
            runs.append(run(settings))
    figure, parts = _figure(len(runs))
    for run, axes in zip(runs, parts):
        first = next(pid for _, _, pid in run.samples if pid is not None)
        for name, chosen in (
            ("old", [s for s in run.samples if s[2] == first]),
            ("new", [s for s in run.samples if s[2] not in (None, first)]),
        ):
            points = [s[0] for s in chosen], [1000 * s[1] for s in chosen]
            axes.plot(*points, ".", markersize=3, label=f"{name} code", color=COLOURS[name])
        failed = [s for s in run.samples if s[2] is None]
        axes.plot([s[0] for s in failed], [0.3] * len(failed), "x", color="red", label="failed")
        for moment, label, style in (
            (0.0, "order", "-"),
            (run.ready, "new code answers", "--"),
            (run.old_gone, "old process gone", ":"),
        ):
            if moment is not None:
                axes.axvline(moment, color="black", linewidth=0.8, linestyle=style, label=label)
        axes.set_yscale("log")
        axes.set_ylim(0.2, 2000)
        axes.set_ylabel("ms")
        requests = f"{len(run.samples):,} requests, {len(failed)} failed"
        axes.set_title(f"{run.what}: {requests}", fontsize=10)
    parts[0].legend(loc="upper right", fontsize=7, ncol=3)
    parts[-1].set_xlabel("seconds after the order")
    figure.suptitle("New code takes over: time of each request, a new connection every 2 ms")
    _save(figure, folder, "reload")


def rate_picture(rows: Sequence[Row], folder: Path) -> None:
    """Draw the ratios of rates as bars, each with the smallest and the largest of its run."""
    rates = [
        row for row in rows if "/s, " in row.what and "processor" not in row.what and row.against
    ]
    found = []
    for row in rates:
        middle = re.match(r"([\d.]+) x ", row.measured)
        ends = re.match(r"([\d.]+) to ([\d.]+) x", row.spread)
        name = f"{row.what} | {row.against}".replace(", wrk -c16", "")
        if middle and ends:
            found.append((name, float(middle[1]), *map(float, ends.groups())))
    if not found:
        return
    figure, (axes,) = _figure(1, 0.28 * len(found) + 1.2)
    places = range(len(found), 0, -1)
    for place, (_, middle, least, most) in zip(places, found):
        axes.barh(place, middle, color=COLOURS["old"], height=0.6)
        axes.plot([least, most], [place, place], color="black", linewidth=1)
    axes.set_yticks(list(places))
    axes.set_yticklabels([name for name, *_ in found], fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("times the rate of what it is compared with; the line is the spread")
    figure.suptitle("Rates, in turn in one run")
    _save(figure, folder, "rates")


def _figure(count: int, height: Optional[float] = None):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (9, height or 2.3 * count + 0.6)
    figure, parts = pyplot.subplots(count, 1, figsize=size, sharex=True, squeeze=False)
    return figure, [part[0] for part in parts]


def _save(figure, folder: Path, name: str) -> None:
    figure.tight_layout()
    for kind in ("png", "svg"):
        figure.savefig(folder / f"{name}.{kind}", dpi=90, bbox_inches="tight")
