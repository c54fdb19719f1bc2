"""Health checks and metrics: on a listener of their own, in a program's handler, over WSGI."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from custom_code import custom
from harness import TIMEOUT, Load, Program, environment, first, free_port, get, until
from prometheus_client.parser import text_string_to_metric_families

import endless_py
from endless_py import ThreadingHTTPServer, health
from endless_py._reload import health as pages
from endless_py._reload import process
from endless_py._reload.machine import State
from endless_py._reload.settings import parse_address


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metrics(text: str) -> dict[str, float]:
    """Return the samples of a text, by name and labels, as prometheus_client reads them."""
    return {
        sample.name + json.dumps(sample.labels, sort_keys=True) * bool(sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def web(port: int, kind: str = "ThreadingHTTPServer", **more: str) -> Program:
    env = environment(ENDLESS_PY_HEALTH=f"127.0.0.1:{port}", **more)
    return Program("http_server.py", kind, str(free_port()), env=env)


def port_of(program: Program, health_port: int) -> int:
    program.wait_serving(count=2)
    found = re.findall(r"generation 0: serves tcp .*:(\d+);", program.text)
    (port,) = {int(each) for each in found} - {health_port}
    return port


# -- a listener of their own --------------------------------------------------


@pytest.mark.parametrize("kind", first(["ThreadingHTTPServer", "HTTPServer", "ForkingHTTPServer"]))
def test_the_pages_over_reloads_and_a_stop(kind):
    where = free_port()
    with web(where, kind, ENDLESS_PY_STOP_DELAY="1") as program:
        port, pid = port_of(program, where), program.pid
        assert ask(where, "/livez") == (200, "alive\n")
        assert ask(where, "/readyz?verbose") == (200, "ready\n")
        assert ask(where, "/readyz", "HEAD") == (200, "")
        assert ask(where, "/")[0] == 404
        assert ask(where, "/readyz", "POST")[0] == 501
        for generation in (1, 2):
            pid = program.reload(generation, pid, count=2)
            program.wait_alone(pid)
            assert get(port).startswith(f"{generation} ")
            assert ask(where, "/readyz") == (200, "ready\n")
        os.kill(pid, signal.SIGTERM)
        program.wait("goes on accepting for 1 s")
        assert ask(where, "/readyz") == (503, "not ready: it was told to stop\n")
        assert ask(where, "/livez") == (200, "alive\n")
        found = metrics(ask(where, "/metrics")[1])
        assert (found["endless_py_ready"], found["endless_py_generation"]) == (0, 2)
        assert found['endless_py_phase{"phase": "stopping soon"}'] == 1
        assert get(port)
        program.wait_alone(None)
        assert "Traceback" not in program.text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such call here")
def test_as_many_workers_as_there_are_processors_where_there_is_one():
    where, before = free_port(), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})  # which the program has from us
    try:
        program = web(where, ENDLESS_PY_WORKERS="auto")
    finally:
        os.sched_setaffinity(0, before)
    with program:
        port_of(program, where)
        assert program.pids() == [program.pid]
        assert ask(where, "/readyz") == (200, "ready\n")


COUNTERS = "requests", "connections_accepted", "connections_cut"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_ten_reloads_under_load_and_the_counters_never_fall(workers):
    """Prometheus scrapes, and a load balancer asks, without a pause: neither is refused."""
    where = free_port()
    with web(where, ENDLESS_PY_WORKERS=str(workers)) as program:
        port, pid = port_of(program, where), program.pid
        seen: list[dict[str, float]] = []
        lost: list[object] = []
        over = threading.Event()

        def scrape() -> None:
            while not over.is_set():
                try:
                    seen.append(metrics(ask(where, "/metrics")[1]))
                    answer = ask(where, "/readyz")
                    if answer != (200, "ready\n"):
                        lost.append(answer)
                except Exception as error:
                    lost.append(error)
                time.sleep(0.005)

        scraper = threading.Thread(target=scrape)
        scraper.start()
        with Load(port) as load:
            for generation in range(1, 11):
                pid = program.reload(generation, pid, count=2)
                load.wait_answer(f"{generation} ")
        over.set()
        scraper.join(TIMEOUT)
        assert (load.lost, lost) == ([], [])
        if workers == 1:
            program.wait_alone(pid)
        else:  # one of them leads; beside them there is what forks them
            until(lambda: program.process.poll() is not None and len(program.pids()) == workers + 1)
        seen.append(metrics(ask(where, "/metrics")[1]))
        names = [name for name in seen[0] if "_total" in name]
        assert len(names) == 7
        for before, after in zip(seen, seen[1:]):
            falls = {
                name: (before[name], after[name]) for name in names if after[name] < before[name]
            }
            assert not falls
        last = seen[-1]
        assert last['endless_py_reloads_total{"result": "done"}'] == 10
        assert last['endless_py_reloads_total{"result": "failed"}'] == 0
        assert last["endless_py_generation"] == 10
        assert last["endless_py_last_reload_success"] == 1
        assert last["endless_py_requests_total"] >= len(load.answers)
        program.stop(pid)


@pytest.mark.slow
def test_with_a_kept_pid_it_is_ready_all_the_time():
    where = free_port()
    with web(where, ENDLESS_PY_KEEP_PID="yes") as program:
        port_of(program, where)
        pid, answers, over = program.pid, [], threading.Event()

        def look() -> None:
            while not over.is_set():
                answers.append(ask(where, "/readyz"))

        looker = threading.Thread(target=look)
        looker.start()
        for generation in (1, 2):
            assert program.reload(generation, pid, count=2) == pid
            program.wait(rf"\[{pid}\] generation {generation}: generation .* has ended")
        over.set()
        looker.join(TIMEOUT)
        assert set(answers) == {(200, "ready\n")}
        program.stop(pid)


WARMS = """
import pathlib
ThreadingHTTPServer.health = {port}
ThreadingHTTPServer.ready_on_serve = False
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
def warm():
    (folder / f"warms{{endless_py.generation()}}").touch()
    while not (folder / f"warm{{endless_py.generation()}}").exists():
        time.sleep(0.01)
    endless_py.ready()
threading.Thread(target=warm, daemon=True).start()
server.serve_forever()
"""


def test_it_is_not_ready_before_it_serves_unless_a_predecessor_does(tmp_path):
    where = free_port()
    with custom(tmp_path, WARMS.format(port=where)) as program:
        program.wait(rf"serves tcp 127.0.0.1:{where}")
        assert ask(where, "/livez")[0] == 200
        assert ask(where, "/readyz") == (503, "not ready: it starts\n")
        (tmp_path / "warm0").touch()
        program.wait_serving(count=2)
        assert ask(where, "/readyz") == (200, "ready\n")
        os.kill(program.pid, signal.SIGHUP)
        while not (tmp_path / "warms1").exists():
            time.sleep(0.01)
        for _ in range(20):  # the predecessor serves, and says so
            assert ask(where, "/readyz") == (200, "ready\n")
            assert metrics(ask(where, "/metrics")[1])["endless_py_generation"] == 0
        (tmp_path / "warm1").touch()
        pid = program.wait_serving(1, count=2)
        program.wait_alone(pid)
        assert ask(where, "/readyz") == (200, "ready\n")
        program.stop(pid)


@pytest.mark.slow
def test_an_address_in_use_fails_the_start_in_one_line(tmp_path):
    (tmp_path / "app.py").write_text("def app(environ, start_response):\n    pass\n")
    with web(free_port()) as program:
        taken = program.port
        for words, names in (
            (["-m", "endless_py", "0"], "python -m endless_py"),
            (
                ["-m", "endless_py", "wsgi", "app:app", "-b", "127.0.0.1:0"],
                "python -m endless_py wsgi",
            ),
        ):
            done = subprocess.run(
                [sys.executable, *words, "--health", f"127.0.0.1:{taken}"],
                env=environment(),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
            said = [line for line in done.stderr.splitlines() if "error" in line]
            assert done.returncode == 1
            assert said == [
                f"{names}: error: cannot answer health checks on 127.0.0.1:{taken}: "
                "[Errno 98] Address already in use"
            ]
            assert "Traceback" not in done.stderr
        program.stop(program.pid)


@pytest.mark.parametrize("words", [["endless_py"], ["endless_py", "wsgi", "app:app"]])
def test_what_is_no_address_is_a_wrong_argument(words):
    done = subprocess.run(
        [sys.executable, "-m", *words, "--health", "nowhere"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 2
    assert "argument --health: health must be HOST:PORT" in done.stderr


MOVES = """
ThreadingHTTPServer.health = "127.0.0.1:" + (folder / "where").read_text()
ThreadingHTTPServer(("127.0.0.1", 0), Handler).serve_forever()
"""


@pytest.mark.slow
def test_a_reload_moves_the_listener_or_fails_and_changes_nothing(tmp_path):
    old, new = free_port(), free_port()
    (tmp_path / "where").write_text(str(old))
    with custom(tmp_path, MOVES) as program:
        pid, port = program.pid, port_of(program, old)
        (tmp_path / "where").write_text(str(port))  # its own: another server has adopted it
        os.kill(pid, signal.SIGHUP)
        program.wait(
            "HealthError: cannot answer health checks on 127.0.0.1:.*already in use|reload failed"
        )
        program.wait("reload failed")
        program.wait_alone(pid)
        assert ask(old, "/readyz") == (200, "ready\n")
        assert get(port).startswith("0 ")
        assert metrics(ask(old, "/metrics")[1])['endless_py_reloads_total{"result": "failed"}'] == 1
        (tmp_path / "where").write_text(str(new))
        pid = program.reload(1, pid, count=2)
        program.wait_alone(pid)
        assert ask(new, "/readyz") == (200, "ready\n")
        with pytest.raises(urllib.error.URLError):
            ask(old, "/readyz")
        program.stop(pid)


def test_it_ends_with_the_servers_that_want_it_and_begins_again():
    where = free_port()

    class Server(ThreadingHTTPServer):
        health = where

    def serve(server):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        while not server._listener.ready:
            time.sleep(0.001)
        return server, thread

    def end(server, thread):
        server.shutdown()
        thread.join(TIMEOUT)
        server.server_close()

    for _ in range(2):
        pairs = [serve(Server(("127.0.0.1", 0), None)) for _ in range(2)]
        assert ask(where, "/readyz") == (200, "ready\n")
        end(*pairs[0])
        assert ask(where, "/readyz") == (200, "ready\n")
        end(*pairs[1])
        with pytest.raises(urllib.error.URLError):
            ask(where, "/readyz")
    assert not process.current.listeners.all
    assert process.current.machine.state is State.STARTING


def test_a_server_without_it_pays_nothing(tmp_path):
    code = "import sys\nserver = ThreadingHTTPServer(('127.0.0.1', 0), Handler)\n"
    code += "endless_py.on_ready(lambda: print(*sys.modules, flush=True))\nserver.serve_forever()"
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        modules = program.wait("endless_py._api ").string.split()
        assert "endless_py._server.mixin" in modules
        assert not {"endless_py._server.health", "endless_py._reload.health"} & set(modules)
        # The hook's own thread writes that line, and ends right after it.
        until(lambda: len(os.listdir(f"/proc/{pid}/task")) == 1)
        program.stop(pid)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (("127.0.0.1", 9100), ("127.0.0.1", 9100)),
        ("127.0.0.1:9100", ("127.0.0.1", 9100)),
        ("[::1]:9100", ("::1", 9100)),
        (":9100", ("127.0.0.1", 9100)),
        ("9100", ("127.0.0.1", 9100)),
        (9100, ("127.0.0.1", 9100)),
    ],
)
def test_an_address(value, address):
    assert parse_address(value) == address


@pytest.mark.parametrize(
    "value",
    ["", "nowhere", "::1:9100", "a:b", "a:0", "a:70000", ("a",), ("", 1), True, 0, 1.5, b"a:1"],
)
def test_what_is_none(value):
    with pytest.raises(ValueError, match="not an address"):
        parse_address(value)
    kind = type("Server", (ThreadingHTTPServer,), {"health": value})
    with pytest.raises(ValueError, match=r"^health must be HOST:PORT"):
        kind(("127.0.0.1", 0), None)


# -- mounted ------------------------------------------------------------------

MOUNTED = """
from endless_py import health
from prometheus_client import Counter
orders = Counter("shop_orders", "Orders.")
class Shop(Handler):
    def do_GET(self):
        if health.answer(self):
            return
        orders.inc()
        super().do_GET()
    do_HEAD = do_GET
ThreadingHTTPServer(("127.0.0.1", 0), Shop).serve_forever()
"""


def test_in_a_handler_with_the_programs_own_metrics(tmp_path):
    with custom(tmp_path, MOUNTED) as program:
        pid = program.wait_serving()
        port = program.port
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        for method, path, status, body in (
            ("GET", "/readyz", 200, b"ready\n"),
            ("HEAD", "/readyz", 200, b""),
            ("GET", "/", 200, f"0 {pid} {pid} end".encode()),
            ("GET", "/livez", 200, b"alive\n"),
        ):
            kept.request(method, path)
            response = kept.getresponse()
            assert (response.status, response.read()) == (status, body)
        kept.request("GET", "/metrics")
        response = kept.getresponse()
        assert response.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
        found = metrics(response.read().decode())
        kept.close()
        assert found["shop_orders_total"] == 1
        assert found["endless_py_requests_total"] == 5
        assert "process_open_fds" in found
        program.stop(pid)


def over_wsgi(application, path, method="GET"):
    said = []
    environ = {"PATH_INFO": path, "REQUEST_METHOD": method, "wsgi.input": io.BytesIO()}
    body = b"".join(application(environ, lambda *words: said.append(words)))
    (status, headers), *_ = said
    if method != "HEAD":
        assert dict(headers)["Content-Length"] == str(len(body))
    return status, body


def shop(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"shop"]


def test_over_wsgi(monkeypatch):
    monkeypatch.setattr(pages, "why_not_ready", lambda _: "")
    mounted = health.mount(shop)
    for application in (mounted, health.application):
        assert over_wsgi(application, "/readyz") == ("200 OK", b"ready\n")
        assert over_wsgi(application, "/readyz", "HEAD") == ("200 OK", b"")
        assert b"endless_py_generation 0" in over_wsgi(application, "/metrics")[1]
    assert over_wsgi(mounted, "/") == ("200 OK", b"shop")
    assert over_wsgi(mounted, "/readyz", "POST") == ("200 OK", b"shop")
    assert over_wsgi(health.application, "/")[0] == "404 Not Found"
    monkeypatch.setattr(pages, "why_not_ready", lambda _: "so")
    assert over_wsgi(mounted, "/readyz") == ("503 Service Unavailable", b"not ready: so\n")
    assert health.page("/other") is None


def test_a_collector_that_raises_is_told(monkeypatch):
    class Client:
        @staticmethod
        def generate_latest():
            raise RuntimeError("no database")

    monkeypatch.setitem(sys.modules, "prometheus_client", Client)
    assert health.page("/metrics") == (500, pages.TEXT, b"RuntimeError: no database\n")


def test_labels_are_escaped():
    line = pages._sample("name", {"server": 'a"b\\c\nd'}, 1)
    (family,) = text_string_to_metric_families(f"{line}\n")
    assert family.samples[0].labels == {"server": 'a"b\\c\nd'}


def test_every_name_is_as_prometheus_wants_it():
    text = pages.ours(process.current)
    for family in text_string_to_metric_families(text):
        assert re.fullmatch(r"endless_py_[a-z_]+", family.name)
        assert family.documentation
        assert family.type in ("gauge", "counter")
    assert endless_py.state()["counters"].keys() == {key for key, *_ in pages._COUNTERS}


# -- whether it is ready, in each state ---------------------------------------


@pytest.mark.parametrize("state", State)
def test_ready_in_each_state(state, monkeypatch):
    class Process:
        pass

    found = Process()
    found.machine = type(process.current.machine)(None, None, lambda *_: None)
    found.machine._set(state)
    found.stop = Process()
    found.stop.ordered = False
    found.living_successor = object()
    found.listeners = Process()
    listener = Process()
    listener.beside, listener.ready = False, True
    found.listeners.all = (listener,)
    found.predecessors = Process()
    found.predecessors.living_parent = lambda: None
    stops = state in (State.DELAYING, State.STOPPING)
    assert bool(pages.why_not_ready(found)) == stops
    found.stop.ordered = True
    assert pages.why_not_ready(found) == "it was told to stop"


# -- beside servers that are not socketserver's -------------------------------

OTHERS = """
import asyncio
from endless_py import health
async def main():
    async def answer(reader, writer):
        await reader.readline()
        writer.write(b"HTTP/1.0 200 OK\\r\\n\\r\\nend")
        writer.close()
    listener = endless_py.listen(("127.0.0.1", 0))
    ended = asyncio.get_running_loop().create_future()
    stop = lambda: ended.get_loop().call_soon_threadsafe(ended.set_result, None)
    endless_py.on_draining(stop)
    server = await asyncio.start_server(answer, sock=listener)
    health.serve({port})
    endless_py.ready()
    await ended
    server.close()
asyncio.run(main())
"""


def test_beside_asyncio(tmp_path):
    where = free_port()
    with custom(tmp_path, OTHERS.replace("{port}", str(where))) as program:
        pid = program.wait_serving(count=2)
        for generation in (1, 2):
            assert ask(where, "/readyz") == (200, "ready\n")
            pid = program.reload(generation, pid, count=2)
            program.wait_alone(pid)
        assert metrics(ask(where, "/metrics")[1])["endless_py_generation"] == 2
        program.stop(pid)
