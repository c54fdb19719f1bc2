"""The serving loop: no polling, no blocking, nothing left over; and classes of others."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from custom_code import COUNTS, SERVE, custom, slow_request
from harness import (
    PROGRAMS,
    TIMEOUT,
    Load,
    Program,
    connect,
    cpu,
    environment,
    get,
    reloads_under_load,
    tool,
    until,
)

import endless_py

FORKS = SERVE.replace("ThreadingHTTPServer", "ForkingHTTPServer")


def sockets(pid):
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{name}")
        if target.startswith("socket:"):
            found[target] = int(name)
    return found


def test_shutdown_answers_at_once_from_any_thread(tmp_path):
    code = """
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
thread = threading.Thread(target=server.serve_forever, args=(1000,))
for number in range(3):
    thread = threading.Thread(target=server.serve_forever, args=(1000,))
    thread.start()
    while not endless_py.state()["servers"][0]["accepting"]:
        time.sleep(0.001)
    server.shutdown()
    thread.join()
    print("returned", number, flush=True)
server.server_close()
"""
    with custom(tmp_path, code) as program:
        program.wait("returned 2")
        assert program.process.wait(TIMEOUT) == 0


def test_shutdown_from_a_handler_thread_and_from_the_loop_itself(tmp_path):
    code = """
class Server(HTTPServer):
    def service_actions(self):
        self.shutdown()  # in the loop: the standard library would hang

with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever(0.01)
print("returned", flush=True)
"""
    with custom(tmp_path, code) as program:
        program.wait("returned")
        assert program.process.wait(TIMEOUT) == 0


def test_overridden_service_actions_run_at_poll_interval(tmp_path):
    code = """
class Server(ThreadingHTTPServer):
    count = 0
    def service_actions(self):
        self.count += 1
        if self.count == 20:
            print("twenty", time.monotonic() - start, flush=True)

start = time.monotonic()
with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever(0.05)
"""
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        took = float(program.wait(r"twenty ([\d.]+)")[1])
        assert took >= 18 * 0.05  # an interval, not a spin
        program.stop(pid)


@pytest.mark.slow
def test_a_loop_of_handle_request_is_reloaded(tmp_path):
    code = """
server = HTTPServer(("127.0.0.1", 0), Handler)
try:
    while True:
        server.handle_request()
finally:
    server.server_close()
    print("cleaned up", flush=True)
"""
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        with Load(program.port, keep_alive=False) as load:
            pid = program.wait_serving()
            for generation in range(1, 4):
                os.kill(pid, signal.SIGHUP)
                pid = program.wait_serving(generation)
                load.wait_answer(f"{generation} ")
        # Its handler has no pause of its own, so every kind of client is answered.
        assert load.lost == []
        program.wait_alone(pid)
        program.stop(pid)
        assert program.text.count("cleaned up") == 4


def test_handle_request_keeps_its_timeout(tmp_path):
    code = """
class Server(HTTPServer):
    timeout = 0.05
    def handle_timeout(self):
        print("timed out", flush=True)

with Server(("127.0.0.1", 0), Handler) as server:
    server.handle_request()
    server.handle_request()
print("over", flush=True)
"""
    with custom(tmp_path, code) as program:
        program.wait("over")
        assert program.text.count("timed out") == 2
        assert program.process.wait(TIMEOUT) == 0


def test_forked_handlers_are_reaped_when_they_end(tmp_path):
    with custom(tmp_path, FORKS) as program:
        pid = program.wait_serving()
        for _ in range(5):
            client = connect(program.port)
            client.request("GET", "/")
            client.getresponse().read()
            client.close()
        program.wait_alone(pid)  # a zombie would count, and no request comes any more
        program.stop(pid)


def test_a_forked_handler_holds_neither_listener_nor_channel(tmp_path):
    with custom(tmp_path, FORKS) as program:
        old = program.wait_serving()
        answers: list[str] = []
        thread = slow_request(tmp_path, program.port, answers)
        listeners = {
            "socket:[" + line.split()[9] + "]"
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if line.split()[1].endswith(f":{program.port:04X}") and line.split()[3] == "0A"
        }
        assert listeners & set(sockets(old))
        new = program.reload(1, old)
        program.wait("finishing ")
        (tmp_path / "slow").unlink()
        second = slow_request(tmp_path, program.port, answers)
        channel = set(sockets(new)) - set(sockets(old))
        handlers = [pid for pid in program.pids() if pid not in (old, new)]
        assert len(handlers) == 2
        for handler in handlers:
            assert not listeners & set(sockets(handler))
        for handler in handlers:  # what is only the serving process's: channel and wakers
            parent = int(Path(f"/proc/{handler}/stat").read_text().rpartition(")")[2].split()[1])
            # The drain signal's reader, and the way home. The parent has the request and both
            # ends of the way for a moment after the fork.
            until(lambda h=handler, p=parent: len(set(sockets(h)) & set(sockets(p))) <= 3)
        assert channel
        # The end of both serving processes is seen although handlers live on.
        os.kill(old, signal.SIGKILL)
        program.wait(rf"\(pid {old}\) has ended")
        (tmp_path / "go").touch()
        for waiting in (thread, second):
            waiting.join(TIMEOUT)
        assert [answer.split()[0] for answer in sorted(answers)] == ["0", "1"]
        program.wait_alone(new)
        program.stop(new)


def test_the_end_of_a_forked_handler_is_no_step_of_the_machine(tmp_path):
    """Its end of the pair is closed before it can be reaped, here for longer than usual."""
    code = """
from endless_py._reload import process

steps, step, exit = 0, process.current.step, os._exit

def counted():
    global steps
    steps += 1
    step()

def lingers(status):
    os.closerange(3, 256)
    time.sleep(0.05)
    exit(status)

class Tells(Handler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-Steps", str(steps))
        self.send_header("Content-Length", "0")
        self.end_headers()

process.current.step, os._exit = counted, lingers
"""
    code += FORKS.replace("Handler", "Tells")
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        taken = set()
        for _ in range(3):
            client = connect(program.port)
            client.request("GET", "/")
            taken.add(client.getresponse().headers["X-Steps"])
            client.close()
            program.wait_alone(pid)  # it is reaped nonetheless
        assert len(taken) == 1
        program.stop(pid)


def test_a_forked_handler_may_close_the_server_that_it_was_forked_from(tmp_path):
    code = """
class Closes(Handler):
    def do_GET(self):
        self.server.shutdown()
        self.server.server_close()
        numbers = [os.open(folder / "own", os.O_CREAT | os.O_RDWR) for _ in range(20)]
        self.server.server_close()
        endless_py.state()
        assert [os.write(number, b"own") for number in numbers] == [3] * 20
        super().do_GET()
"""
    code += FORKS.replace("Handler)", "Closes)")
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        assert get(program.port).split()[0] == "0"
        new = program.reload(1, pid)
        program.process.wait(TIMEOUT)
        assert get(program.port).split()[0] == "1"
        program.stop(new)


def test_a_forked_handler_reloads_by_a_signal_to_its_parent(tmp_path):
    code = """
class Reloads(Handler):
    def do_GET(self):
        if self.path == "/call":
            endless_py.reload()
            endless_py.stop()
        elif self.path == "/signal":
            os.kill(os.getppid(), signal.SIGHUP)
        super().do_GET()
"""
    code += FORKS.replace("Handler)", "Reloads)")
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        assert get(program.port, "/call").split()[0] == "0"
        program.wait_alone(pid)
        assert "started generation" not in program.text
        get(program.port, "/signal")
        new = program.wait_serving(1)
        program.process.wait(TIMEOUT)
        program.stop(new)


def answers_and_rests(folder, code, times):
    with custom(folder, code) as program:
        pid = program.wait_serving()
        for _ in range(times):
            assert get(program.port).split()[0] == "0"
        program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.slow
def test_a_forked_handler_may_ask_what_another_thread_was_asking_as_it_was_forked(tmp_path):
    code = """
class Asks(Handler):
    def do_GET(self):
        endless_py.state()
        super().do_GET()

def ask():
    while True:
        endless_py.state()

threading.Thread(target=ask, daemon=True).start()
with ForkingHTTPServer(("127.0.0.1", 0), Asks) as server:
    server.serve_forever()
"""
    answers_and_rests(tmp_path, code, 100)


def test_a_forked_handler_may_have_a_server_of_its_own(tmp_path):
    code = """
class Serves(Handler):
    def do_GET(self):
        with HTTPServer(("127.0.0.1", 0), Handler) as own:
            threading.Thread(target=own.serve_forever).start()
            with socket.create_connection(own.server_address) as client:
                client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                assert client.makefile("rb").read().startswith(b"HTTP/1.1 200")
            own.shutdown()
        super().do_GET()

with ForkingHTTPServer(("127.0.0.1", 0), Serves) as server:
    server.serve_forever()
"""
    answers_and_rests(tmp_path, code, 5)


def test_without_a_free_descriptor_the_loop_does_not_spin(tmp_path):
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
HTTPServer.request_queue_size = 100
{SERVE}"""
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        clients = [socket.create_connection(("127.0.0.1", program.port)) for _ in range(60)]
        program.wait("cannot accept on tcp .*: Too many open files; clients wait until")
        before, start = cpu(pid), time.monotonic()
        time.sleep(1)  # what it would spin in
        wall, used = time.monotonic() - start, cpu(pid) - before
        assert used < wall / 4
        assert program.text.count("cannot accept") == 1  # it is said again after ten seconds
        for client in clients[:50]:
            client.close()
        for client in clients[50:]:
            client.settimeout(TIMEOUT)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.makefile("rb").read().endswith(b"end")
            client.close()
        program.stop(pid)


@pytest.mark.parametrize("setting", ["reuse_threads = True", "max_requests = 9", "workers = 1"])
def test_what_few_servers_need_is_loaded_without_a_free_descriptor(setting, tmp_path):
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
class Server(ThreadingHTTPServer):
    {setting}
taken = []
@endless_py.on_worker_start
def begin(number):
    "Has the modules for workers loaded."
@endless_py.on_ready
def give_back():
    for descriptor in taken:
        os.close(descriptor)
with Server(("127.0.0.1", 0), Handler) as server:
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    server.serve_forever()
"""
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        assert get(program.port).startswith("0 ")
        assert "Errno 24" not in program.text
        program.stop(pid)


@pytest.mark.slow
def test_a_drain_without_a_free_descriptor_does_not_spin(tmp_path):
    code = f"""{COUNTS}
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

def fill():
    while not (folder / "fill").exists():
        time.sleep(0.01)
    try:
        while True:
            os.dup(0)
    except OSError:
        print("full", flush=True)

threading.Thread(target=fill).start()
{SERVE}
print("waited", waits, flush=True)
"""
    answers: list[str] = []
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        thread = slow_request(tmp_path, program.port, answers)
        (tmp_path / "fill").touch()
        program.wait("full")
        with socket.create_connection(("127.0.0.1", program.port), TIMEOUT):
            program.wait("cannot accept")
            os.kill(pid, signal.SIGTERM)
            program.wait("finishing ")
            time.sleep(1)  # what it would spin in
        (tmp_path / "go").touch()
        thread.join(TIMEOUT)
        assert int(program.wait(r"waited (\d+)")[1]) < 100
        assert program.process.wait(TIMEOUT) == 0
        assert answers[0].startswith("0 ")


@pytest.mark.slow
def test_a_program_that_ends_long_after_its_drain_does_not_spin(tmp_path):
    code = f"""{COUNTS}
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.drain_timeout = 0.1
server.serve_forever()
before = waits
time.sleep(1)  # it cleans up, for longer than a drain may take
print("waited", waits - before, flush=True)
"""
    with custom(tmp_path, code) as program:
        os.kill(program.wait_serving(), signal.SIGTERM)
        assert int(program.wait(r"waited (\d+)")[1]) < 100
        assert program.process.wait(TIMEOUT) == 0


@pytest.mark.slow
def test_max_children_during_a_reload(tmp_path):
    code = FORKS.replace("with F", "ForkingHTTPServer.max_children = 2\nwith F")
    with custom(tmp_path, code) as program:
        assert "has ended before it was ready" not in reloads_under_load(program, 5)


def test_a_program_that_waits_for_any_child_confuses_nothing(tmp_path):
    """ForkingMixIn's own waitpid(-1), or a program's, may reap the successor first."""
    code = f"""
def reap():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.001)

threading.Thread(target=reap, daemon=True).start()
if (folder / "bad").exists():
    sys.exit(7)
{SERVE}"""
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        (tmp_path / "bad").touch()
        os.kill(pid, signal.SIGHUP)
        program.wait("reload failed: .*(status was taken|with status 7).*goes on serving")
        (tmp_path / "bad").unlink()
        new = program.reload(1, pid)
        program.wait_alone(new)
        program.stop(new)


def test_the_backlog_of_the_new_code_takes_effect(tmp_path):
    code = f"HTTPServer.request_queue_size = int((folder / 'backlog').read_text())\n{SERVE}"

    def backlog(program):
        words = [tool("ss", "iproute2"), "-ltnH", f"sport = :{program.port}"]
        return int(subprocess.check_output(words, text=True).split()[2])

    (tmp_path / "backlog").write_text("7")
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        assert backlog(program) == 7
        (tmp_path / "backlog").write_text("9")
        pid = program.reload(1, pid)
        program.wait_alone(pid)
        assert backlog(program) == 9
        program.stop(pid)


@pytest.mark.parametrize("kind", ["ThreadingHTTPServer", "ForkingHTTPServer", "HTTPServer"])
def test_no_resource_is_leaked(kind, tmp_path):
    (tmp_path / "code").write_text(SERVE.replace("ThreadingHTTPServer", kind))
    program_path = PROGRAMS / "custom.py"
    env = environment(PYTHONWARNINGS="error", PYTHONDEVMODE="1")
    words = [sys.executable, str(program_path)]
    with Program(tmp_path, command=words, env=env) as program:
        pid = program.wait_serving()
        assert get(program.port).startswith("0 ")
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert get(program.port).startswith("1 ")
        program.stop(new)
        assert not re.search("Warning|Error|Exception", program.text), program.text


THIRD_PARTY = {
    "computes in server_bind": """
import socketserver as standard
class Theirs(standard.TCPServer):
    allow_reuse_address = True
    def server_bind(self):
        super().server_bind()
        self.computed = "port %d" % self.server_address[1]
    def server_activate(self):
        self.socket.listen(11)
        self.activated = True
class Server(endless_py.GracefulMixIn, standard.ThreadingMixIn, Theirs):
    def process_request(self, *arguments):
        assert self.computed == "port %d" % self.server_address[1] and self.activated
        super().process_request(*arguments)
""",
    "a pool of threads": """
import socketserver as standard
from concurrent.futures import ThreadPoolExecutor
class Theirs(standard.TCPServer):
    pool = ThreadPoolExecutor(20)
    def process_request(self, request, client_address):
        self.pool.submit(self.work, request, client_address)
    def work(self, request, client_address):
        try:
            self.finish_request(request, client_address)
        finally:
            self.shutdown_request(request)
class Server(endless_py.GracefulMixIn, Theirs):
    pass
""",
    "binds in its constructor": """
import socketserver as standard
class Theirs(standard.BaseServer):
    def __init__(self, address, handler):
        super().__init__(address, handler)
        self.socket = socket.socket()
        self.server_bind()
        self.socket.listen()
    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
    def fileno(self):
        return self.socket.fileno()
    def get_request(self):
        return self.socket.accept()
    def server_close(self):
        self.socket.close()
    def close_request(self, request):
        request.close()
class Server(endless_py.GracefulMixIn, standard.ThreadingMixIn, Theirs):
    pass
""",
    "wraps its connections": """
import socketserver as standard
class Theirs(standard.ThreadingTCPServer):
    def get_request(self):
        request, address = super().get_request()
        return request, ("wrapped", *address)
    def verify_request(self, request, client_address):
        return client_address[0] == "wrapped"
class Server(endless_py.GracefulMixIn, Theirs):
    pass
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", THIRD_PARTY)
def test_classes_of_others(name, tmp_path):
    code = THIRD_PARTY[name] + SERVE.replace("ThreadingHTTPServer", "Server")
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        with Load(program.port, keep_alive=name != "wraps its connections") as load:
            for generation in range(1, 5):
                pid = program.reload(generation, pid)
                load.wait_answer(f"{generation} ")
        assert load.lost == []
        program.wait_alone(pid)
        program.stop(pid)
        assert "Traceback" not in program.text


def settle(pids):
    """Wait until no thread of these processes has run for a quarter of a second."""
    looks = [b""]
    while len(looks) < 6 or len(set(looks[-6:])) > 1:
        look = b""
        for pid in pids:
            for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
                look += re.findall(rb"voluntary_ctxt_switches:.*", (task / "status").read_bytes())[
                    0
                ]
        looks.append(look)
        time.sleep(0.05)


def calls_in_five_seconds(pids, watchers):
    """Count the system calls of these processes, by name, for as long as the promise says."""
    settle(pids)
    begun = []
    for process in pids:
        words = [tool("strace"), "-f", "-p", str(process)]
        begun.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True))
    watchers += begun
    calls: list[str] = []
    readers = []
    for watcher in begun:
        attached = watcher.stderr.readline()
        assert "attached" in attached
        reader = threading.Thread(target=lambda w=watcher: calls.extend(w.stderr))
        reader.start()
        readers.append(reader)
    threading.Event().wait(5)
    for watcher in begun:
        watcher.send_signal(signal.SIGINT)
    for reader in readers:
        reader.join(TIMEOUT)
    # Each thread waits in one call that began before; strace says so when it attaches.
    waiting = re.compile(
        r"strace: Process|detached|resuming interrupted|restart_syscall|"
        r"^(\[pid +\d+\] )?(poll|ppoll|recvfrom|futex|read|select)\([^)]*(<unfinished.*)?$"
    )
    return Counter(
        re.sub(r"^(\[pid +\d+\] )?(\w+).*", r"\2", call.strip())
        for call in calls
        if call.strip() and (not waiting.search(call) or re.search(r"\) += \d", call))
    )


def test_an_idle_server_makes_no_system_call(tmp_path):
    """Fresh and reloaded, threading and forking, with an idle connection: all at once."""
    programs, watchers, clients = [], [], []
    try:
        for number, code in enumerate([SERVE, FORKS, SERVE, FORKS]):
            folder = tmp_path / str(number)
            folder.mkdir()
            program = custom(folder, code)
            programs.append(program)
            pid = program.wait_serving()
            client = connect(program.port)
            client.request("GET", "/")
            client.getresponse().read()
            clients.append(client)
            reloaded = number > 1
            if reloaded:
                program.reload(1, pid)
            # Until the old generation is gone; an idle connection that came from it has no process.
            expected = 2 if code is FORKS and not reloaded else 1
            while (program.process.poll() is None) is reloaded or len(program.pids()) != expected:
                time.sleep(0.01)
        kinds = Counter({"accept4": 1})
        for _ in range(5):
            # A server of another test that has lost its pid asks all of this user for its address.
            if "accept4" in kinds:
                pids = [process for program in programs for process in program.pids()]
                kinds = calls_in_five_seconds(pids, watchers)
        assert not kinds
    finally:
        for watcher in watchers:
            watcher.kill()
            watcher.wait()
        for client in clients:
            client.close()
        for program in programs:
            program.__exit__(None)


def test_serving_twice_at_once_or_after_the_end_is_said():
    server = endless_py.ThreadingHTTPServer(("127.0.0.1", 0), None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    while server._listener.loop_thread is None and thread.is_alive():
        time.sleep(0.001)
    with pytest.raises(RuntimeError, match="is being served, by another thread"):
        server.serve_forever()
    server.shutdown()
    thread.join(TIMEOUT)
    server.server_close()
    for again in (server.serve_forever, server.handle_request):
        with pytest.raises(ValueError, match="this server is closed"):
            again()
