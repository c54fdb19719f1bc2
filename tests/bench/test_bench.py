"""Every benchmark runs and prints its rows; nothing here looks at a time."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from harness import ROOT

BENCH = ROOT / "tests" / "bench"
ROWS = {
    "keepalive": ["requests/s, keep-alive"],
    "connections": ["requests/s, a connection each"],
    "cores": ["2 ms of Python each, no GIL, two cores | one core", "two cores | standard class"],
    "wsgi": ["WSGI requests/s, keep-alive", "WSGI requests/s, a connection each"],
    "echo": [
        f"echoes/s, {prefix}{kind}Server"
        for prefix in ("Threading", "Forking", "")
        for kind in ("TCP", "UDP")
    ],
    "reload": ["HUP to first answer, difference", "in use by", "listeners", "idle connections"],
    "end": ["last handler's end"],
    "latency": ["p99 of new connections", "largest of new connections"],
    "kept": ["memory of 5 idle connections; reuse_threads", "20 idle connections", "5 idle"],
    "overload": ["can fork for, 1 reloads", "can fork for, no reload"],
    "workers": ["workers = 2 | workers = 1", "2 workers, 16 threads each", "each further worker"],
    "idle": ["system calls of an idle server"],
    "memory": ["memory of a fresh server"],
    "imports": ["import endless_py"],
}
NEEDS = {
    "keepalive": "wrk",
    "connections": "wrk",
    "cores": "wrk",
    "wsgi": "wrk",
    "workers": "wrk",
    "idle": "strace",
}
HAS_GIL = "import sys; print(getattr(sys, '_is_gil_enabled', lambda: True)())"


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_benchmark_prints_its_rows(name, tmp_path):
    file = tmp_path / "table.md"
    words = [sys.executable, str(BENCH), "--quick", "--only", name, "--output", str(file)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=170)
    assert done.stdout == file.read_text()
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    # Asked of a fresh interpreter: an extension may have turned it on in this one.
    has_gil = subprocess.run([sys.executable, "-c", HAS_GIL], stdout=subprocess.PIPE, text=True)
    if name == "cores" and has_gil.stdout.strip() == "True":
        assert len(rows) == 2, "rows about what needs two cores at once"  # those of the head
        return
    if "not measured: " in rows[-1] and name in NEEDS:
        return  # no wrk, no strace, no right to look at another process
    for row in ROWS[name]:
        assert any(row in line for line in rows), row


@pytest.mark.slow
def test_the_pictures_are_drawn(tmp_path):
    words = [sys.executable, str(BENCH), "--quick", "--only", "echo", "--plots", str(tmp_path)]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=True, timeout=170)
    if importlib.util.find_spec("matplotlib") is None:
        assert "no plots: python -m pip install 'endless-py[bench]'" in done.stderr
        return
    for name in ("reload", "rates"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (tmp_path / f"{name}.svg").read_text()


def test_the_list_here_is_whole():
    words = [sys.executable, str(BENCH), "--help"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=170)
    assert ", ".join(ROWS) in " ".join(done.stdout.split())


@pytest.mark.slow
def test_migration():
    words = [sys.executable, str(BENCH / "migration.py"), "--counts", "3,20", "--rounds", "2"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=170)
    head, *rows = [line.split() for line in done.stdout.splitlines()]
    assert head == ["connections", "median", "ms", "min", "max", "us/connection"]
    assert [row[0] for row in rows] == ["3", "20"]
    assert all(float(value) > 0 for row in rows for value in row)
