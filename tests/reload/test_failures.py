"""A successor that fails changes nothing, and signals at any moment do what they should."""

from __future__ import annotations

import http.client
import os
import signal
import threading

import pytest
from custom_code import SERVE, custom
from harness import TIMEOUT, Program, descriptors, first, get, settled_descriptors, until

FAILURES = {
    "syntax error": ("def", "exited with status 1"),
    "exception": ("raise RuntimeError('broken')", "exited with status 1"),
    "exit": ("sys.exit(0)", "exited with status 0"),
    "hang": ("time.sleep(60)", "killed by SIGKILL.*not ready within 5 s"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    "log": ("open('/', 'w')", "exited with status 1"),
    "port": ("import socket; socket.socket().bind(('192.0.2.1', 1))", "exited with status 1"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code").write_text("")
    (tmp_path / "version").write_text("v0")
    return tmp_path


def slow_request(folder, port, answers):
    thread = threading.Thread(target=lambda: answers.append(get(port, "/slow")))
    thread.start()
    while not (folder / "slow").exists():
        assert thread.is_alive()
    return thread


@pytest.mark.parametrize("name", first(FAILURES, 3))
def test_a_successor_that_fails_changes_nothing(name, folder):
    code, reason = FAILURES[name]
    (folder / "code").write_text("ready_timeout = 5" if name == "hang" else "")
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        before = settled_descriptors(pid)
        (folder / "code").write_text(code)
        os.kill(pid, signal.SIGHUP)
        program.wait("started generation 1")
        assert get(program.port) == "v0 end"
        program.wait(rf"reload failed: generation 1 .*{reason}.*goes on serving")
        program.wait_alone(pid)  # a zombie would count
        assert get(program.port) == "v0 end"
        until(lambda: descriptors(pid) == before)
        (folder / "code").write_text("")
        (folder / "version").write_text("v1")
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert get(program.port) == "v1 end"
        program.stop(new)


def test_the_code_that_serves_was_started_after_the_last_hup(folder):
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        (folder / "code").write_text("import os; open(sys.argv[1] + '/gate').read()")
        os.mkfifo(folder / "gate")
        os.kill(pid, signal.SIGHUP)
        with open(folder / "gate", "w"):  # the successor has started and waits for the end
            (folder / "code").write_text("")
            for number in range(10):
                (folder / "version").write_text(f"v{number}")
                os.kill(pid, signal.SIGHUP)
            program.wait("another one follows")
        last = program.wait_serving(2)
        program.wait_alone(last)
        assert get(program.port) == "v9 end"
        program.stop(last)


def test_a_hup_to_a_draining_process_is_passed_on(folder):
    answers: list[str] = []
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        thread = slow_request(folder, program.port, answers)
        program.reload(1, old)
        program.wait("finishing ")
        (folder / "version").write_text("v2")
        os.kill(old, signal.SIGHUP)
        last = program.wait_serving(2)
        (folder / "go").touch()
        thread.join(TIMEOUT)
        program.wait_alone(last)
        assert answers == ["v0 end"]
        assert get(program.port) == "v2 end"
        program.stop(last)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_is_active(number, folder):
    answers: list[str] = []
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        thread = slow_request(folder, program.port, answers)
        os.kill(pid, number)
        program.wait("finishing ")
        (folder / "go").touch()
        thread.join(TIMEOUT)
        assert answers == ["v0 end"]
        assert program.process.wait(TIMEOUT) == 0
        program.wait("cleaned up")
        assert ("KeyboardInterrupt" in program.text) == (number == signal.SIGINT)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGUSR2])
def test_a_second_order_cuts_what_is_active_and_names_it(second, folder):
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        answers: list[str] = []
        thread = slow_request(folder, program.port, answers)
        os.kill(pid, signal.SIGTERM)
        program.wait("finishing ")
        os.kill(pid, second)
        program.wait(r"cuts 127\.0\.0\.1:\d+ on tcp .*, active for [0-9.]+ s")
        program.wait_alone(None)
        thread.join(TIMEOUT)
        assert answers != ["v0 end"]


def test_a_stop_during_a_reload_ends_both(folder):
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        os.mkfifo(folder / "gate")
        (folder / "code").write_text("open(sys.argv[1] + '/gate').read()")
        os.kill(pid, signal.SIGHUP)
        with open(folder / "gate", "w"):
            os.kill(pid, signal.SIGTERM)
            program.wait_alone(None)
        assert program.process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("victim", ["incumbent", "successor"])
def test_sigkill_while_the_incumbent_drains_leaves_the_other_serving(victim, folder):
    answers: list[str] = []
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        thread = slow_request(folder, program.port, answers)
        (folder / "version").write_text("v1")
        new = program.reload(1, old)
        program.wait("finishing ")
        dead, left = (old, new) if victim == "incumbent" else (new, old)
        os.kill(dead, signal.SIGKILL)
        program.wait("has ended" if victim == "incumbent" else "accepts again")
        assert get(program.port) == ("v1 end" if victim == "incumbent" else "v0 end")
        (folder / "go").touch()
        thread.join(TIMEOUT)
        assert victim == "incumbent" or answers == ["v0 end"]
        program.wait_alone(left)
        program.stop(left)


def test_sigkill_of_the_incumbent_before_ready_leaves_the_successor_serving(folder):
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        port = program.port
        os.mkfifo(folder / "gate")
        (folder / "code").write_text("open(sys.argv[1] + '/gate').read()")
        os.kill(old, signal.SIGHUP)
        with open(folder / "gate", "w"):
            os.kill(old, signal.SIGKILL)
            program.process.wait(TIMEOUT)
        new = program.wait_serving(1)
        assert get(port) == "v0 end"
        program.wait_alone(new)
        program.stop(new)


DIES_AT_THE_HAMMER = """
import select
from endless_py._reload import drain, process
ThreadingHTTPServer.drain_timeout = 0.2
plain, killed = drain.Drain.check, []
def check(self):
    serving = process.current.listeners.all[0]
    hammer = serving.drain_deadline is not None and time.monotonic() >= serving.drain_deadline
    plain(self)
    if hammer and process.current.generation == 0 and not killed:
        killed.append(True)
        ThreadingHTTPServer.drain_timeout = 60
        os.kill(process.current.successor.pid, signal.SIGKILL)
        end = select.poll()
        end.register(process.current.successor.channel.fileno(), 0)
        end.poll()
        while len(serving.connections):  # what was cut ends in the meantime
            time.sleep(0.01)
drain.Drain.check = check
"""


@pytest.mark.slow
def test_a_successor_that_dies_at_the_very_end_of_the_drain_is_noticed(tmp_path):
    """What the incumbent has found out before it cut its handlers may be true no more."""
    with custom(tmp_path, DIES_AT_THE_HAMMER + SERVE) as program:
        pid = program.wait_serving()
        held = http.client.HTTPConnection("127.0.0.1", program.port, timeout=TIMEOUT)
        held.request("GET", "/slow")
        until((tmp_path / "slow").exists)
        os.kill(pid, signal.SIGHUP)
        program.wait_serving(1)
        program.wait("drain time is over: cuts")
        (tmp_path / "go").touch()
        program.wait("died without a word.*accepts again|drained")
        program.wait_alone(pid)
        held.close()
        # The next drain has all its time again.
        held.request("GET", "/")
        assert held.getresponse().read().startswith(b"0 ")
        new = program.reload(1, pid, 2)
        program.wait_alone(new)
        held.request("GET", "/")
        assert held.getresponse().read().startswith(b"1 ")
        assert "idle connections are left" not in program.text
        held.close()
        program.stop(new)
