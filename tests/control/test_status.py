"""status -v, --watch, without TARGET; --json of reload and stop; what is said while one waits."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest
from commands import command, finish, start_command
from harness import TIMEOUT, Program, connect, environment, get, until

from endless_py._control.client import Deadline
from endless_py._control.output import Says
from endless_py._control.status import lines, waits_for


@pytest.fixture
def server():
    variables = {"ENDLESS_PY_DRAIN_TIMEOUT": "20", "ENDLESS_PY_KEEP_PID": "false"}
    with Program("http_server.py", "ThreadingHTTPServer", 0, env=environment(**variables)) as found:
        found.wait_serving()
        yield found
        for pid in found.pids():
            os.kill(pid, signal.SIGUSR2)
        found.wait_alone(None)


class Slow:
    """A request that is being handled until `end()`, however long a command takes to look."""

    def __init__(self, port, folder):
        self._end = folder / "end"
        self.path = f"/until?{self._end}"
        self.client = connect(port)
        self.client.request("GET", self.path)
        response = self.client.getresponse()
        self._thread = threading.Thread(target=response.read)
        self._thread.start()

    def end(self):
        self._end.touch()
        self._thread.join(TIMEOUT)


@pytest.fixture
def slow_request(server, tmp_path):
    found = Slow(server.port, tmp_path)
    yield found
    found.end()


@pytest.mark.slow
def test_who_is_served_for_how_long_and_what_was_counted(server, slow_request):
    idle = connect(server.port)
    idle.request("GET", "/")
    idle.getresponse().read()
    address = "{}:{}".format(*slow_request.client.sock.getsockname())
    status, output, _ = command("status", "-v", server.pid)
    slow_request.end()
    assert status == 0
    assert re.search(r"^since the first start: requests 2, connections accepted 2, ", output, re.M)
    rows = output.partition("REQUEST\n")[2].splitlines()
    assert re.match(rf"{server.pid} +{address} +\d+\.\d s +tcp \S+ +GET /until\?\S+", rows[0])
    assert rows[1].endswith("(idle)")
    assert len(rows) == 2
    shown = json.loads(command("status", "-v", "--json", server.pid)[1])["generations"][0]
    assert shown["until"] is None
    assert all(one["idle"] for one in shown["connections"])
    idle.close()


@pytest.mark.slow
def test_until_when_a_drain_lasts(server, slow_request):
    new = server.reload(1, server.pid)
    server.wait("finishing 1")
    (old, _) = json.loads(command("status", "--json", new)[1])["generations"]
    assert old["phase"] == "draining"
    assert 5 < old["until"] - time.time() <= 20


def test_without_a_target_every_server_of_this_user_is_shown(server):
    status, output, _ = command("status", "--json")
    assert status == 0
    found = [
        one
        for one in json.loads(output)["servers"]
        if server.pid in [state["pid"] for state in one["generations"]]
    ]
    assert len(found) == 1
    assert "http_server.py" in " ".join(found[0]["command"])
    assert re.search(
        rf"http_server\.py .*:\n  GENERATION .*\n  0 +{server.pid} ", command("status")[1]
    )


def test_reload_and_stop_as_json(server):
    status, output, _ = command("reload", "--json", "--wait-drained", server.pid)
    found = json.loads(output)
    assert (status, found["result"], found["generation"]) == (0, "done", 1)
    assert found["drained"] == [server.pid]
    pid = found["pid"]
    status, output, errors = command("reload", "--json", server.pid)
    found = json.loads(output)
    assert (status, found["status"], found["result"]) == (1, 1, "failed")
    assert found["reason"] in errors
    status, output, _ = command("stop", "--json", pid)
    assert json.loads(output) == {"result": "done", "status": 0, "pids": [pid], "cut": 0}


def test_a_failed_reload_as_json_has_the_output(tmp_path):
    code = tmp_path / "server.py"
    good = (
        "from endless_py.http.server import *\n"
        "ThreadingHTTPServer(('127.0.0.1', 0), BaseHTTPRequestHandler).serve_forever()\n"
    )
    code.write_text(good)
    with Program(command=[sys.executable, str(code)]) as program:
        pid = program.wait_serving()
        code.write_text("raise RuntimeError('no database')")
        status, output, errors = command("reload", "--json", pid)
        found = json.loads(output)
        assert (status, found["result"], found["generation"]) == (1, "failed", 1)
        assert found["reason"].endswith("; this one goes on serving: RuntimeError: no database")
        assert found["output"][-1] == "RuntimeError: no database"
        assert found["reason"] in errors
        shown = command("status", pid)[1]
        assert re.search(r"last reload: .* failed: .*: RuntimeError: no database$", shown, re.M)
        program.stop(pid)


@pytest.mark.slow
def test_without_a_terminal_each_change_is_one_line(server, slow_request):
    stopping = start_command("stop", server.pid)
    said = stopping.stderr.readline()
    assert re.fullmatch(r"waits: 1 connection, at most 1?\d s\n", said)
    slow_request.end()
    output, errors = stopping.communicate(timeout=TIMEOUT)
    assert (stopping.returncode, errors) == (0, "")
    assert output.startswith("stopped: ")


class OnTerminal:
    """A command on a terminal of its own, and what it writes there."""

    def __init__(self, *words, **variables):
        self.text = ""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "endless_py", *map(str, words)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(**variables),
        )
        os.close(slave)
        self._master = master
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                data = b""
            if not data:
                return
            self.text += data.decode()

    def end(self):
        status = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        os.close(self._master)
        return status


@pytest.mark.slow
def test_on_a_terminal_it_is_redrawn_in_place(server, slow_request):
    stopping = OnTerminal("stop", server.pid)
    drawn = r"\rwaits: 1 connection, at most \d+ s\x1b\[K"
    until(lambda: len(re.findall(drawn, stopping.text)) >= 2)
    slow_request.end()
    assert stopping.end() == 0
    assert re.search(r"\r\x1b\[Kstopped: pid \d+ has ended\r\n$", stopping.text)


@pytest.mark.slow
def test_who_waits_may_leave(server, slow_request):
    stopping = start_command("stop", server.pid)
    server.wait("finishing 1")
    stopping.send_signal(signal.SIGINT)
    status, _, errors = finish(stopping)
    assert status == 130
    assert "stop is not waited for any more; nothing was undone" in errors


@pytest.mark.slow
def test_status_is_watched_in_place_over_a_reload(server):
    watching = OnTerminal("status", "--watch", server.pid)
    until(lambda: re.search(rf"{server.pid} +serving", watching.text))
    new = server.reload(1, server.pid)
    until(lambda: re.search(rf"{new} +serving", watching.text))
    server.wait_alone(new)
    since = len(watching.text)
    until(lambda: re.search(rf"\x1b\[H.*{new} +serving", watching.text[since:], re.S))
    watching.process.send_signal(signal.SIGINT)
    assert watching.end() == 0
    assert "Traceback" not in watching.text


@pytest.mark.parametrize("plain", [False, True])
def test_colours_are_for_terminals_without_no_color(plain):
    failing = OnTerminal("status", "999999", NO_COLOR="1" if plain else "", TERM="xterm")
    assert failing.end() == 1
    assert ("\x1b[31m" in failing.text) != plain
    assert "\x1b" not in command("status", "999999")[2]


def test_what_an_older_version_answers_is_shown():
    state = {
        "pid": 1,
        "generation": 0,
        "phase": "draining",
        "since": 0.0,
        "bridge": False,
        "servers": [{"address": "tcp a:1", "active": 2, "idle": 1}],
        "successor": None,
        "predecessors": [],
        "last_reload": None,
    }
    assert len(lines([state], verbose=True)) == 4
    assert waits_for([state]) == "3 connections"
    assert waits_for([{**state, "until": time.time() + 41.2}]) == "3 connections, at most 41 s"


def test_a_change_is_said_once(capsys):
    says = Says()
    for text in (
        "2 connections, at most 41 s",
        "2 connections, at most 40 s",
        "1 connection, at most 39 s",
    ):
        says.waits(text)
    assert capsys.readouterr().err.splitlines() == [
        "waits: 2 connections, at most 41 s",
        "waits: 1 connection, at most 39 s",
    ]


def test_nothing_is_asked_where_nobody_waits():
    ticks = []
    deadline = Deadline(10, lambda: ticks.append(1))
    deadline.tick()
    assert ticks == []
    assert 0 < deadline.until_tick() <= 1
    assert Deadline(10).until_tick() is None


def test_the_server_of_a_folder_can_be_clicked(tmp_path):
    with Program(
        command=[sys.executable, "-m", "endless_py", "0", "-b", "127.0.0.1"], cwd=tmp_path
    ) as program:
        program.wait_serving()
        assert f"(http://127.0.0.1:{program.port}/)" in program.lines[0]
        assert get(program.port)
        program.stop(program.pid)
