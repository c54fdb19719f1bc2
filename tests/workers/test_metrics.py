"""/metrics of any worker tells what all of them have counted, and so does the page's recipe.

It is started as the page says:

PROMETHEUS_MULTIPROC_DIR=/run/shop python3 metrics.py
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from harness import Program, connect, environment, free_port, get, until
from prometheus_client.parser import text_string_to_metric_families

RECIPE = Path(__file__).parent.parent / "examples" / "metrics.py"


def samples(port):
    """Return the numbers of /metrics by name; of one with labels their sum."""
    found = {}
    for family in text_string_to_metric_families(get(port, "/metrics")):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def served(program, where):
    """Wait until the first generation serves; return its leader, and the port that is not where."""
    line = rf"\[(\d+)\] generation 0: serves tcp 127\.0\.0\.1:(?!{where};)(\d+); "
    found = program.wait(line)
    return int(found[1]), int(found[2])


@pytest.fixture
def recipe(tmp_path):
    where = free_port()
    text = RECIPE.read_text().replace("9100", str(where)).replace("8000", "0")
    (tmp_path / "metrics.py").write_text(text.replace("10000", "40"))
    env = environment(PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "shop"))
    words = [sys.executable, "metrics.py"]
    with Program(command=words, cwd=tmp_path, env=env) as program:
        yield program, where, tmp_path / "shop"


def test_each_process_tells_for_all_through_replacements_and_reloads(recipe):
    program, where, folder = recipe
    _, port = served(program, where)
    asked, last = 0, 0
    while "started generation 2" not in program.text or "takes its place" not in program.text:
        for _ in range(10):
            assert get(port) == "hello\n"
        asked += 10
        found = samples(port)
        assert found["shop_orders_total"] == asked
        assert found["endless_py_requests_total"] >= max(asked, last)
        last = found["endless_py_requests_total"]
    until(lambda: program.process.poll() is not None and len(program.pids()) == 4)
    until(lambda: samples(where)["shop_orders_total"] == asked)
    assert samples(where)["shop_at_work"] == 0
    (pid,) = re.findall(r"\[(\d+)\] generation \d+: serves ", program.text)[-1:]

    def tidy():
        gauges = {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db")}
        return gauges <= set(program.pids())

    until(tidy)
    os.kill(int(pid), signal.SIGTERM)
    program.wait_alone(None)
    assert "Traceback" not in program.text


def test_a_killed_worker_leaves_no_gauge(recipe, tmp_path):
    program, where, folder = recipe
    leader, port = served(program, where)
    for _ in range(12):
        get(port)
    (victim, *_) = [
        int(path.stem.rpartition("_")[2])
        for path in folder.glob("gauge_live*.db")
        if path.stem.rpartition("_")[2] != str(leader)
    ]
    os.kill(victim, signal.SIGKILL)
    program.wait(rf"lost worker \d \(pid {victim}\)")
    until(lambda: not list(folder.glob(f"gauge_live*_{victim}.db")))
    assert list(folder.glob(f"counter_{victim}.db"))
    assert samples(where)["shop_orders_total"] == 12
    os.kill(leader, signal.SIGTERM)
    program.wait_alone(None)


def test_a_new_start_counts_from_0(recipe, tmp_path):
    program, where, folder = recipe
    leader, port = served(program, where)
    get(port)
    os.kill(leader, signal.SIGTERM)
    program.wait_alone(None)
    assert list(folder.glob("counter_*.db"))
    env = environment(PROMETHEUS_MULTIPROC_DIR=str(folder))
    words = [sys.executable, "metrics.py"]
    with Program(command=words, cwd=tmp_path, env=env) as again:
        leader, port = served(again, where)
        get(port)
        until(lambda: samples(where)["shop_orders_total"] == 1)
        again.stop(leader)


def test_the_connections_of_all_are_counted():
    """The leader, asked at its listener for health checks, tells of its workers' too."""
    where = free_port()
    env = environment(ENDLESS_PY_WORKERS="3", ENDLESS_PY_HEALTH=f"127.0.0.1:{where}")
    with Program("http_server.py", "ThreadingHTTPServer", 0, env=env) as program:
        leader, port = served(program, where)
        kept = []
        pids = set()
        while len(pids) < 3:  # which of them accepts is the kernel's choice
            kept.append(connect(port))
            kept[-1].request("GET", "/")
            pids.add(kept[-1].getresponse().read().split()[1])

        def idle():
            found = re.findall(r'^endless_py_connections_idle\{.*:(\d+)"\} (\d+)$', page(), re.M)
            return dict(found).get(str(port))

        def page():
            return get(where, "/metrics")

        until(lambda: idle() == str(len(kept)))
        for connection in kept:
            connection.close()
        until(lambda: idle() == "0")
        program.stop(leader)
