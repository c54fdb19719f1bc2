"""`stop_delay`: after TERM it goes on accepting for so long, and says that it is not ready."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import threading
import time

import pytest
from harness import TIMEOUT, Program, environment, get

from endless_py import ThreadingHTTPServer
from endless_py._control.status import waits_for

DELAY = 1.0


def start(*words, delay: float = DELAY, **more: str) -> Program:
    return Program(*words, env=environment(ENDLESS_PY_STOP_DELAY=str(delay), **more))


def web(delay: float = DELAY, **more: str) -> Program:
    return start("http_server.py", "ThreadingHTTPServer", "0", delay=delay, **more)


def served_until_refused(port: int) -> float:
    """Ask without a pause until a client is refused; return how many seconds that took.

    Whoever is not refused is answered.
    """
    began = time.monotonic()
    while time.monotonic() < began + TIMEOUT:
        try:
            assert get(port).endswith("end")
        except (ConnectionRefusedError, ConnectionResetError):  # the listener closes just then
            return time.monotonic() - began
    raise AssertionError("it is never refused")


def test_it_accepts_for_so_long_and_then_drains():
    with web() as program:
        pid, port = program.wait_serving(), program.port
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        kept.request("GET", "/")
        kept.getresponse().read()
        os.kill(pid, signal.SIGTERM)
        program.wait(r"SIGTERM; goes on accepting for 1 s \(stop_delay\), unless it is told again")
        state = json.loads(get(port, "/state"))
        assert state["phase"] == "stopping soon"
        assert 0 < state["until"] - time.time() <= DELAY
        assert re.fullmatch("load balancers are to notice, at most [01] s", waits_for([state]))
        assert [server["accepting"] for server in state["servers"]] == [True]
        kept.request("GET", "/")
        response = kept.getresponse()
        assert (response.status, response.getheader("Connection")) == (200, None)
        response.read()
        assert served_until_refused(port) > DELAY / 2
        kept.close()
        program.wait("the stop_delay is over; finishing ")
        program.wait_alone(None)
        assert program.process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("kind", ["HTTPServer", "ForkingHTTPServer"])
def test_so_does_a_server_without_threads(kind):
    with start("http_server.py", kind, "0") as program:
        pid, port = program.wait_serving(), program.port
        os.kill(pid, signal.SIGTERM)
        assert served_until_refused(port) > DELAY / 2
        program.wait_alone(None)


def active(program: Program, tmp_path, answers: list[str]) -> threading.Thread:
    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answers.append(get(program.port, "/slow"))

    thread = threading.Thread(target=ask)
    thread.start()
    while not (tmp_path / "slow").exists():
        assert thread.is_alive()
    return thread


def custom(tmp_path, code: str = "") -> Program:
    server = "with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:\n"
    (tmp_path / "code").write_text(f"{code}\n{server}    server.serve_forever()")
    return start("custom.py", tmp_path, delay=60)


def test_a_second_order_ends_the_delay_and_a_third_what_is_active(tmp_path):
    answers: list[str] = []
    with custom(tmp_path) as program:
        pid = program.wait_serving()
        thread = active(program, tmp_path, answers)
        os.kill(pid, signal.SIGTERM)
        program.wait("SIGTERM; goes on accepting for 60 s")
        os.kill(pid, signal.SIGTERM)
        program.wait("SIGTERM; finishing 1 requests")
        served_until_refused(program.port)
        os.kill(pid, signal.SIGTERM)
        program.wait("drain time is over: cuts ")
        thread.join(TIMEOUT)
        (tmp_path / "go").touch()
        assert answers == []
        program.wait_alone(None)


def test_with_the_delay_over_a_second_order_ends_what_is_active(tmp_path):
    answers: list[str] = []
    with custom(tmp_path, "ThreadingHTTPServer.stop_delay = 0.1") as program:
        pid = program.wait_serving()
        thread = active(program, tmp_path, answers)
        os.kill(pid, signal.SIGTERM)
        program.wait("the stop_delay is over; finishing 1 requests")
        os.kill(pid, signal.SIGTERM)
        program.wait("drain time is over: cuts ")
        thread.join(TIMEOUT)
        (tmp_path / "go").touch()
        assert answers == []
        program.wait_alone(None)


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR2])
def test_an_interrupt_and_a_force_stop_do_not_wait(number, delayed, tmp_path):
    with custom(tmp_path) as program:
        pid = program.wait_serving()
        if delayed:
            os.kill(pid, signal.SIGTERM)
            program.wait("goes on accepting")
        os.kill(pid, number)
        program.wait(f"{signal.Signals(number).name}; finishing 0 requests")
        program.wait_alone(None)
        assert ("KeyboardInterrupt" in program.text) == (number == signal.SIGINT)


def test_stop_is_as_term_and_a_hup_meanwhile_is_ignored(tmp_path):
    (tmp_path / "asks").write_text("")
    code = "endless_py.before_signal(signal.SIGUSR1)(endless_py.stop)"
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        os.kill(pid, signal.SIGUSR1)
        program.wait(r"stop\(\); goes on accepting for 60 s")
        os.kill(pid, signal.SIGHUP)
        program.wait("an order to reload is ignored: this process is stopping soon")
        assert get(program.port) == f"0 {pid} {pid} end"
        os.kill(pid, signal.SIGUSR1)
        program.wait_alone(None)


@pytest.mark.slow
@pytest.mark.parametrize("ready", [False, True])
def test_a_reload_that_is_under_way_is_given_up(ready, tmp_path):
    """The new code hangs, with none of its servers ready or with one of the two."""
    code = "import endless_py, threading, time, os\n"
    code += "run = endless_py.ThreadingHTTPServer.serve_forever\n"
    code += "def hangs(self):\n"
    code += "    main = threading.current_thread() is threading.main_thread()\n"
    code += f"    if endless_py.generation() and (main or not {ready}):\n"
    code += f"        open({str(tmp_path / 'hangs')!r}, 'w').close(); time.sleep(60)\n"
    code += "    run(self)\n"
    code += "endless_py.ThreadingHTTPServer.serve_forever = hangs\n"
    (tmp_path / "code").write_text(code)
    more = {"LENT_CODE": str(tmp_path / "code")}
    with start("lent_server.py", "127.0.0.1:0", "127.0.0.1:0", delay=4, **more) as program:
        pid = program.wait_serving(count=2)
        ports = [int(port) for port in re.findall(r"serves tcp .*:(\d+);", program.text)]
        os.kill(pid, signal.SIGHUP)
        if ready:
            program.wait("generation 1: serves")
        while not (tmp_path / "hangs").exists():
            time.sleep(0.01)
        os.kill(pid, signal.SIGTERM)
        program.wait(rf"\[{pid}\].*SIGTERM; goes on accepting")
        program.wait_alone(pid)  # the new code is gone, and both addresses are served here
        for port in ports:
            assert get(port) == f"0 {pid} end"
        assert served_until_refused(ports[0]) > 0.5
        program.wait_alone(None)


@pytest.mark.slow
@pytest.mark.parametrize("told", ["old", "new", "both"])
def test_with_a_predecessor_that_drains(told, tmp_path):
    answers: list[str] = []
    with custom(tmp_path, f"ThreadingHTTPServer.stop_delay = {DELAY}") as program:
        old = program.wait_serving()
        thread = active(program, tmp_path, answers)
        new = program.reload(1, old)
        program.wait("finishing 1 requests")
        port = program.port
        for name, pid in (("old", old), ("new", new)):
            if told in (name, "both"):
                os.kill(pid, signal.SIGTERM)
        program.wait(rf"\[{new}\].*; goes on accepting for 1 s")
        assert served_until_refused(port) > DELAY / 2
        program.wait(rf"\[{new}\].*the stop_delay is over")
        assert "ends what is still active" not in program.text
        (tmp_path / "go").touch()
        thread.join(TIMEOUT)
        assert answers == [f"0 {old} {old} end"]
        program.wait_alone(None)


def test_a_second_order_to_the_predecessor_ends_the_delay_of_the_successor(tmp_path):
    answers: list[str] = []
    with custom(tmp_path) as program:
        old = program.wait_serving()
        thread = active(program, tmp_path, answers)
        new = program.reload(1, old)
        program.wait("finishing 1 requests")
        os.kill(old, signal.SIGTERM)
        program.wait(rf"\[{new}\].*a stop passed on by .*; goes on accepting for 60 s")
        os.kill(old, signal.SIGTERM)
        program.wait(rf"\[{new}\].*a stop passed on by .*; finishing 0 requests")
        assert "ends what is still active" not in program.text
        os.kill(old, signal.SIGTERM)
        program.wait(rf"\[{old}\].*drain time is over: cuts ")
        thread.join(TIMEOUT)  # before its handler could answer
        (tmp_path / "go").touch()
        assert answers == []
        program.wait_alone(None)


def test_an_interrupt_that_is_passed_on_does_not_wait_either(tmp_path):
    answers: list[str] = []
    with custom(tmp_path) as program:
        old = program.wait_serving()
        thread = active(program, tmp_path, answers)
        new = program.reload(1, old)
        program.wait("finishing 1 requests")
        os.kill(old, signal.SIGINT)
        program.wait(rf"\[{new}\].*a stop passed on by .*; finishing 0 requests")
        (tmp_path / "go").touch()
        thread.join(TIMEOUT)
        assert len(answers) == 1
        program.wait_alone(None)


GATE = "if pid == {}: open(folder / 'gate').read()"
STEPS = {
    "draining": ("active", "finishing "),
    "cleaning up": ("end", "finished; exiting"),
    "starting anew": ("start", "starts its program anew"),
    "bridge drains": ("bridge", r"generation 1 \(bridge\): generation 1 .* finishing "),
}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_with_a_kept_pid_it_is_kept_at_each_step(step, tmp_path):
    """TERM reaches the watched process, while it serves nothing or nothing yet."""
    place, line = STEPS[step]
    for name in ("start", "end"):
        (tmp_path / name).write_text("")
    os.mkfifo(tmp_path / "gate")
    answers: list[str] = []
    with start("kept.py", tmp_path) as program:
        pid, port, threads = program.wait_serving(), program.port, []

        def ask() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answers.append(get(port, "/gate"))

        def begin() -> None:
            threads.append(threading.Thread(target=ask))
            threads[0].start()
            while not (tmp_path / "in handler").exists():
                assert threads[0].is_alive()

        if place == "active":
            begin()
        elif place in ("end", "start", "bridge"):
            name = "end" if place == "end" else "start"
            (tmp_path / name).write_text(GATE.format(pid))
        os.kill(pid, signal.SIGHUP)
        if place == "bridge":
            with open(tmp_path / "gate", "w"):
                begin()
        program.wait(line)
        if place in ("end", "start"):
            with open(tmp_path / "gate", "w"):
                os.kill(pid, signal.SIGTERM)
        else:
            os.kill(pid, signal.SIGTERM)
        assert served_until_refused(port) > DELAY / 2
        assert "goes on accepting for 1 s" in program.text
        (tmp_path / "go").touch()
        for thread in threads:
            thread.join(TIMEOUT)
        assert [answer[-3:] for answer in answers] == ["end"] * len(threads)
        program.wait_alone(None)
        assert program.process.wait(TIMEOUT) in (0, -signal.SIGTERM)  # the watched one ends last


@pytest.mark.slow
def test_a_start_in_place_that_fails_after_the_order_leaves_nobody(tmp_path):
    (tmp_path / "end").write_text("")
    (tmp_path / "start").write_text("")
    os.mkfifo(tmp_path / "gate")
    with start("kept.py", tmp_path, delay=60) as program:
        pid = program.wait_serving()
        order = "import endless_py; endless_py.stop(); time.sleep(0.2); sys.exit(3)"
        code = f"if pid == {pid}: open(folder / 'gate').read(); {order}"
        (tmp_path / "start").write_text(code)
        os.kill(pid, signal.SIGHUP)
        program.wait("starts its program anew")
        with open(tmp_path / "gate", "w"):
            pass
        program.wait_alone(None)


@pytest.mark.parametrize("value", [-1, None, "5", float("nan")])
def test_what_it_cannot_be_is_said(value):
    kind = type("Server", (ThreadingHTTPServer,), {"stop_delay": value})
    with pytest.raises(ValueError, match=r"^stop_delay must be 0 or more seconds"):
        kind(("127.0.0.1", 0), None)
