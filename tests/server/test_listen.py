"""Servers that are not socketserver's: asyncio's, alone and beside ours; files passed by name."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest
from harness import TIMEOUT, Load, Program, first, get, tool

import endless_py


class Client:
    """A line client that keeps one connection."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.file = self.socket.makefile("rwb")

    def ask(self):
        self.file.write(b"hello\n")
        self.file.flush()
        return self.file.readline().decode().split()

    def close(self):
        self.file.close()
        self.socket.close()


class Lines(threading.Thread):
    """Connects and asks without a pause; `lost` says what went wrong."""

    def __init__(self, port):
        super().__init__()
        self.port, self.lost, self.answers, self.stopping = port, [], set(), threading.Event()
        self.start()

    def run(self):
        while not self.stopping.is_set():
            try:
                client = Client(self.port)
                for _ in range(3):
                    self.answers.add(client.ask()[0])
                client.close()
            except (OSError, IndexError) as error:
                self.lost.append(repr(error))

    def stop(self):
        self.stopping.set()
        self.join(TIMEOUT)


def start(folder, *words, code=""):
    (folder / "code").write_text(code)
    return Program("asyncio_server.py", folder, *words)


def ports(program):
    """Return the ports of the HTTP server and of the line server."""
    found = re.findall(r"serves tcp 127.0.0.1:(\d+)", program.text)
    client = Client(found[0])
    first_is_web = not client.ask()[0].isdigit()  # our line is no request, and it says so
    client.close()
    return [int(port) for port in (found if first_is_web else reversed(found))]


@pytest.mark.slow
@pytest.mark.parametrize("keep", first([False, True]))
def test_an_asyncio_server_loses_nothing(keep, tmp_path):
    with start(tmp_path, code=f"keep_pid = {keep}") as program:
        pid = program.wait_serving()
        load = Lines(program.port)
        for generation in range(1, 6):
            os.kill(pid, signal.SIGHUP)
            line = program.wait(rf"\[(\d+)\] generation {generation}: generation .* has ended")
            assert (int(line[1]) == pid) is keep
            pid = int(line[1])
            program.wait_alone(pid)
        load.stop()
        assert load.lost == []
        assert {"0", "5"} <= load.answers
        program.stop(pid)


@pytest.mark.slow
def test_beside_a_threading_server_both_are_handed_over_in_one_reload(tmp_path):
    with start(tmp_path, "beside") as program:
        pid = program.wait_serving(0, 2)
        web, lines = ports(program)
        load = Lines(lines)
        kept = Client(lines)
        assert kept.ask() == ["0", str(pid)]
        with Load(web, keep_alive=False) as http:
            for generation in range(1, 4):
                new = program.reload(generation, pid, 2)
                if generation == 1:
                    assert kept.ask() == ["0", str(pid)]  # it drains as long as this lasts
                    kept.close()
                program.wait_alone(new)
                assert get(web) == f"{generation} {new} end"
                pid = new
        load.stop()
        assert http.lost == []
        assert load.lost == []
        program.stop(pid)


BOTH_CHECK = """
from endless_py._reload import process

@endless_py.check
def slow():  # until a second thread wants to say ready as well
    while sum(listener.unchecked for listener in process.current.listeners.all) < 2:
        threading.Event().wait(0.01)
    print("checked", flush=True)
"""


def test_two_threads_that_say_ready_at_once_wait_for_the_check_and_say_it_once(tmp_path):
    with start(tmp_path, "beside", code=BOTH_CHECK) as program:
        pid = program.wait_serving(0, 2)
        new = program.reload(1, pid, 2)
        program.wait_alone(new)
        program.stop(new)
        said = [line for line in program.lines if "serves tcp" in line or line == "checked"]
        assert ["serves" in line for line in said] == [False, True, True] * 2
        assert len(set(said)) == 5


@pytest.mark.slow
def test_a_drain_that_does_not_end_is_ended(tmp_path):
    with start(tmp_path, code="drain_timeout = 0.5") as program:
        pid = program.wait_serving()
        client = Client(program.port)
        client.ask()
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert client.file.readline() == b""
        client.close()
        program.stop(new)


@pytest.mark.slow
def test_when_the_successor_dies_another_one_is_started(tmp_path):
    with start(tmp_path) as program:
        pid = program.wait_serving()
        client = Client(program.port)
        client.ask()
        new = program.reload(1, pid)
        program.wait("finishing ")
        os.kill(new, signal.SIGKILL)
        program.wait("has no on_resume; a new successor takes it")
        program.wait(
            r"\[(\d+)\] generation 1: serves",
            program.lines.index(program.wait("died without a word").string),
        )
        other = Client(program.port)
        assert other.ask()[0] == "1"
        assert client.ask() == ["0", str(pid)]
        client.close()
        last = int(other.ask()[1])
        other.close()
        program.wait_alone(last)
        program.stop(last)


def test_it_is_stopped_and_asked_like_the_others(tmp_path):
    with start(tmp_path) as program:
        pid = program.wait_serving()
        client = Client(program.port)
        assert client.ask() == ["0", str(pid)]
        os.kill(pid, signal.SIGTERM)
        program.wait("finishing ")
        assert client.ask() == ["0", str(pid)]
        client.close()
        program.wait_alone(None)
        program.wait("cleaned up")


@pytest.mark.slow
def test_a_program_that_became_a_daemon_is_reloaded(tmp_path):
    code = "if endless_py.generation() == 0 and os.fork(): os._exit(0)"
    with start(tmp_path, code=code) as program:
        pid = program.wait_serving()
        assert pid != program.pid
        new = program.reload(1, pid)
        program.wait_alone(new)
        program.stop(new)


@pytest.mark.slow
def test_an_idle_one_makes_no_system_call(tmp_path):
    with start(tmp_path) as program:
        pid = program.wait_serving()
        new = program.reload(1, pid)
        program.wait_alone(new)
        program.wait("has ended")
        while len(os.listdir(f"/proc/{new}/task")) > 1:
            time.sleep(0.01)  # the helper thread's end
        words = [tool("strace"), "-f", "-c", "-p", str(new)]
        watcher = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert "attached" in watcher.stderr.readline()
        threading.Event().wait(1.5)
        watcher.send_signal(signal.SIGINT)
        table = watcher.communicate(timeout=TIMEOUT)[1]
        calls = re.findall(r"^ +[\d.]+ .* (\w+)$", table, re.M)
        assert {*calls} <= {"epoll_wait", "restart_syscall", "total"}
        program.stop(new)


@pytest.mark.slow
def test_files_go_along_by_name(tmp_path):
    code = """
path = folder / "log"
found = endless_py.passed_file("log")
if found is None:
    with open(path, "w+") as file:
        endless_py.pass_file("log", file)
    path.unlink()  # only who has it open can write to it
    found = endless_py.passed_file("log")
os.write(found, b"generation %d\\n" % endless_py.generation())
print("has", os.pread(found, 100, 0), os.get_inheritable(found), flush=True)
os.close(found)
if endless_py.generation() == 2:
    endless_py.pass_file("log", None)
    print("none", endless_py.passed_file("log"), flush=True)
    endless_py.pass_file("log", open(os.devnull, "r+b", 0))
"""
    with start(tmp_path, code=code) as program:
        pid = program.wait_serving()
        for generation in (1, 2, 3):
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
        program.wait(r"has b'generation 0\\ngeneration 1\\ngeneration 2\\n' False")
        program.wait("none None")
        program.wait(r"has b'' False")
        program.stop(pid)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: endless_py.pass_file("", 1), ValueError),
        (lambda: endless_py.pass_file("endless_py: x", 1), ValueError),
        (lambda: endless_py.pass_file("x" * 201, 1), ValueError),
        (lambda: endless_py.pass_file("closed", 9999), OSError),
        (lambda: endless_py.listen(("127.0.0.1", 0), keep_pid="maybe"), ValueError),
        (lambda: endless_py.listen(("127.0.0.1", 0), color="red"), TypeError),
        (lambda: endless_py.listen(("192.0.2.1", 1)), OSError),
    ],
)
def test_wrong_arguments(call, error):
    with pytest.raises(error):
        call()


def test_a_unix_socket(tmp_path):
    code = f"""
path = {str(tmp_path / "socket")!r}
real = endless_py.listen
endless_py.listen = lambda address, **more: real(path, **more)
"""
    with start(tmp_path, code=code) as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "socket"))
                client.sendall(b"hello\n")
                assert client.recv(100).split()[1] == str(pid).encode()
        program.stop(pid)
        assert not (tmp_path / "socket").exists()
