"""What a program can have called, decide and ask."""

from __future__ import annotations

import os
import re
import signal
import socket

import pytest
from harness import TIMEOUT, Program, get

import endless_py


def start(folder, code):
    (folder / "code").write_text(code)
    return Program("hooked.py", folder)


def said(program, generation):
    """Return what this generation has printed."""
    return [line[2:] for line in program.lines if re.match(rf"{generation} [a-z]", line)]


EVERYTHING = """
for name in ("HUP", "USR1", "USR2", "INT", "TERM", "TSTP"):
    number = getattr(signal, "SIG" + name)
    endless_py.before_signal(number)(lambda name=name: say("before", name))
    endless_py.after_signal(number)(lambda name=name: say("after", name))
endless_py.before_reload(lambda: say("before reload", endless_py.state()["phase"]))
endless_py.check(lambda: say("check", endless_py.state()["phase"]))
endless_py.on_ready(lambda: say("ready", endless_py.is_reloaded()))
endless_py.on_draining(lambda: say("draining", endless_py.state()["phase"]))
endless_py.on_drained(lambda: say("drained", endless_py.state()["phase"]))
"""


def test_every_hook_is_called_in_order(tmp_path):
    with start(tmp_path, EVERYTHING) as program:
        pid = program.wait_serving()
        program.wait("0 ready False")
        for name in ("USR1", "TSTP"):
            os.kill(pid, getattr(signal, f"SIG{name}"))
            program.wait(f"0 after {name}")
        new = program.reload(1, pid)
        program.wait_alone(new)
        os.kill(new, signal.SIGTERM)
        program.wait_alone(None)
        program.wait("1 drained drained")
        assert said(program, 0) == [
            "check serving",
            "ready False",
            "before USR1",
            "after USR1",
            "before TSTP",
            "after TSTP",
            "before HUP",
            "before reload preparing",
            "after HUP",
            "draining draining",
            "drained drained",
        ]
        assert said(program, 1) == [
            "check serving",
            "ready True",
            "before TERM",
            "draining stopping",
            "after TERM",
            "drained drained",
        ]


def test_a_hook_that_raises_is_logged_and_keeps_nothing_from_happening(tmp_path):
    code = """
def broken(): raise ValueError("oh")
for add in (endless_py.before_signal(signal.SIGHUP), endless_py.on_draining, endless_py.on_drained):
    add(broken)
"""
    with start(tmp_path, code) as program:
        pid = program.wait_serving()
        new = program.reload(1, pid)
        program.wait_alone(new)
        for kind in (r"before_signal\(SIGHUP\) hook", "draining hook", "drained hook"):
            line = program.wait(f"the {kind} broken raised ValueError").string
            assert f"[{pid}] generation 0" in line
        program.stop(new)


def test_a_check_that_fails_makes_the_reload_fail(tmp_path):
    with start(tmp_path, "") as program:
        pid = program.wait_serving()
        (tmp_path / "code").write_text(
            "@endless_py.check\ndef database(): raise RuntimeError('no database')"
        )
        os.kill(pid, signal.SIGHUP)
        program.wait("RuntimeError: no database")
        program.wait("reload failed: generation 1 .* exited with status 1")
        assert get(program.port) == "0 end"
        program.stop(pid)


WARM = """
Server.ready_on_serve = False
def warm_up():
    if (folder / "gate").exists(): (folder / "gate").read_text()
    say("warm")
    endless_py.ready()
threading.Thread(target=warm_up, daemon=True).start()
"""


def test_a_program_that_warms_up_first_serves_nothing_until_it_says_ready(tmp_path):
    with start(tmp_path, WARM) as program:
        pid = program.wait_serving()
        os.mkfifo(tmp_path / "gate")
        os.kill(pid, signal.SIGHUP)
        with (tmp_path / "gate").open("w"):
            program.wait("started generation 1")
            assert [get(program.port) for _ in range(20)] == ["0 end"] * 20
        new = program.wait_serving(1)
        program.wait_alone(new)
        assert get(program.port) == "1 end"
        program.stop(new)


def test_a_fresh_program_that_warms_up_lets_its_clients_wait(tmp_path):
    os.mkfifo(tmp_path / "gate")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    code = WARM + f"Server.allow_reuse_address = True\nServer.__init__.__defaults__\nPORT = {port}"
    code += "\nreal = Server.server_bind\n"
    code += "def server_bind(self):\n    self.server_address = ('127.0.0.1', PORT); real(self)\n"
    code += "Server.server_bind = server_bind\n"
    code += "endless_py.check(lambda: say('check'))\n"
    with start(tmp_path, code) as program, (tmp_path / "gate").open("w") as gate:
        while True:
            try:
                client = socket.create_connection(("127.0.0.1", port), TIMEOUT)
                break
            except ConnectionRefusedError:
                assert program.process.poll() is None
        with client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client.settimeout(0.3)
            with pytest.raises(socket.timeout):  # TimeoutError from 3.10 on
                client.recv(1)
            gate.close()
            client.settimeout(TIMEOUT)
            assert client.makefile("rb").read().endswith(b"0 end")
        program.wait("0 check")
        assert said(program, 0) == ["warm", "check"]
        program.stop(program.wait_serving())


def test_a_program_can_wait_until_its_predecessor_is_gone(tmp_path):
    code = """
@endless_py.on_ready
def begin():
    def wait():
        say("waited", endless_py.wait_for_predecessor(0.01), endless_py.wait_for_predecessor())
        say("alone", endless_py.state()["predecessors"])
    threading.Thread(target=wait).start()
"""
    with start(tmp_path, code) as program:
        pid = program.wait_serving()
        program.wait("0 waited True True")
        with socket.create_connection(("127.0.0.1", program.port)) as client:
            client.sendall(b"GET / HTTP/1.0\r\nX: ")  # keeps the old generation draining
            while not _active(pid, program):
                pass
            new = program.reload(1, pid)
            program.wait("finishing 1 requests")
            client.sendall(b"\r\n\r\n")
            client.makefile("rb").read()
        program.wait("1 waited (True|False) True")
        program.wait(r"1 alone \[\]")
        program.wait_alone(new)
        program.stop(new)


def _active(pid, program):
    return len(os.listdir(f"/proc/{pid}/task")) > 1


USR2_RELOADS = """
endless_py.set_signals(
    reload=[signal.SIGUSR2], stop=[signal.SIGQUIT, signal.SIGTERM], hammer=[signal.SIGUSR1]
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True])
def test_other_signals_can_do_it(keep, tmp_path):
    with start(tmp_path, USR2_RELOADS + f"Server.keep_pid = {keep}") as program:
        pid = program.wait_serving()
        program.wait(rf"kill -USR2 {pid} reloads, -QUIT stops")
        for generation in (1, 2):
            os.kill(pid, signal.SIGUSR2)
            new = program.wait_serving(generation)
            program.wait(rf"\[{new}\] generation {generation}: .* has ended")
            assert (new == pid) is keep
            pid = new
            program.wait_alone(pid)
        os.kill(pid, signal.SIGQUIT)
        program.wait("SIGQUIT; finishing")
        program.wait_alone(None)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"reload": [signal.SIGKILL]}, "SIGKILL cannot be used"),
        ({"reload": [1234]}, "1234 is not a valid"),
        ({"reload": [signal.SIGHUP], "stop": [signal.SIGHUP]}, "SIGHUP cannot reload and stop"),
        ({"stop": [signal.SIGURG]}, "SIGURG cannot be used"),
    ],
)
def test_signals_that_cannot_be_used(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        endless_py.set_signals(**arguments)
