"""What is counted: exactly, for good, and on through every reload."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import weakref

import pytest
from harness import Load, Program, environment, get, slow, until

from endless_py._reload.counters import NAMES, Counters
from endless_py._reload.listener import Listener
from endless_py._sockets.connection import Connection


def counters(port):
    return json.loads(get(port, "/state"))["counters"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "keep_pid"),
    [
        ("ThreadingHTTPServer", "false"),
        slow("ThreadingHTTPServer", "true"),
        slow("HTTPServer", "false"),
    ],
)
def test_no_number_falls_and_none_is_lost_in_reloads(kind, keep_pid):
    with Program(
        "http_server.py", kind, 0, env=environment(ENDLESS_PY_KEEP_PID=keep_pid)
    ) as program:
        pid, port, seen, asked = program.wait_serving(), program.port, [], 0
        with Load(port, keep_alive=kind != "HTTPServer") as load:
            for generation in range(1, 4):
                load.wait_answer(f"{generation - 1} ")
                pid = program.reload(generation, pid)
                load.wait_answer(f"{generation} ")
                for _ in range(5):
                    seen.append(counters(port))
                    asked += 1
                pid = program.pid if keep_pid == "true" else pid
                program.wait_alone(pid)
        assert load.lost == []
        # The very last handlers end when their clients have got their answers.
        wanted = len(load.answers) + asked

        def settled():
            nonlocal wanted
            wanted += 1  # this one
            seen.append(counters(port))
            return seen[-1]["requests"] >= wanted

        until(settled)
        last = seen[-1]
        assert last["requests"] == wanted
        assert set(last) == set(NAMES)
        for before, after in zip(seen, seen[1:]):
            assert all(before[name] <= after[name] for name in NAMES), (before, after)
        assert (last["reloads_done"], last["reloads_failed"]) == (3, 0)
        assert last["connections_cut"] == 0
        assert 0 < last["connections_accepted"] <= wanted
        if kind == "ThreadingHTTPServer":
            assert last["connections_migrated_in"] == last["connections_migrated_out"] > 0


@pytest.mark.slow
def test_a_failed_reload_and_what_is_cut_are_counted(tmp_path):
    code = tmp_path / "server.py"
    good = (
        "import json, time, endless_py\n"
        "from endless_py.http.server import *\n"
        "class Handler(BaseHTTPRequestHandler):\n"
        "    def log_message(self, *_): pass\n"
        "    def do_GET(self):\n"
        "        if self.path == '/hang': time.sleep(1000)\n"
        "        self.send_response(200)\n"
        "        self.end_headers()\n"
        "        self.wfile.write(json.dumps(endless_py.state()).encode())\n"
        "class Server(ThreadingHTTPServer):\n"
        "    daemon_threads, drain_timeout, keep_pid = True, 0.2, False\n"
        "Server(('127.0.0.1', 0), Handler).serve_forever()\n"
    )
    code.write_text(good)
    with Program(command=[sys.executable, str(code)]) as program:
        pid, port = program.wait_serving(), program.port
        code.write_text("broken")
        os.kill(pid, signal.SIGHUP)
        program.wait("reload failed")
        assert counters(port)["reloads_failed"] == 1
        code.write_text(good)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /hang HTTP/1.0\r\n\r\n")
            until(lambda: counters(port)["requests"] >= 2)
            new = program.reload(1, pid)
            program.wait_alone(new)
        found = counters(port)
        assert (found["reloads_done"], found["reloads_failed"]) == (1, 1)
        assert found["connections_cut"] == 1
        program.stop(new)


def test_a_thread_for_each_request_counts_each_of_them():
    """Handlers end in many threads while others ask for the sum: it is exact, and never falls."""
    sums, owner = Counters(), type("Server", (), {})()
    listener = Listener(owner)
    sums.know(listener)
    connections, seen, done = listener.connections, [], threading.Event()

    def handle():
        for _ in range(300):
            request = object()
            connection = connections.active[id(request)] = Connection(request, None)
            for _ in range(3):
                connection.count.requests += 1
            assert connections.end(request)
            assert not connections.end(request)

    def ask():
        while not done.is_set():
            seen.append(sums.totals()["requests"])
            sums.fold(connections)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    threads = [threading.Thread(target=handle) for _ in range(8)]
    for thread in [*threads, *asking]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    for thread in asking:
        thread.join()
    assert sums.totals()["requests"] == 8 * 300 * 3
    assert not connections.ended


class Told:
    """A successor, as the one that hands its numbers on sees it."""

    def __init__(self):
        self.heard = Counters()

    def say(self, word, numbers):
        assert word == "counted"
        self.heard.heard(numbers)


def test_each_successor_is_told_everything_once():
    sums, first, second = Counters(), Told(), Told()
    sums.add("requests", 5)
    sums.hand_on(first)
    sums.add("requests", 2)
    sums.hand_on(first)
    sums.hand_on(first)
    assert first.heard.totals()["requests"] == 7
    sums.hand_on(second)  # the first one has died
    assert second.heard.totals() == sums.totals()


def test_a_server_that_is_gone_keeps_its_part():
    sums = Counters()
    owners = [type("Server", (), {})() for _ in range(3)]
    for owner in owners:
        listener = Listener(owner)
        sums.know(listener)
        sums.know(listener)
        listener.connections.accepted += 1
        connection = listener.connections.active[1] = Connection(1, None)
        listener.connections.ended.append(connection.count)
        gone = weakref.ref(listener)
    del owner, listener, connection
    until(lambda: gone() is None)
    sums.know(Listener(owners[0]))
    assert sums.totals()["connections_accepted"] == 3
    assert sums.totals()["requests"] == 3
    assert len(sums._servers) == 1
