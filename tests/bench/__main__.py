"""python tests/bench: every benchmark, as a table in Markdown; about ten minutes on two cores.

Each ratio is measured side by side in one run: the two in turn, the median of the pairs'
ratios, and the smallest and largest of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import kept
import overload
import plots
import quiet
import reloads
import throughput
import workers
from measure import HEAD, NotMeasured, Row, Settings

BENCHMARKS = {
    function.__name__: function
    for function in [
        *(throughput.keepalive, throughput.connections, throughput.cores),
        *(throughput.wsgi, throughput.echo),
        *(reloads.reload, reloads.end, reloads.latency),
        *(kept.kept, overload.overload, workers.workers),
        *(quiet.idle, quiet.memory, quiet.imports),
    ]
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python tests/bench", description=__doc__.partition("\n\n")[0]
    )
    names = ", ".join(BENCHMARKS)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, metavar="NAME", help=names)
    parser.add_argument("--quick", action="store_true", help="tiny numbers that mean nothing")
    parser.add_argument("--output", metavar="FILE", help="write the table there, too")
    parser.add_argument("--plots", metavar="FOLDER", type=Path, help="draw plots (PNG, SVG) there")
    options = parser.parse_args()
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)
        if importlib.util.find_spec("matplotlib") is None:
            print("no plots: python -m pip install 'endless-py[bench]'", file=sys.stderr)
            options.plots = None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # no server is left behind
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for 10,000 connections
    start = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as caches:
        settings = Settings(options.quick, caches)
        for name in options.only or BENCHMARKS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                rows += BENCHMARKS[name](settings)
            except NotMeasured as error:
                rows.append(Row(name, "", "", f"not measured: {error}", ""))
        if options.plots is not None:
            plots.reload_picture(settings, options.plots)
            plots.rate_picture(rows, options.plots)
    machine = (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; "
        f"{time.monotonic() - start:.0f} s in all."
    )
    text = "\n".join([machine, "", HEAD, *(row.markdown() for row in rows)]) + "\n"
    print(text, end="")
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
