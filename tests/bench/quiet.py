"""What a server costs that does nothing: system calls, memory, imports."""

from __future__ import annotations

import contextlib
import re
import signal
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from harness import ROOT, TIMEOUT
from measure import (
    MINIMAL,
    OURS,
    STANDARD,
    NotMeasured,
    Row,
    Settings,
    ask,
    at_most,
    differences,
    ratio_row,
    server,
    tool,
    turns,
)

KIND = "ThreadingHTTPServer"


@contextlib.contextmanager
def _traced(pid: int, file: Path):
    words = [tool("strace"), "-f", "-o", str(file), "-p", str(pid)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            if "attached" not in line:
                raise NotMeasured(f"strace may not look: {line.strip()}")
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=TIMEOUT)


def idle(settings: Settings) -> list[Row]:
    """System calls of an idle server in ten seconds."""
    seconds = settings.pick(10, 1)
    counts = []
    with contextlib.ExitStack() as stack:
        traces = []
        for library in (OURS, STANDARD):
            program, port = stack.enter_context(server(settings, library, KIND))
            ask(port)
            traces.append(Path(settings.caches) / f"{library}.strace")
            # The handler's thread ends a moment after its answer.
            tasks, deadline = Path(f"/proc/{program.pid}/task"), time.monotonic() + TIMEOUT
            while len(list(tasks.iterdir())) > 1 and time.monotonic() < deadline:
                time.sleep(0.001)
            stack.enter_context(_traced(program.pid, traces[-1]))
        time.sleep(seconds)
        counts = [len(re.findall(r"\) += ", trace.read_text())) for trace in traces]
    return [
        Row(
            f"system calls of an idle server in {seconds} s",
            f"standard class: {counts[1]}",
            "0",
            str(counts[0]),
            "",
            counts[0] == 0,
        )
    ]


def _resident(settings: Settings, library: str) -> float:
    """Resident memory in MB after the first answer."""
    with server(settings, library, KIND) as (program, port):
        ask(port)
        text = Path(f"/proc/{program.pid}/smaps_rollup").read_text()
    return int(re.search(r"^Rss: +(\d+) kB", text, re.M)[1]) / 1024


def memory(settings: Settings) -> list[Row]:
    """Resident memory of a fresh server.

    The floor is the least that reloads at HUP; and a standard server that has merely imported ours
    as well shows how much of it is code.
    """
    libraries = (OURS, STANDARD, MINIMAL, "imported")
    ours, standard, floor, code = turns(
        settings.pick(7, 1), *(partial(_resident, settings, library) for library in libraries)
    )
    what = "memory of a fresh server, more"
    against = f"standard class: {statistics.median(standard):.1f} MB"
    return [
        at_most(what, against, differences(ours, standard), 1, "MB", 2),
        at_most(f"{what}; the floor", against, differences(floor, standard), None, "MB", 2),
        at_most(f"{what}; ours only imported", against, differences(code, standard), None, "MB", 2),
    ]


def _import(settings: Settings, name: str) -> float:
    """Milliseconds that an import takes in a fresh interpreter."""
    code = f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=settings.env(),
        cwd=ROOT,
        timeout=TIMEOUT,
        check=True,
    )
    return 1000 * float(done.stdout)


def imports(settings: Settings) -> list[Row]:
    """Time of `import endless_py`, and of the module that has the HTTP servers."""
    names = ("endless_py", "http.server", "endless_py.http.server")
    for name in names:
        _import(settings, name)  # compiles
    measures = [partial(_import, settings, name) for name in names]
    ours, standard, http = turns(settings.pick(41, 1), *measures)
    return [
        ratio_row(f"import {name}", "import http.server", values, standard, 1.15, " ms", True, 1)
        for name, values in [("endless_py", ours), ("endless_py.http.server", http)]
    ]
