"""A kept pid: the process hands everything to a bridge, starts anew in place, and gets it back."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from harness import (
    PROGRAMS,
    TIMEOUT,
    Load,
    Program,
    connect,
    first,
    free_port,
    get,
    often,
    slow,
    tool,
)

from endless_py._supervisor import detect as keep_pid

# In FOLDER/start or FOLDER/end: that process waits until the test opens the gate.
GATE = "if pid == {}: open(folder / 'gate').read()"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "start").write_text("")
    (tmp_path / "end").write_text("")
    return tmp_path


def reload(program, generation, pid):
    """HUP, and wait until this generation serves under the same pid and the bridge is gone."""
    os.kill(pid, signal.SIGHUP)
    assert program.wait_serving(generation) == pid
    program.wait(rf"\[{pid}\] generation {generation}: generation .* has ended")


def active_request(folder, port, answers):
    def ask():
        with contextlib.suppress(OSError, http.client.HTTPException):
            answers.append(get(port, "/gate"))

    thread = threading.Thread(target=ask)
    thread.start()
    while not (folder / "in handler").exists():
        assert thread.is_alive()
    return thread


def facts(pid):
    environ = Path(f"/proc/{pid}/environ").read_bytes()
    environ = re.sub(rb"\d", b"", environ)  # what names a pid is as long as the pid
    return (
        sorted(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in descriptors(pid)),
        len(environ),
        len(os.listdir(f"/proc/{pid}/task")),
    )


def descriptors(pid):
    return [int(name) for name in os.listdir(f"/proc/{pid}/fd")]


@pytest.mark.parametrize(
    "kind", ["ThreadingHTTPServer", slow("ForkingHTTPServer"), slow("HTTPServer")]
)
def test_the_pid_stays_and_nothing_is_lost_under_load(kind, folder):
    with Program("kept.py", folder, kind) as program:
        pid = program.wait_serving()
        with Load(program.port, keep_alive=kind != "HTTPServer") as load:
            for generation in range(1, 5):
                reload(program, generation, pid)
        assert load.lost == []
        assert get(program.port) == f"4 {pid} end"
        program.wait_alone(pid)
        program.stop(pid)
        assert "Traceback" not in program.text


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_many_reloads_leave_no_zombie_and_no_growth(folder):
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        seen, last = [], often(100)
        for generation in range(1, last + 1):
            reload(program, generation, pid)
            if generation in (3, last):
                program.wait_alone(pid)
                get(program.port)
                while len(os.listdir(f"/proc/{pid}/task")) > 1:
                    time.sleep(0.01)  # the handler's thread
                seen.append(facts(pid))
        assert seen[0] == seen[1]
        program.stop(pid)


@pytest.mark.slow
def test_a_connection_stays_open_through_every_hop(folder):
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        kept, idle = connect(program.port), connect(program.port)
        idle.connect()
        for generation in range(6):
            kept.request("GET", "/")
            assert kept.getresponse().read().decode() == f"{generation} {pid} end"
            if not generation:
                place = kept.sock.getsockname()
            assert kept.sock.getsockname() == place
            if generation < 5:
                reload(program, generation + 1, pid)
        idle.request("GET", "/")
        assert idle.getresponse().read().decode() == f"5 {pid} end"
        kept.close()
        idle.close()
        program.stop(pid)


@pytest.mark.slow
def test_the_old_program_cleans_up_before_the_new_one_starts(folder):
    (folder / "end").write_text("print('no newline', end='')")  # flushed by the exit alone
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        reload(program, 1, pid)
        text = program.text
        first = text.index("the very first exit function runs last")
        assert text.index("no newlinecleaned up") < first
        assert first < text.index(f"[{pid}] generation 1: serves")
        program.stop(pid)


@pytest.mark.slow
def test_a_bad_successor_changes_nothing(folder):
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        (folder / "start").write_text("sys.exit(3)")
        os.kill(pid, signal.SIGHUP)
        program.wait("reload failed: .* exited with status 3 .*goes on serving")
        program.wait_alone(pid)
        assert get(program.port) == f"0 {pid} end"
        (folder / "start").write_text("")
        reload(program, 1, pid)
        program.stop(pid)


@pytest.mark.slow
def test_a_hup_while_the_old_program_drains_or_cleans_up_is_not_lost(folder):
    """One is passed on to the bridge, one finds the process about to start anew."""
    answers: list[str] = []
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        thread = active_request(folder, program.port, answers)
        (folder / "end").write_text(GATE.format(pid))
        os.mkfifo(folder / "gate")
        os.kill(pid, signal.SIGHUP)
        program.wait(r"finishing ")
        os.kill(pid, signal.SIGHUP)
        program.wait(r"generation 2 \(bridge\): serves")
        (folder / "go").touch()
        thread.join(TIMEOUT)
        assert answers == [f"0 {pid} end"]
        with open(folder / "gate", "w"):
            (folder / "end").write_text("")
            seen = len(program.lines)
            os.kill(pid, signal.SIGHUP)
            program.wait(rf"\[{pid}\] .*SIGHUP", seen)
        program.wait(rf"\[{pid}\] generation [23]: serves")
        last = int((folder / "starts").read_text().split()[-1])
        assert last == pid
        program.wait_alone(pid)
        program.stop(pid)


def reload_during_the_drain(program, folder, answers):
    """HUP twice, the second time while a request keeps the pid draining: that is the bridge's."""
    pid = program.wait_serving()
    thread = active_request(folder, program.port, answers)
    os.kill(pid, signal.SIGHUP)
    program.wait("finishing ")
    os.kill(pid, signal.SIGHUP)
    return pid, thread


PID_FILE = "import endless_py; endless_py.GracefulMixIn.pid_file = folder / 'pid'\n"


@pytest.mark.slow
def test_a_bridge_is_reloaded_while_the_pid_file_has_the_kept_pid(folder):
    """The process that it names is no stranger to a bridge's bridge."""
    (folder / "start").write_text(PID_FILE)
    answers: list[str] = []
    with Program("kept.py", folder) as program:
        pid, thread = reload_during_the_drain(program, folder, answers)
        program.wait(r"generation 2 \(bridge\): serves|PidFileError")
        (folder / "go").touch()
        thread.join(TIMEOUT)
        assert program.wait_serving(2) == pid
        program.wait_alone(pid)
        assert (folder / "pid").read_text() == f"{pid}\n"
        reload(program, 3, pid)
        program.wait_alone(pid)
        program.stop(pid)
        assert "PidFileError" not in program.text


@pytest.mark.slow
def test_a_bridge_whose_own_reload_fails_hands_back(folder):
    third = "(folder / 'starts').read_text().count('\\n') == 3"
    # Its channel ends some time before it can be reaped; only then is the bridge free again.
    close = "os.close(int(os.environ['ENDLESS_PY_CHANNEL']))"
    failure = f"open(folder / 'gate').read(); {close}; time.sleep(0.3); sys.exit(3)"
    (folder / "start").write_text(f"if {third}: {failure}")
    os.mkfifo(folder / "gate")
    answers: list[str] = []
    with Program("kept.py", folder) as program:
        pid, thread = reload_during_the_drain(program, folder, answers)
        with open(folder / "gate", "w"):
            (folder / "go").touch()
            thread.join(TIMEOUT)
            program.wait("finished; exiting")
        program.wait(r"generation 1 \(bridge\): reload failed: generation 2")
        assert program.wait_serving(1) == pid
        program.wait_alone(pid)
        reload(program, 2, pid)
        program.wait_alone(pid)
        program.stop(pid)


STOPS = {
    "draining": ("active", "finishing "),
    "cleaning up": ("end", r"finished; exiting"),
    "starting anew": ("start", "starts its program anew"),
    "bridge drains": ("bridge", r"generation 1 \(bridge\): generation 1 .* finishing "),
}


@pytest.mark.parametrize("number", first([signal.SIGTERM, signal.SIGINT]))
@pytest.mark.parametrize("step", STOPS)
def test_a_stop_at_each_step_ends_everything(step, number, folder):
    place, line = STOPS[step]
    answers: list[str] = []
    os.mkfifo(folder / "gate")
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        threads = []
        if place == "active":
            threads.append(active_request(folder, program.port, answers))
        elif place == "end":
            (folder / "end").write_text(GATE.format(pid))
        elif place in ("start", "bridge"):
            (folder / "start").write_text(GATE.format(pid))
        os.kill(pid, signal.SIGHUP)
        program.wait(line) if place != "bridge" else None
        if place == "bridge":
            with open(folder / "gate", "w"):
                threads.append(active_request(folder, program.port, answers))
            program.wait(line)
        if place in ("end", "start"):
            with open(folder / "gate", "w"):
                os.kill(pid, number)
        else:
            os.kill(pid, number)
        (folder / "go").touch()
        for thread in threads:
            thread.join(TIMEOUT)
        assert len(answers) == len(threads)
        assert all(answer.endswith("end") for answer in answers)
        program.wait_alone(None)
        # The pid that is watched ends last.
        assert program.process.wait(TIMEOUT) in (0, -number, 1, 128 + number)


@pytest.mark.slow
def test_the_bridge_is_killed_while_the_old_program_drains(folder):
    answers: list[str] = []
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        thread = active_request(folder, program.port, answers)
        os.kill(pid, signal.SIGHUP)
        bridge = int(program.wait(r"\[(\d+)\] generation 1 \(bridge\): serves")[1])
        program.wait("finishing ")
        os.kill(bridge, signal.SIGKILL)
        program.wait("died without a word.*accepts again")
        assert get(program.port) == f"0 {pid} end"
        (folder / "go").touch()
        thread.join(TIMEOUT)
        reload(program, 1, pid)
        program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.slow
def test_new_code_that_dies_just_after_its_start_leaves_the_old_code_serving(folder):
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        (folder / "start").write_text(
            "import endless_py, threading\n"
            "endless_py.on_ready(lambda: threading.Timer(0.1, os._exit, [3]).start())"
        )
        os.kill(pid, signal.SIGHUP)
        program.wait(r"generation 1 \(bridge, pid \d+\) is ready.*finishing 0 requests")
        program.wait("died without a word.*accepts again")
        assert get(program.port) == f"0 {pid} end"
        (folder / "start").write_text("")
        reload(program, 1, pid)
        program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.slow
def test_the_bridge_is_killed_while_the_old_program_cleans_up(folder):
    os.mkfifo(folder / "gate")
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        (folder / "end").write_text("open(folder / 'gate').read()")
        os.kill(pid, signal.SIGHUP)
        program.wait("finished; exiting")
        with open(folder / "gate", "w"):
            (folder / "end").write_text("")
            bridge = int(program.wait(r"\[(\d+)\] generation 1 \(bridge\): hands back")[1])
            seen = len(program.lines)
            os.kill(bridge, signal.SIGKILL)
        found = program.wait(rf"\[{pid}\] generation 1: serves .*:(\d+);", seen)
        assert get(int(found[1])) == f"1 {pid} end"  # its listeners were on the way already
        program.wait_alone(pid)
        program.stop(pid)


BROKEN = {
    "dies": "sys.exit(4)",
    "hangs": "import time; time.sleep(60)",
    "is killed": "os.kill(os.getpid(), 9)",
}


def restarted(folder, port):
    """The program, as a supervisor's that starts it again when its pid has ended."""
    (folder / "port").write_text(str(port))
    program = str(PROGRAMS / "kept.py")
    return Program("restarting.py", sys.executable, program, folder)


@pytest.mark.slow
@pytest.mark.parametrize("how", first(BROKEN))
def test_a_start_in_place_that_fails_leaves_the_bridge_serving(how, folder):
    """A supervisor then starts the program again, in vain at first; at last it is given all."""
    port = free_port()
    (folder / "start").write_text(PID_FILE)
    with restarted(folder, port) as program:
        pid = program.wait_serving()
        with Load(port) as load:
            load.wait_answer(f"0 {pid} ")
            (folder / "start").write_text(
                f"{PID_FILE}ready_timeout = 2 if {how!r} == 'hangs' else 20\n"
                f"if pid == {pid}: {BROKEN[how]}\n"
            )
            os.kill(pid, signal.SIGHUP)
            line = rf"\[(\d+)\] generation 1: pid {pid} .* goes on serving under its own pid"
            bridge = int(program.wait(line)[1])
            load.wait_answer(f"1 {bridge} ")
            program.wait(f"ended with {4 if how == 'dies' else -signal.SIGKILL}$")
            new = int(program.wait(r"\[(\d+)\] generation 1: generation 1 .* has ended")[1])
            load.wait_answer(f"1 {new} ")
            assert new not in (pid, bridge)
            assert (folder / "pid").read_text() == f"{new}\n"
            reload(program, 2, new)  # the pid is kept as before
        assert load.lost == []
        os.kill(new, signal.SIGTERM)
        program.wait_alone(None)


@pytest.mark.slow
def test_a_bridge_that_has_lost_the_pid_serves_while_the_program_does_not_start(folder):
    port = free_port()
    with restarted(folder, port) as program:
        pid = program.wait_serving()
        with Load(port) as load:
            (folder / "start").write_text(f"if pid == {pid}: sys.exit(4)")
            os.kill(pid, signal.SIGHUP)
            program.wait(r"generation 1 \(bridge\): hands back")
            (folder / "start").write_text("sys.exit(5)")
            program.wait("ended with 5", len(program.lines))
            program.wait("ended with 5", len(program.lines))
            bridge = int(program.wait(r"\[(\d+)\] generation 1: .*under its own pid")[1])
            (folder / "start").write_text("")
            os.kill(bridge, signal.SIGHUP)  # it is reloaded as any server is, and keeps its pid
            load.wait_answer("2 ")
        assert load.lost == []


@pytest.mark.slow
def test_a_request_to_a_bridge_outlasts_further_reloads(folder):
    answers: list[str] = []
    gate = folder / "gate"
    os.mkfifo(gate)
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        (folder / "start").write_text(f"if pid == {pid}: open({str(gate)!r}).read()")
        os.kill(pid, signal.SIGHUP)
        program.wait(r"\(bridge\): hands back")
        with open(gate, "w"):
            (folder / "start").write_text("")
            thread = active_request(folder, program.port, answers)
        for generation in (1, 2, 3):
            program.wait(rf"\[{pid}\] generation {generation}: serves ")
            if generation < 3:
                os.kill(pid, signal.SIGHUP)
        (folder / "go").touch()
        thread.join(TIMEOUT)
        assert len(answers) == 1
        assert answers[0].startswith("1 ")
        assert answers[0].endswith("bridge end")
        assert "did not become the new code" not in program.text
        program.wait_alone(pid)
        program.stop(pid)


def test_the_kept_pid_is_killed_and_the_bridge_serves_on(folder):
    answers: list[str] = []
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        thread = active_request(folder, program.port, [])
        os.kill(pid, signal.SIGHUP)
        program.wait("finishing ")
        (folder / "in handler").unlink()
        second = active_request(folder, program.port, answers)
        os.kill(pid, signal.SIGKILL)
        found = program.wait(rf"\[(\d+)\] generation 1: pid {pid} has ended instead .*its own pid")
        bridge = int(found[1])
        (folder / "go").touch()
        for waiting in (thread, second):
            waiting.join(TIMEOUT)
        assert answers == [f"1 {bridge} bridge end"]
        assert get(program.port) == f"1 {bridge} end"
        program.wait_alone(bridge)
        program.stop(bridge)


@pytest.mark.slow
def test_what_does_not_start_any_more_is_not_started_in_place(folder):
    """A second deploy, while the old program drains, is broken: the first one goes on serving."""
    answers: list[str] = []
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        thread = active_request(folder, program.port, answers)
        os.kill(pid, signal.SIGHUP)
        bridge = int(program.wait(r"\[(\d+)\] generation 1 \(bridge\): serves")[1])
        program.wait("finishing ")
        (folder / "start").write_text("sys.exit(3)")
        os.kill(pid, signal.SIGHUP)
        program.wait("reload failed: generation 2")
        (folder / "go").touch()
        thread.join(TIMEOUT)
        program.wait(r"generation 1 \(bridge\): the start in place is put off.*status 3")
        assert get(program.port) == f"1 {bridge} bridge end"
        seen = len(program.lines)
        os.kill(pid, signal.SIGHUP)  # an order is an occasion to try it at once
        program.wait("the start in place is put off", seen)
        (folder / "start").write_text("")
        os.kill(pid, signal.SIGHUP)
        assert program.wait_serving(1) in (pid, bridge)
        program.wait_alone(pid)
        assert get(program.port) == f"1 {pid} end"
        program.stop(pid)


@pytest.mark.slow
def test_as_pid_1_of_a_namespace(folder):
    command = [
        tool("unshare", "util-linux"),
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        sys.executable,
    ]
    program_path = PROGRAMS / "kept.py"
    (folder / "start").write_text(
        "import endless_py; endless_py.ThreadingHTTPServer.keep_pid = 'auto'"
    )
    with Program(program_path, folder, command=command) as program:
        assert program.wait_serving() == 1
        outside = [pid for pid in program.pids() if pid != program.pid]
        assert len(outside) == 1
        with Load(program.port) as load:
            for generation in range(1, 6):
                os.kill(outside[0], signal.SIGHUP)
                program.wait(rf"\[1\] generation {generation}: generation .* has ended")
        assert load.lost == []
        assert get(program.port) == "5 1 end"

        good = (folder / "start").read_text()
        (folder / "start").write_text("def")
        os.kill(outside[0], signal.SIGHUP)
        program.wait("reload failed: generation 6 .* exited with status 1 .*goes on serving")
        assert get(program.port) == "5 1 end"
        # Nobody else reaps in this namespace.
        assert program.pids() == sorted([program.pid, *outside])

        (folder / "start").write_text(good)
        answers: list[str] = []
        thread = active_request(folder, program.port, answers)
        os.kill(outside[0], signal.SIGTERM)
        program.wait("SIGTERM; finishing")
        (folder / "go").touch()
        thread.join(TIMEOUT)
        assert answers == ["5 1 end"]
        program.wait_alone(None)
        assert program.process.wait(TIMEOUT) == 0


def test_the_choice(monkeypatch):
    for name in ("SUPERVISOR_ENABLED", "INVOCATION_ID", "SYSTEMD_EXEC_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(keep_pid, "in_foreground", lambda: False)
    monkeypatch.setattr(keep_pid, "_parent_name", lambda: "sh")
    assert not keep_pid.decide(["auto"], False)[0]
    assert keep_pid.decide(["auto", True], False) == (True, "keep_pid = True")
    monkeypatch.setenv("SUPERVISOR_ENABLED", "1")
    assert keep_pid.decide(["auto"], False) == (True, "supervisord watches it")
    assert keep_pid.decide(["auto", False], False) == (False, "keep_pid = False")
    monkeypatch.delenv("SUPERVISOR_ENABLED")
    monkeypatch.setenv("INVOCATION_ID", "x")
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    assert keep_pid.decide(["auto"], False)[0]
    monkeypatch.setenv("SYSTEMD_EXEC_PID", "1")
    assert not keep_pid.decide(["auto"], False)[0]
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    assert not keep_pid.decide(["auto"], True)[0]
    monkeypatch.delenv("INVOCATION_ID")
    monkeypatch.setattr(keep_pid, "_parent_name", lambda: "runsv")
    assert keep_pid.decide(["auto"], False) == (True, "runsv watches it")
    monkeypatch.setattr(keep_pid, "_parent_name", lambda: "docker-init")
    assert keep_pid.decide(["auto"], False)[0]
    with pytest.raises(ValueError, match='must be True, False or "auto"'):
        keep_pid.check("yes")
