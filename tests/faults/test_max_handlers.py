"""A bound on a server's handlers: the rest waits in the accept queue, and a reload loses none."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from harness import (
    TIMEOUT,
    Program,
    connect,
    environment,
    get,
    queued,
    reloads_under_load,
    slow,
    until,
)

CODE = """
class Counting(Handler):
    lock, active, protocol_version = threading.Lock(), 0, "HTTP/{protocol}"

    def do_GET(self):
        with self.lock:
            Counting.active += 1
            print("active", self.active, flush=True)
        time.sleep(float(self.path.partition("?")[2] or 0))
        super().do_GET()
        with self.lock:
            Counting.active -= 1

class Server({kind}):
    {bound}
    request_queue_size = 128
    drain_timeout = 20
"""
ONE = "with Server(('127.0.0.1', 0), Counting) as server: server.serve_forever()"


@pytest.fixture
def folder(tmp_path):
    """Writes what custom.py runs."""

    def write(bound, kind="ThreadingHTTPServer", then=ONE, protocol="1.1"):
        code = CODE.format(kind=kind, bound=bound, protocol=protocol)
        (tmp_path / "code").write_text(code + then)
        return tmp_path

    return write


def active(pid):
    """Return how many handlers a process has, on all of its servers, idle ones too."""
    done = subprocess.run(
        [sys.executable, "-m", "endless_py", "status", "--json", str(pid)],
        env=environment(),
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
        check=True,
    )
    generations = json.loads(done.stdout)["generations"]
    servers = [s for g in generations if g["pid"] == pid for s in g["servers"]]
    return sum(s["active"] + s["idle"] for s in servers)


def ask_in_thread(port, path, answers):
    thread = threading.Thread(target=lambda: answers.append(get(port, path)))
    thread.start()
    return thread


def most(program):
    return max(map(int, re.findall(r"^active (\d+)$", program.text, re.M)))


def test_no_more_run_than_there_may(folder):
    path = folder("max_handlers = 2")
    answers: list[str] = []
    with Program("custom.py", path) as program:
        pid = program.wait_serving()
        threads = [ask_in_thread(program.port, "/slow", answers) for _ in range(6)]
        until(lambda: queued(program.port) == 4)
        assert active(pid) == 2
        assert not answers
        (path / "go").touch()
        for thread in threads:
            thread.join(TIMEOUT)
        assert len(answers) == 6
        assert most(program) == 2
        program.stop(pid)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "bound", "protocol"),
    [
        ("ThreadingHTTPServer", "max_handlers = 4", "1.1"),
        # One connection that is kept alive would hold the only handler.
        slow("ThreadingHTTPServer", "max_handlers = 1", "1.0"),
        slow("ForkingHTTPServer", "max_children = 4", "1.1"),
    ],
    ids=["threads", "one thread", "forks"],
)
def test_reloads_under_the_bound_lose_nothing(kind, bound, protocol, folder):
    path = folder(bound, kind, protocol=protocol)
    with Program("custom.py", path) as program:
        reloads_under_load(program, 5, keep_alive=protocol == "1.1")


def test_what_migrates_is_served_even_where_the_bound_is_reached(folder):
    """Else a client with two connections could wait for itself."""
    path = folder("max_handlers = 2")
    with Program("custom.py", path) as program:
        old = program.wait_serving()
        idle, busy, fresh, late = (connect(program.port) for _ in range(4))
        idle.request("GET", "/")
        assert idle.getresponse().read().startswith(b"0 ")
        busy.request("GET", "/slow")
        until((path / "slow").exists)
        new = program.reload(1, old)
        program.wait("finishing ")
        fresh.request("GET", "/")
        assert fresh.getresponse().read().startswith(b"1 ")
        until(lambda: active(new) == 2)  # asked before, the old one would still answer
        idle.request("GET", "/")
        assert idle.getresponse().read().startswith(b"1 ")
        late.request("GET", "/")
        until(lambda: queued(program.port) == 1)
        (path / "go").touch()
        assert busy.getresponse().read().startswith(b"0 ")
        program.wait_alone(new)
        busy.request("GET", "/")
        assert busy.getresponse().read().startswith(b"1 ")
        assert active(new) == 3
        assert queued(program.port) == 1
        busy.close()
        fresh.close()
        assert late.getresponse().read().startswith(b"1 ")
        for client in (idle, late):
            client.close()
        program.stop(new)


def test_a_stop_serves_the_accept_queue_under_the_bound(folder):
    path = folder("max_handlers = 1")
    answers: list[str] = []
    with Program("custom.py", path) as program:
        pid = program.wait_serving()
        threads = [ask_in_thread(program.port, "/slow", answers) for _ in range(5)]
        until(lambda: queued(program.port) == 4)
        os.kill(pid, signal.SIGTERM)
        program.wait("finishing ")
        (path / "go").touch()
        for thread in threads:
            thread.join(TIMEOUT)
        assert len(answers) == 5
        assert most(program) == 1
        program.wait_alone(None)


@pytest.mark.slow
def test_an_address_that_is_gone_is_served_to_its_end_under_the_bound(folder):
    two = """
servers = [Server(('127.0.0.1', 0), Counting) for _ in range(1 if (folder / 'one').exists() else 2)]
for server in servers[1:]:
    print("second", server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
"""
    path = folder("max_handlers = 1", then=two)
    answers: list[str] = []
    with Program("custom.py", path) as program:
        old = program.wait_serving(count=2)
        second = int(program.wait(r"second (\d+)")[1])
        (path / "one").touch()
        threads = [ask_in_thread(second, "/slow", answers) for _ in range(4)]
        until(lambda: queued(second) == 3)
        new = program.reload(1, old)
        gone = program.wait(r"the new code has no tcp 127.0.0.1:(\d+)")[1]
        (path / "go").touch()
        for thread in threads:
            thread.join(TIMEOUT)
        assert len(answers) == 4
        assert int(gone) == second
        program.wait_alone(new)
        program.stop(new)


@pytest.mark.parametrize("value", ["0", "-1", "'many'", "1.5"])
def test_a_wrong_bound_is_named(value, folder):
    with Program("custom.py", folder(f"max_handlers = {value}")) as program:
        program.wait(f"^ValueError: max_handlers must be None or at least 1, not {value}$")
        assert program.process.wait(TIMEOUT) == 1
