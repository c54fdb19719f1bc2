"""Several processes of one generation: they serve together, and are reloaded as one."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import subprocess
import time

import pytest
from harness import (
    Load,
    Program,
    connect,
    environment,
    free_port,
    get,
    often,
    rests,
    slow,
    tool,
    until,
)
from secure import SecureLoad, https
from worker_team import all_answer, leader_of, state, wait_settled, workers


def start(kind="ThreadingHTTPServer", address=0, workers=3, **more):
    env = environment(ENDLESS_PY_WORKERS=str(workers), **more)
    return Program("http_server.py", kind, address, env=env)


# -- serving ------------------------------------------------------------------


def test_all_serve_and_the_leader_tells_of_all():
    with start() as program:
        pid = program.wait_serving()
        answers = collections.Counter(get(program.port) for _ in range(30))
        assert len(answers) == 3
        assert min(answers.values()) >= 5
        found = state(program.port)["workers"]
        assert [worker["number"] for worker in found] == [0, 1, 2]
        assert found[0]["pid"] == pid
        assert {f"0 {worker['pid']} end" for worker in found} == set(answers)
        assert sum(worker["served"] for worker in found) == 31
        assert sum(worker["active"] for worker in found) == 1
        assert all(worker["memory"] > 1 << 20 for worker in found)
        wait_settled(program, pid)
        program.stop(pid)
        assert program.process.wait() == 0


def test_every_process_tells_the_same():
    with start() as program:
        program.wait_serving()
        found = {tuple(workers(program.port)) for _ in range(6)}
        assert len(found) == 1
        pids = {state(program.port)["pid"] for _ in range(6)}
        assert pids == set(*found)


def test_every_process_counts_for_all():
    with start() as program:
        program.wait_serving()
        for _ in range(30):
            get(program.port)

        def requests():
            return state(program.port)["counters"]["requests"]

        found = [requests() for _ in range(6)]  # by each of them; its own question counts or not
        assert found == sorted(found)
        assert 30 <= found[0] <= 31
        victim = workers(program.port)[1]
        os.kill(victim, signal.SIGKILL)
        program.wait("lost worker 1")
        assert requests() >= found[-1]


def test_kept_connections_are_shared_out():
    with start(workers=4) as program:
        program.wait_serving()
        kept, counts = [], collections.Counter()
        for _ in range(64):
            connection = connect(program.port)
            connection.request("GET", "/")
            counts[connection.getresponse().read()] += 1
            kept.append(connection)
        assert len(counts) == 4
        assert all(8 <= count <= 32 for count in counts.values())
        for connection in kept:
            connection.close()


@pytest.mark.slow
def test_a_burst_is_shared_out():
    with start(workers=4) as program:
        program.wait_serving()
        port, counts = program.port, collections.Counter()
        kept = [connect(port) for _ in range(64)]
        for connection in kept:
            connection.connect()
        for connection in kept:
            connection.request("GET", "/")
            counts[connection.getresponse().read()] += 1
        assert len(counts) == 4
        assert all(8 <= count <= 32 for count in counts.values())
        for connection in kept:
            connection.close()


def test_one_worker_is_one_process_without_the_code_for_more(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from endless_py.http.server import ThreadingHTTPServer, SimpleHTTPRequestHandler\n"
        "class Server(ThreadingHTTPServer):\n"
        "    workers = 1\n"
        "    def service_actions(self):\n"
        "        found = sorted(m for m in sys.modules if 'worker' in m or 'exclusive' in m)\n"
        "        print(found, flush=True)\n"
        "with Server(('127.0.0.1', 0), SimpleHTTPRequestHandler) as server:\n"
        "    server.serve_forever()\n"
    )
    with Program(program) as started:
        pid = started.wait_serving()
        started.wait(r"^\[\]$")
        assert started.pids() == [pid]
        started.stop(pid)


def test_all_rest_after_a_reload():
    """The new processes have had the pipe from each other that says what stands in the log."""
    with start() as program:
        pid = program.wait_serving()
        for generation in range(1, 4):
            pid = program.reload(generation, pid)
            until(lambda pid=pid: all(map(rests, wait_settled(program, pid))))
        program.stop(pid)


@pytest.mark.slow
@pytest.mark.parametrize("reloads", [0, 1])
def test_nobody_makes_a_system_call_while_idle(reloads):
    with start(workers=4) as program:
        pid = program.wait_serving()
        for generation in range(1, reloads + 1):
            pid = program.reload(generation, pid)
        for _ in range(8):
            get(program.port)
        until(lambda: all(map(rests, wait_settled(program, pid, 4))))
        found = wait_settled(program, pid, 4)
        pids = [option for each in found for option in ("-p", str(each))]
        words = ["timeout", "10", tool("strace"), "-f", "-qq", *pids]
        trace = subprocess.run(words, capture_output=True, text=True, check=False)
        assert trace.returncode == 124, trace.stderr  # its time was over
        calls = [line for line in trace.stderr.splitlines() if line.strip()]
        # Each is in the middle of one when it is attached to.
        assert len(calls) == len(found), trace.stderr
        program.stop(pid)


# -- what it refuses ----------------------------------------------------------


def refused(tmp_path, body):
    program = tmp_path / "program.py"
    program.write_text(body)
    with Program(program) as started:
        assert started.process.wait(30) == 1
        until(lambda: not started.pids())
        started._reader.join(5)
        return started.text.splitlines()[-1]


SERVER = """
import threading, time, endless_py
from endless_py.socketserver import BaseRequestHandler, ThreadingTCPServer, TCPServer
class Server(ThreadingTCPServer):
    workers = 2
"""


def test_other_threads_are_named(tmp_path):
    line = refused(
        tmp_path,
        SERVER + "threading.Thread(target=time.sleep, args=(30,), name='poller', daemon=True)"
        ".start()\nServer(('127.0.0.1', 0), BaseRequestHandler).serve_forever()\n",
    )
    assert line.startswith("RuntimeError: workers = 2: other threads run (poller)")
    assert "on_worker_start" in line


def test_a_forking_server_has_processes_already(tmp_path):
    line = refused(
        tmp_path,
        SERVER + "class Forking(endless_py.ForkingTCPServer):\n    workers = 2\n"
        "Forking(('127.0.0.1', 0), BaseRequestHandler).serve_forever()\n",
    )
    assert "a forking server has processes already" in line


def test_a_hook_that_raises_in_a_worker_fails_the_start(tmp_path):
    line = refused(
        tmp_path,
        SERVER + "@endless_py.on_worker_start\ndef begin(number):\n    if number: 1 / 0\n"
        "Server(('127.0.0.1', 0), BaseRequestHandler).serve_forever()\n",
    )
    assert "WorkerFailed: worker 1" in line


@pytest.mark.parametrize("value", ["0", "many", "-1", "True", "2.5"])
def test_what_is_no_number_of_workers_is_refused(tmp_path, value):
    line = refused(
        tmp_path,
        SERVER + f"Server.workers = {value if value not in ('many',) else repr(value)}\n"
        "Server(('127.0.0.1', 0), BaseRequestHandler).serve_forever()\n",
    )
    assert "workers must be" in line


PIDS = """
import os, threading, time, endless_py
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d end" % os.getpid())
    def log_message(self, *_): pass
"""

TWO = """
class Server(ThreadingHTTPServer):
    workers = {workers}
other = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
@endless_py.on_worker_start
def begin(number):
    print("begins", number, flush=True)
    if not number:
        threading.Thread(target=other.serve_forever, daemon={daemon}).start()
@endless_py.on_worker_exit
def end(number):
    print("ends", number, flush=True)
with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""


@pytest.mark.parametrize(
    ("workers", "daemon"), [(2, True), slow(2, False), slow(1, True), slow(1, False)]
)
def test_another_server_of_the_leader_does_not_begin_it_anew(workers, daemon, tmp_path):
    """It is started where the documentation says, by what is called for each process once."""
    path = tmp_path / "program.py"
    path.write_text(PIDS + TWO.format(workers=workers, daemon=daemon))
    with Program(path) as program:
        pid = program.wait_serving(count=2)
        new = program.reload(1, pid, 2)
        if workers == 1:
            program.wait_alone(new)
        else:
            wait_settled(program, new, workers)
        program.stop(new)
        for number in range(workers):
            assert program.lines.count(f"begins {number}") == 2
            assert program.lines.count(f"ends {number}") == 2


LATE = """
from endless_py._reload import process
class Server(ThreadingHTTPServer):
    workers = 2
current = process.current
said_by_loop = current.readiness.said_by_loop
def late(listener):
    found = said_by_loop(listener)
    while current.worker and not current.group.serves_now:
        time.sleep(0.01)
    return found
current.readiness.said_by_loop = late
with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""


def test_a_worker_is_told_to_serve_while_its_loop_begins(tmp_path):
    """Another thread hears that, and the loop held its listener back afterwards, for good."""
    path = tmp_path / "program.py"
    path.write_text(PIDS + LATE)
    with Program(path) as program:
        pid = program.wait_serving()
        all_answer(program.port, 2)
        program.stop(pid)


# -- signals ------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
def test_a_signal_to_a_worker_is_none_to_the_generation(number):
    with start() as program:
        pid = program.wait_serving()
        before = workers(program.port)
        os.kill(before[1], number)
        time.sleep(0.3)
        assert workers(program.port) == before
        assert state(program.port)["generation"] == 0
        program.stop(pid)


@pytest.mark.slow
def test_a_signal_to_all_of_them_counts_once():
    """As a service manager sends it, or a terminal: the request in flight is finished."""
    with start() as program:
        pid = program.wait_serving()
        kept = [connect(program.port) for _ in range(6)]
        for connection in kept:
            connection.request("GET", "/slow?1")
        responses = [connection.getresponse() for connection in kept]
        os.killpg(pid, signal.SIGTERM)
        assert all(response.read().endswith(b"end") for response in responses)
        program.wait_alone(None)
        assert program.process.wait() == 0
        assert "ends what is still active" not in program.text


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGUSR2])
def test_a_second_order_ends_what_all_of_them_do(second):
    with start() as program:
        pid = program.wait_serving()
        kept = [connect(program.port) for _ in range(6)]
        for connection in kept:
            connection.request("GET", "/slow?20")
            connection.getresponse()
        os.kill(pid, signal.SIGTERM)
        program.wait("finishing")
        begun = time.monotonic()
        os.kill(pid, second)
        program.wait_alone(None)
        assert time.monotonic() - begun < 5


def test_interrupt_raises_in_the_leader_alone():
    with start() as program:
        pid = program.wait_serving()
        os.killpg(pid, signal.SIGINT)
        program.wait_alone(None)
        assert program.lines.count("KeyboardInterrupt") == 1


# -- their ends ---------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced():
    with start() as program:
        pid = program.wait_serving()
        before = workers(program.port)
        os.kill(before[1], signal.SIGKILL)
        program.wait(
            rf"lost worker 1 \(pid {before[1]}\), killed by SIGKILL; another one is started now"
        )
        until(lambda: len(workers(program.port)) == 3)
        after = workers(program.port)
        assert after[0] == pid
        assert after[2] == before[2]
        assert after[1] not in before
        all_answer(program.port)
        wait_settled(program, pid)
        os.kill(after[1], signal.SIGKILL)
        program.wait("another one is started in 1 s")
        until(lambda: len(workers(program.port)) == 3)
        program.stop(pid)


def test_a_leader_that_is_killed_leaves_nothing_behind():
    with start() as program:
        pid = program.wait_serving()
        port = program.port
        kept = [connect(port) for _ in range(6)]
        pids = workers(port)
        for connection in kept:
            connection.request("GET", "/slow?1")
        responses = [connection.getresponse() for connection in kept]
        os.kill(pid, signal.SIGKILL)
        for response in responses:
            with contextlib.suppress(Exception):
                response.read()
        program.process.wait()
        until(lambda: not set(pids) & set(program.pids()))
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


def test_a_fork_server_that_is_killed_costs_a_reload_only_with_the_next_worker():
    with start() as program:
        program.wait_serving()
        pids = workers(program.port)
        (fork_server,) = set(program.pids()) - set(pids)
        os.kill(fork_server, signal.SIGKILL)
        until(lambda: fork_server not in program.pids())
        assert workers(program.port) == pids
        os.kill(pids[2], signal.SIGKILL)
        program.wait("and the fork server; a reload replaces all")
        new = program.wait_serving(1)
        wait_settled(program, new)
        program.stop(new)


def test_shutdown_in_a_handler_ends_all(tmp_path):
    port = free_port()
    path = tmp_path / "program.py"
    path.write_text(
        SERVER + "import os, threading\n"
        "class Handler(BaseRequestHandler):\n"
        "    def handle(self):\n"
        "        self.request.sendall(b'%d' % os.getpid())\n"
        "        if self.request.recv(10) == b'end': self.server.shutdown()\n"
        f"with Server(('127.0.0.1', {port}), Handler) as server:\n    server.serve_forever()\n"
        "print('left', os.getpid())\n"
    )
    with Program(path) as program:
        pid = program.wait_serving()

        def end_from_worker():
            with socket.create_connection(("127.0.0.1", port)) as client:
                if int(client.recv(10)) == pid:
                    return False
                client.sendall(b"end")
                return True

        until(end_from_worker)  # the workers accept a moment after the leader
        program.wait(f"left {pid}")
        program.wait_alone(None)
        assert program.text.count("left") == 1


# -- reloads ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "unix", "more"),
    [
        ("ThreadingHTTPServer", False, {}),
        slow("ThreadingHTTPServer", True, {}),
        slow("HTTPServer", False, {}),
        slow("ThreadingHTTPServer", False, {"ENDLESS_PY_REUSE_THREADS": "yes"}),
        slow("ThreadingHTTPServer", False, {"ENDLESS_PY_KEEP_PID": "yes"}),
    ],
)
def test_many_reloads_under_load_lose_nothing(kind, unix, more, tmp_path):
    path = str(tmp_path / "socket")
    with start(kind, path if unix else 0, **more) as program:
        pid = program.wait_serving()
        address = path if unix else program.port
        idle = connect(address)
        idle.request("GET", "/")
        idle.getresponse().read()
        name = idle.sock.getsockname() if idle.sock else None
        with Load(address, keep_alive=kind != "HTTPServer") as load:
            last = often(20)
            for generation in range(1, last + 1):
                program.reload(generation, pid)
                load.wait_answer(f"{generation} ")
                if more.get("ENDLESS_PY_KEEP_PID"):
                    until(lambda: not state(address)["bridge"])
                    until(lambda: state(address)["phase"] == "serving")
                pid = until(lambda n=generation: leader_of(address, n))
        assert load.lost == []
        if kind != "HTTPServer":
            idle.request("GET", "/")
            assert idle.getresponse().read().startswith(b"%d " % last)
            assert idle.sock.getsockname() == name
        idle.close()
        wait_settled(program, pid)
        program.stop(pid)


@pytest.mark.slow
def test_idle_connections_keep_their_connection_and_are_shared_out():
    with start() as program:
        pid = program.wait_serving()
        kept = [connect(program.port) for _ in range(30)]
        for connection in kept:
            connection.request("GET", "/")
            connection.getresponse().read()
        names = [connection.sock.getsockname() for connection in kept]
        new = program.reload(1, pid)
        wait_settled(program, new)
        counts = collections.Counter()
        for connection in kept:
            connection.request("GET", "/")
            counts[connection.getresponse().read()] += 1
        assert names == [connection.sock.getsockname() for connection in kept]
        assert sorted(counts.values()) == [10, 10, 10]
        for connection in kept:
            connection.close()
        program.stop(new)


def test_a_request_in_flight_in_a_worker_is_finished():
    with start() as program:
        pid = program.wait_serving()
        kept = [connect(program.port) for _ in range(6)]
        for connection in kept:
            connection.request("GET", "/slow?1")
        responses = [connection.getresponse() for connection in kept]
        new = program.reload(1, pid)
        bodies = {response.read() for response in responses}
        assert len(bodies) > 1
        assert all(body.startswith(b"0 ") for body in bodies)
        wait_settled(program, new)
        program.stop(new)


def test_a_worker_that_does_not_become_ready_fails_the_reload(tmp_path):
    fails = tmp_path / "fails"
    port = free_port()
    path = tmp_path / "program.py"
    path.write_text(
        "import os, endless_py\n"
        "from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer\n"
        "class Server(ThreadingHTTPServer):\n    workers = 3\n"
        "@endless_py.on_worker_start\ndef begin(number):\n"
        f"    if number == 2 and os.path.exists({str(fails)!r}): os._exit(7)\n"
        "class Handler(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n        self.end_headers()\n"
        "        self.wfile.write(b'%d %d end' % (endless_py.generation(), os.getpid()))\n"
        "    def log_message(self, *_): pass\n"
        f"with Server(('127.0.0.1', {port}), Handler) as server:\n    server.serve_forever()\n"
    )
    with Program(path) as program:
        pid = program.wait_serving()
        fails.touch()
        os.kill(pid, signal.SIGHUP)
        program.wait("reload failed: generation 1 .* exited with status 1 before it was ready")
        assert {get(port)[0] for _ in range(9)} == {"0"}
        wait_settled(program, pid)
        fails.unlink()
        new = program.reload(1, pid)
        wait_settled(program, new)
        assert {get(port)[0] for _ in range(9)} == {"1"}
        program.stop(new)


@pytest.mark.slow
def test_a_successor_that_dies_while_the_workers_drain():
    with start() as program:
        pid = program.wait_serving()
        port = program.port
        kept = [connect(port) for _ in range(6)]
        for connection in kept:
            connection.request("GET", "/slow?3")
        responses = [connection.getresponse() for connection in kept]
        new = program.reload(1, pid)
        time.sleep(0.3)
        os.kill(new, signal.SIGKILL)
        program.wait("this one accepts again")
        until(lambda: {get(port)[0] for _ in range(9)} == {"0"})
        assert all(response.read().endswith(b"end") for response in responses)
        until(lambda: len(workers(port)) == 3)
        os.kill(pid, signal.SIGHUP)
        new = until(lambda: leader_of(port, 1))
        wait_settled(program, new)
        program.stop(new)


@pytest.mark.slow
def test_the_number_may_change(tmp_path):
    number = tmp_path / "number"
    number.write_text("2")
    path = tmp_path / "program.py"
    path.write_text(
        "import json, endless_py\n"
        "from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer\n"
        "class Server(ThreadingHTTPServer):\n"
        f"    workers = int(open({str(number)!r}).read())\n"
        "class Handler(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n        self.end_headers()\n"
        "        self.wfile.write(json.dumps(endless_py.state()).encode())\n"
        "    def log_message(self, *_): pass\n"
        "with Server(('127.0.0.1', 0), Handler) as server:\n    server.serve_forever()\n"
    )
    with Program(path) as program:
        pid = program.wait_serving()
        assert len(workers(program.port)) == 2
        for generation, count in enumerate((4, 1, 3), 1):
            number.write_text(str(count))
            pid = program.reload(generation, pid)
            left = count + 1 if count > 1 else 1
            until(lambda left=left: program.process.poll() or len(program.pids()) == left)
            assert len(workers(program.port)) == (count if count > 1 else 0)
        program.stop(pid)


@pytest.mark.slow
def test_reloads_of_https_lose_nothing(tmp_path):
    with https(tmp_path, settings="workers = 3") as program:
        pid = program.wait_serving()
        with SecureLoad(program.port) as load:
            for generation in range(1, 21):
                load.wait_answer(f"{generation - 1} ")
                pid = program.reload(generation, pid)
            load.wait_answer("20 ")
        assert load.lost == []
        wait_settled(program, pid)
        program.stop(pid)


ECHO = """
import os, time, endless_py
from endless_py.socketserver import {kind}, BaseRequestHandler
class Server({kind}):
    workers = 3
class Handler(BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        time.sleep(0.002)
        sock.sendto(b"%d %d " % (endless_py.generation(), os.getpid()) + data, self.client_address)
with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ThreadingUDPServer", slow("UDPServer")])
def test_datagrams(kind, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(ECHO.format(kind=kind))
    with Program(path) as program, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        pid = program.wait_serving()
        client.connect(("127.0.0.1", program.port))
        client.settimeout(10)
        seen = collections.Counter()
        for generation in range(6):
            if generation:
                pid = program.reload(generation, pid)
            for number in range(100):
                client.send(b"%d" % number)
                if number % 10 == 9:
                    for _ in range(10):
                        words = client.recv(100).split()
                        seen[int(words[0]), int(words[1])] += 1
        assert sum(seen.values()) == 600
        assert len([1 for generation, _ in seen if generation == 5]) == 3
        wait_settled(program, pid)
        program.stop(pid)


ADMIN = """
import atexit, os, endless_py
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Server(ThreadingHTTPServer):
    workers = 3
    pid_file = {path!r}
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/reload" and worker:
            endless_py.reload()
        elif self.path == "/stop":
            endless_py.stop()
        elif self.path == "/ready":
            endless_py.ready()
        body = f"{{endless_py.generation()}} {{os.getpid()}} {{endless_py.wait_for_predecessor(5)}}"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *_): pass
@endless_py.on_worker_start
def begin(number):
    global worker
    worker = number
    if number:
        atexit.register(os.write, 1, b"ends %d\\n" % number)
worker = 0
atexit.register(lambda: print("the program ends", os.getpid()))
with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""


def test_a_handler_in_a_worker_may_reload_and_stop(tmp_path):
    file = tmp_path / "pid"
    path = tmp_path / "program.py"
    path.write_text(ADMIN.format(path=str(file)))

    with Program(path) as program:
        pid = program.wait_serving()
        until(lambda: file.read_text() == f"{pid}\n")
        until(lambda: int(get(program.port, "/reload").split()[1]) != pid)  # a worker does so
        program.wait(r"reload\(\) in worker \d \(pid \d+\): started generation 1")
        new = program.wait_serving(1)
        wait_settled(program, new)
        until(lambda: file.read_text() == f"{new}\n")
        assert {get(program.port, "/ready").split()[2] for _ in range(6)} == {"True"}
        get(program.port, "/stop")
        program.wait_alone(None)
        assert not file.exists()
        assert program.text.count("the program ends") == 2
        assert program.lines.count("ends 1") == program.lines.count("ends 2") == 2
