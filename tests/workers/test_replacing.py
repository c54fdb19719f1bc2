"""`max_requests` and `max_rss` replace processes that have served enough, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from custom_code import custom
from harness import Load, Program, connect, environment, get, slow, until
from worker_team import all_answer

from endless_py import ThreadingHTTPServer
from endless_py._reload import settings
from endless_py._server import limits

REPLACED = r"worker (\d) \(pid (\d+)\) has .*: pid (\d+) takes its place"


def limited(folder, kind="ThreadingHTTPServer", workers=3, stays=False, **more):
    env = environment(**{f"ENDLESS_PY_{name}": value for name, value in more.items()})
    env["ENDLESS_PY_WORKERS"] = str(workers)
    return Program("limited.py", kind, folder, *["stays"] * stays, env=env)


def state(port):
    return json.loads(get(port, "/state"))


def ask(connection, path="/"):
    """Return the generation and the pid that have answered."""
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.getheader("Connection") != "close"
    generation, pid, end = response.read().decode().split()
    assert end == "end"
    return int(generation), int(pid)


def connection_to(program, wanted):
    """Return a kept connection to a process for which wanted(pid) is true, and the pid."""
    while True:
        connection = connect(program.port)
        _, pid = ask(connection)
        if wanted(pid):
            return connection, pid
        connection.close()


def settled(program, leader, count=3):
    """Wait until so many processes serve, and the fork server is all there is beside them."""
    left = count + 1 if count > 1 else 1

    def look():
        program.process.poll()
        found = program.pids()
        return found if leader in found and len(found) == left else None

    return until(look)


# -- under load ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "leader", "more"),
    [
        ("ThreadingHTTPServer", "stays", {}),
        slow("ThreadingHTTPServer", "stays", {"REUSE_THREADS": "yes"}),
        slow("HTTPServer", "stays", {}),
        slow("ThreadingHTTPServer", "", {"KEEP_PID": "no"}),
        slow("ThreadingHTTPServer", "", {"REUSE_THREADS": "yes"}),
        slow("ThreadingHTTPServer", "", {"KEEP_PID": "yes"}),
        slow("HTTPServer", "", {}),
    ],
)
def test_replacing_all_the_time_loses_nothing(kind, leader, more, tmp_path):
    """Where the leader does not stay it is replaced by a reload, as a rule before the workers."""
    limit = {"MAX_REQUESTS": "100", "MAX_REQUESTS_JITTER": "100", **more}
    with limited(tmp_path, kind, stays=bool(leader), **limit) as program:
        program.wait_serving()
        keeps = kind != "HTTPServer"
        kept = [connect(program.port) for _ in range(6 * keeps)]
        for connection in kept:
            ask(connection)
        names = [connection.sock.getsockname() for connection in kept]

        def enough():
            for connection in kept:
                ask(connection)
            replaced = len(re.findall(REPLACED, program.text))
            reloads = program.text.count("requests (max_requests): started generation")
            assert not (leader and reloads)
            return replaced >= 6 if leader else reloads >= 3

        with Load(program.port, keep_alive=keeps) as load:
            until(enough)
        assert load.lost == []
        assert names == [connection.sock.getsockname() for connection in kept]
        for connection in kept:
            connection.close()
        assert "Traceback" not in program.text
        assert " ERROR " not in program.text
        pid = until(lambda: whole(program))
        os.kill(pid, signal.SIGTERM)
        program.wait_alone(None)


def whole(program, count=3):
    """Return the leader once its generation is the only one, and none is replaced just now."""
    program.process.poll()
    found = state(program.port)
    calm = found["phase"] == "serving" and not (found["bridge"] or found["predecessors"])
    pids, alive = [worker["pid"] for worker in found["workers"]], program.pids()
    return pids[0] if calm and len(alive) == count + 1 and set(pids) <= set(alive) else None


@pytest.mark.slow
def test_workers_alone_are_replaced_again_and_again(tmp_path):
    """All but the leader leak: twelve replacements, one at a time, with whom they serve."""
    with limited(tmp_path, MAX_RSS="100") as program:
        leader = program.wait_serving()
        kept = [connect(program.port) for _ in range(12)]
        for connection in kept:
            ask(connection)
        names = [connection.sock.getsockname() for connection in kept]
        with Load(program.port) as load:
            for count in range(1, 13):
                leak, victim = connection_to(program, lambda pid: pid != leader)
                ask(leak, "/leak?120")
                until(lambda n=count: len(re.findall(REPLACED, program.text)) >= n)
                until(lambda pid=victim: pid not in program.pids())
                leak.close()
                assert {ask(connection)[0] for connection in kept} == {0}
        assert load.lost == []
        assert names == [connection.sock.getsockname() for connection in kept]
        found = state(program.port)
        assert [worker["number"] for worker in found["workers"]] == [0, 1, 2]
        assert found["counters"]["requests"] >= len(load.answers)
        served = sum(worker["served"] for worker in found["workers"])
        assert served >= found["counters"]["connections_accepted"]
        settled(program, leader)
        program.stop(leader)


# -- one at a time ------------------------------------------------------------


def test_a_worker_that_leaks_is_replaced_and_its_clients_stay(tmp_path):
    with limited(tmp_path, MAX_RSS="100") as program:
        leader = program.wait_serving()
        kept, victim = connection_to(program, lambda pid: pid != leader)
        idle, _ = connection_to(program, lambda pid: pid == victim)
        name = idle.sock.getsockname()
        before = state(program.port)
        ask(kept, "/leak?120")
        ask(kept)
        found = program.wait(REPLACED)
        assert int(found[2]) == victim
        until(lambda: victim not in program.pids())
        after = state(program.port)
        assert [w["pid"] for w in after["workers"] if w["number"] == int(found[1])] == [
            int(found[3])
        ]
        assert after["workers"][0]["pid"] == leader
        assert after["counters"]["requests"] > before["counters"]["requests"]
        assert ask(idle) != (0, victim)
        assert ask(kept) != (0, victim)
        assert idle.sock.getsockname() == name
        settled(program, leader)
        kept.close()
        idle.close()
        program.stop(leader)


def test_the_pid_of_a_new_worker_is_known_when_it_is_told(tmp_path):
    """Who forks it says so late: it has said itself that it is there."""
    code = """
fork, leader = os.fork, os.getpid()

def slow_fork():
    pid = fork()
    if pid and os.getpid() != leader:
        time.sleep(0.5)
    return pid

os.fork = slow_fork

class Server(ThreadingHTTPServer):
    workers, max_requests = 2, 20

with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""
    with custom(tmp_path, code) as program:
        program.wait_serving()
        with Load(program.port) as load:
            found = program.wait(REPLACED)
        assert load.lost == []
        assert int(found[3]) > 0


def test_what_a_replaced_worker_handles_is_finished_and_the_next_one_waits(tmp_path):
    with limited(tmp_path, MAX_RSS="100") as program:
        leader = program.wait_serving()
        first, one = connection_to(program, lambda pid: pid != leader)
        second, other = connection_to(program, lambda pid: pid not in (leader, one))
        busy, _ = connection_to(program, lambda pid: pid == one)
        busy.request("GET", "/slow?2")
        response = busy.getresponse()
        ask(first, "/leak?120")
        ask(first)
        program.wait(REPLACED)
        ask(second, "/leak?120")
        ask(second)
        assert len([w for w in state(program.port)["workers"] if w["pid"]]) == 4
        assert len(re.findall(REPLACED, program.text)) == 1
        assert response.read().split()[1] == b"%d" % one
        assert ask(busy)[1] != one  # its connection has moved all the same
        until(lambda: len(re.findall(REPLACED, program.text)) == 2)
        until(lambda: other not in program.pids())
        settled(program, leader)
        for connection in (first, second, busy):
            connection.close()
        program.stop(leader)


@pytest.mark.slow
@pytest.mark.parametrize("signal_name", ["SIGHUP", "SIGTERM"])
def test_a_signal_while_a_worker_is_replaced(signal_name, tmp_path):
    with limited(tmp_path, MAX_RSS="100") as program:
        leader = program.wait_serving()
        first, one = connection_to(program, lambda pid: pid != leader)
        busy, _ = connection_to(program, lambda pid: pid == one)
        busy.request("GET", "/slow?1")
        response = busy.getresponse()
        ask(first, "/leak?120")
        ask(first)
        program.wait(REPLACED)
        os.kill(leader, getattr(signal, signal_name))
        assert response.read().split()[1] == b"%d" % one
        if signal_name == "SIGHUP":
            new = program.wait_serving(1)
            settled(program, new)
            assert ask(first)[0] == 1
            assert ask(busy)[0] == 1
            os.kill(new, signal.SIGTERM)
        program.wait_alone(None)
        assert " ERROR " not in program.text


def test_a_reload_while_another_one_is_being_started(tmp_path):
    with limited(tmp_path, MAX_RSS="100") as program:
        leader = program.wait_serving()
        kept, _ = connection_to(program, lambda pid: pid != leader)
        name = kept.sock.getsockname()
        before = program.pids()
        (tmp_path / "hang").touch()
        ask(kept, "/leak?120")
        ask(kept)
        until(lambda: len(program.pids()) > len(before))
        os.kill(leader, signal.SIGHUP)
        program.wait("started generation 1")
        (tmp_path / "hang").unlink()
        new = program.wait_serving(1)
        settled(program, new)
        assert ask(kept)[0] == 1
        assert kept.sock.getsockname() == name
        kept.close()
        assert " ERROR " not in program.text
        program.stop(new)


# -- what goes wrong ----------------------------------------------------------


def test_a_worker_that_cannot_be_replaced_serves_on(tmp_path):
    with limited(tmp_path, MAX_RSS="100") as program:
        leader = program.wait_serving()
        kept, victim = connection_to(program, lambda pid: pid != leader)
        (tmp_path / "raise").touch()
        ask(kept, "/leak?120")
        ask(kept)
        pattern = rf"worker \d \(pid {victim}\) has 1\d\d MB in memory \(max_rss\), but cannot be "
        pattern += r"replaced: exited with status 1; tried again in (\d) s"
        assert program.wait(pattern)[1] == "1"
        assert ask(kept) == (0, victim)
        until(lambda: len(re.findall(pattern, program.text)) == 2)
        assert re.findall(pattern, program.text)[1] == "2"
        (tmp_path / "raise").unlink()
        program.wait(REPLACED)
        until(lambda: victim not in program.pids())
        assert ask(kept)[1] != victim
        settled(program, leader)
        kept.close()
        program.stop(leader)


def test_one_that_hangs_is_killed_after_its_time(tmp_path):
    with limited(tmp_path, MAX_RSS="100", READY_TIMEOUT="0.5") as program:
        leader = program.wait_serving()
        kept, victim = connection_to(program, lambda pid: pid != leader)
        (tmp_path / "hang").touch()
        ask(kept, "/leak?120")
        ask(kept)
        program.wait(r"but cannot be replaced: killed by SIGKILL; tried again in 1 s")
        assert ask(kept) == (0, victim)
        (tmp_path / "hang").unlink()
        program.wait(REPLACED)
        settled(program, leader)
        kept.close()
        program.stop(leader)


@pytest.mark.parametrize("whom", ["older", slow("newer"), slow("leader")])
def test_sigkill_while_another_one_is_being_started(whom, tmp_path):
    with limited(tmp_path, MAX_RSS="100") as program:
        leader = program.wait_serving()
        kept, victim = connection_to(program, lambda pid: pid != leader)
        before = program.pids()
        (tmp_path / "hang").touch()
        ask(kept, "/leak?120")
        ask(kept)
        (newer,) = until(lambda: set(program.pids()) - set(before))
        os.kill({"older": victim, "newer": newer, "leader": leader}[whom], signal.SIGKILL)
        kept.close()
        if whom == "leader":
            (tmp_path / "hang").unlink()
            program.process.wait(30)
            until(lambda: not program.pids())
            return
        program.wait(
            rf"\(pid {victim}\)" + (", killed" if whom == "older" else " has .* cannot be")
        )
        (tmp_path / "hang").unlink()
        all_answer(program.port)
        until(lambda: victim not in program.pids())
        settled(program, leader)
        assert [worker["number"] for worker in state(program.port)["workers"]] == [0, 1, 2]
        # The place can be taken again, whoever has it.
        again, victim = connection_to(program, lambda pid: pid != leader)
        ask(again, "/leak?120")
        ask(again)
        until(lambda: victim not in program.pids())
        settled(program, leader)
        again.close()
        program.stop(leader)


@pytest.mark.parametrize("whom", ["older", slow("newer"), slow("leader")])
def test_sigkill_while_the_replaced_one_finishes(whom, tmp_path):
    with limited(tmp_path, MAX_RSS="100") as program:
        leader = program.wait_serving()
        first, one = connection_to(program, lambda pid: pid != leader)
        busy, _ = connection_to(program, lambda pid: pid == one)
        busy.request("GET", "/slow?2")
        response = busy.getresponse()
        ask(first, "/leak?120")
        ask(first)
        newer = int(program.wait(REPLACED)[3])
        os.kill({"older": one, "newer": newer, "leader": leader}[whom], signal.SIGKILL)
        if whom == "older":
            with contextlib.suppress(Exception):
                response.read()
            program.wait(r"killed by SIGKILL, which was replaced and had not finished")
        else:
            assert response.read().split()[1] == b"%d" % one
        busy.close()
        first.close()
        if whom == "leader":
            program.process.wait(30)
            until(lambda: not program.pids())
            return
        until(lambda: one not in program.pids())
        settled(program, leader)
        assert [worker["number"] for worker in state(program.port)["workers"]] == [0, 1, 2]
        program.stop(leader)


@pytest.mark.slow
def test_without_a_fork_server_a_reload_replaces_all(tmp_path):
    with limited(tmp_path, MAX_RSS="100") as program:
        leader = program.wait_serving()
        kept, _ = connection_to(program, lambda pid: pid != leader)
        pids = [worker["pid"] for worker in state(program.port)["workers"]]
        (fork_server,) = set(program.pids()) - set(pids)
        os.kill(fork_server, signal.SIGKILL)
        until(lambda: fork_server not in program.pids())
        ask(kept, "/leak?120")
        ask(kept)
        program.wait(r"worker \d \(pid \d+\) has .* \(max_rss\): started generation 1")
        new = program.wait_serving(1)
        settled(program, new)
        assert ask(kept)[0] == 1
        kept.close()
        program.stop(new)


# -- by a reload --------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_a_leader_or_the_only_process_is_replaced_by_a_reload(workers, tmp_path):
    with limited(tmp_path, workers=workers, MAX_RSS="100") as program:
        leader = program.wait_serving()
        kept, _ = connection_to(program, lambda pid: pid == leader)
        name = kept.sock.getsockname()
        ask(kept, "/leak?120")
        ask(kept)
        program.wait(r"this process has 1\d\d MB in memory \(max_rss\): started generation 1")
        new = program.wait_serving(1)
        settled(program, new, workers)
        assert ask(kept)[0] == 1
        assert kept.sock.getsockname() == name
        assert program.text.count("started generation") == 1
        kept.close()
        program.stop(new)


@pytest.mark.parametrize("kind", ["ThreadingHTTPServer", "HTTPServer", slow("ForkingHTTPServer")])
def test_one_process_reloads_once_for_each_limit(kind):
    env = environment(ENDLESS_PY_MAX_REQUESTS="20")
    with Program("http_server.py", kind, 0, env=env) as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            for _ in range(19):
                assert get(program.port).startswith(f"{generation - 1} ")
            assert f"started generation {generation}" not in program.text
            get(program.port)
            program.wait(rf"handled 20 requests \(max_requests\): started generation {generation}")
            pid = program.wait_serving(generation)
            program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.slow
def test_one_process_under_load_loses_nothing():
    env = environment(ENDLESS_PY_MAX_REQUESTS="400")
    with Program("http_server.py", "ThreadingHTTPServer", 0, env=env) as program:
        program.wait_serving()
        with Load(program.port) as load:
            program.wait_serving(4)
        assert load.lost == []
        pid = until(lambda: state(program.port)["pid"])
        os.kill(pid, signal.SIGTERM)
        program.wait_alone(None)


@pytest.mark.slow
def test_no_reload_begins_while_an_older_generation_finishes(tmp_path):
    with limited(tmp_path, workers=1, MAX_REQUESTS="3") as program:
        program.wait_serving()
        busy = connect(program.port)
        busy.request("GET", "/slow?3")
        response = busy.getresponse()
        get(program.port)
        get(program.port)
        program.wait("finishing 1 requests")
        for _ in range(6):
            assert get(program.port).startswith("1 ")
        assert "started generation 2" not in program.text
        assert response.read().startswith(b"0 ")
        busy.close()
        until(lambda: not get(program.port).startswith("1 "))
        pid = program.wait_serving(2)
        until(lambda: program.process.poll() is not None and program.pids() == [pid])
        program.stop(pid)


WSGI = """
import os
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"0 %d end" % os.getpid()]
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [slow("1"), "2"])
def test_the_wsgi_command(workers, tmp_path):
    (tmp_path / "app.py").write_text(WSGI)
    words = ["wsgi", "app:app", "--bind", "127.0.0.1:0", "--workers", workers]
    words += ["--max-requests", "200", "--max-requests-jitter", "100", "--max-rss", "2000"]
    command = [sys.executable, "-m", "endless_py", *words]
    with Program(command=command, cwd=tmp_path, env=environment()) as program:
        program.wait_serving()
        kept = [connect(program.port) for _ in range(4)]
        for connection in kept:
            ask(connection)
        names = [connection.sock.getsockname() for connection in kept]
        with Load(program.port) as load:
            pid = program.wait_serving(2)
        assert load.lost == []
        for connection in kept:
            ask(connection)
        assert names == [connection.sock.getsockname() for connection in kept]
        for connection in kept:
            connection.close()
        os.kill(pid, signal.SIGTERM)
        program.wait_alone(None)


BREAKABLE = """
import os, endless_py
from endless_py._server import limits
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
limits._FIRST_PAUSE = {pause}
if os.path.exists({broken!r}): raise SystemExit(7)
class Server(ThreadingHTTPServer):
    max_requests = 5
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d end" % endless_py.generation())
    def log_message(self, *_): pass
with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""


@pytest.mark.slow
def test_a_reload_that_fails_is_tried_again_after_a_growing_pause(tmp_path):
    path, broken = tmp_path / "program.py", tmp_path / "broken"
    path.write_text(BREAKABLE.format(pause=1.5, broken=str(broken)))
    with Program(path) as program:
        pid = program.wait_serving()
        broken.touch()

        def failures():
            return program.text.count("reload failed: ")

        for _ in range(5):
            get(program.port)
        begun = time.monotonic()
        program.wait("reload failed: generation 1 .* exited with status 7")
        while time.monotonic() < begun + 1.0:
            assert get(program.port) == "0 end"
        assert failures() == 1
        until(lambda: get(program.port) == "0 end" and failures() == 2)
        begun = time.monotonic()
        while time.monotonic() < begun + 2.0:
            assert get(program.port) == "0 end"
        assert failures() == 2
        broken.unlink()
        until(lambda: get(program.port).startswith("1 "))
        pid = program.wait_serving(1)
        program.wait_alone(pid)
        program.stop(pid)


def test_too_little_memory_from_the_start_is_no_limit(tmp_path):
    with limited(tmp_path, MAX_RSS="2") as program:
        leader = program.wait_serving()
        program.wait(r"max_rss is ignored: this process has \d+ MB before its first request")
        for _ in range(9):
            get(program.port)
        assert "takes its place" not in program.text
        assert program.text.count("max_rss is ignored") == 1
        settled(program, leader)
        program.stop(leader)


# -- what is counted ----------------------------------------------------------


DATAGRAMS = """
import os
from endless_py.socketserver import BaseRequestHandler, {kind}
class Server({kind}):
    workers = {workers}
    max_requests = 30
class Handler(BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        sock.sendto(b"%d" % os.getpid(), self.client_address)
with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""


@pytest.mark.parametrize(
    ("kind", "workers"), [("ThreadingUDPServer", 1), slow("UDPServer", 1), slow("UDPServer", 3)]
)
def test_datagrams_count(kind, workers, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(DATAGRAMS.format(kind=kind, workers=workers))
    with Program(path) as program, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        program.wait_serving()
        client.connect(("127.0.0.1", program.port))
        client.settimeout(10)
        pids = set()
        while len(pids) < 2 * workers + 1:
            client.send(b"x")
            pids.add(int(client.recv(20)))
        program.wait(r"has handled 30 requests \(max_requests\): started generation 1")
        assert "Traceback" not in program.text


LINES = """
from endless_py.socketserver import StreamRequestHandler, ThreadingTCPServer
class Server(ThreadingTCPServer):
    max_requests = 3
class Handler(StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""


def test_a_protocol_of_its_own_counts_connections(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(LINES)
    with Program(path) as program:
        program.wait_serving()
        for count in range(3):
            assert "max_requests" not in program.text
            with socket.create_connection(("127.0.0.1", program.port)) as client:
                client.sendall(b"x\n" * 5)
                assert client.makefile().readline() == "x\n"
            assert count < 3
        program.wait(r"has handled 3 requests \(max_requests\): started generation 1")
        program.stop(program.wait_serving(1))


def test_jitter_is_between_nothing_and_what_is_set():
    kind = type("Server", (ThreadingHTTPServer,), {"max_requests": 10, "max_requests_jitter": 5})
    with kind(("127.0.0.1", 0), None, bind_and_activate=False) as server:
        found = {limits.Limits(server._listener, server)._most for _ in range(300)}
    assert found == set(range(10, 16))


def test_the_memory_is_what_the_system_says():
    before = limits.memory()
    held = bytearray(b"x") * (64 << 20)
    assert 60 << 20 < limits.memory() - before < 80 << 20
    del held


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_requests", -1),
        ("max_requests", 1.5),
        ("max_requests", True),
        ("max_requests", "1000"),
        ("max_requests_jitter", None),
        ("max_requests_jitter", -1),
        ("max_rss", -1),
        ("max_rss", True),
        ("max_rss", float("nan")),
        ("max_rss", 512 << 20),  # bytes
        ("max_rss", "512M"),
    ],
)
def test_what_is_no_limit_is_named(name, value):
    kind = type("Server", (ThreadingHTTPServer,), {name: value})
    with pytest.raises(ValueError, match=f"^{name} must be"):
        kind(("127.0.0.1", 0), None)


@pytest.mark.parametrize("value", [None, 0])
def test_off_is_none_or_nothing(value):
    kind = type("Server", (ThreadingHTTPServer,), {"max_requests": value, "max_rss": value})
    with kind(("127.0.0.1", 0), None, bind_and_activate=False) as server:
        assert not settings.has_limits(server)


# -- what it costs ------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_without_a_limit_none_of_it_is_there(workers, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from endless_py.http.server import ThreadingHTTPServer, SimpleHTTPRequestHandler\n"
        f"class Server(ThreadingHTTPServer):\n    workers = {workers}\n"
        "    def service_actions(self):\n"
        "        print(self._listener.limits, [m for m in sys.modules if m.endswith(('.limits', "
        "'.replacing'))], flush=True)\n"
        "with Server(('127.0.0.1', 0), SimpleHTTPRequestHandler) as server:\n"
        "    server.serve_forever()\n"
    )
    with Program(program) as started:
        pid = started.wait_serving()
        started.wait(r"^None \[\]$")
        started.stop(pid)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_nobody_makes_a_system_call_while_idle(tmp_path):
    with limited(tmp_path, MAX_RSS="100", MAX_REQUESTS="100") as program:
        leader = program.wait_serving()
        kept, victim = connection_to(program, lambda pid: pid != leader)
        ask(kept, "/leak?120")
        ask(kept)
        until(lambda: victim not in program.pids())
        found = settled(program, leader)
        kept.close()
        time.sleep(0.5)
        pids = [option for each in found for option in ("-p", str(each))]
        trace = subprocess.run(
            ["timeout", "3", "strace", "-f", "-qq", *pids], capture_output=True, text=True
        )
        calls = [line for line in trace.stderr.splitlines() if line.strip()]
        # Each is in the middle of one when it is attached to.
        assert len(calls) <= len(found), trace.stderr
        program.stop(leader)


@pytest.mark.parametrize("command", [[], ["wsgi", "m:a"], ["run", "x.py"]])
def test_each_command_has_the_options_and_says_what_cannot_be(command):
    words = [sys.executable, "-m", "endless_py", *command[:1], "--max-rss", "536870912"]
    done = subprocess.run([*words, *command[1:]], capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "max_rss must be 1 to 1000000 MB, or None for no limit, not 536870912"
    )
