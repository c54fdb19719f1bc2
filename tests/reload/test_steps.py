"""TERM and SIGKILL at each step of a reload, and in a chain of three generations."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import sys
import threading
import time

import pytest
from harness import TIMEOUT, Program, first, get

from endless_py._supervisor.pidfile import is_alive

TERM, INT, USR2, KILL, HUP = (
    getattr(signal, f"SIG{name}") for name in ("TERM", "INT", "USR2", "KILL", "HUP")
)
STARTING = ["spawned", "imported", "bound"]  # where the successor waits for the test


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code").write_text("")
    (tmp_path / "version").write_text("v0")
    return tmp_path


@contextlib.contextmanager
def stopped_at(step, folder):
    """Have the next process that comes to this step wait there until the end of the block."""
    os.mkfifo(folder / step)
    with contextlib.ExitStack() as stack:

        def wait_for_it():
            stack.enter_context(open(folder / step, "w"))  # returns when it is there
            (folder / step).unlink()

        yield wait_for_it


def slow_request(folder, port, answers, name="slow"):
    def ask():
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = get(port, f"/{name}")
            if answer.endswith("end"):
                answers.append(answer)

    thread = threading.Thread(target=ask)
    thread.start()
    while not (folder / name).exists():
        assert thread.is_alive()
    return thread


def started(program, generation):
    return int(program.wait(rf"started generation {generation} \(pid (\d+)\)")[1])


def serves_and_reloads(program, folder, pid, generation, version):
    """The one that is left serves, and its next reload works."""
    assert get(program.port) == f"{version} end"
    (folder / "version").write_text("last")
    seen = len(program.lines)
    os.kill(pid, HUP)
    last = int(program.wait(rf"\[(\d+)\] generation {generation}: serves", seen)[1])
    program.wait_alone(last)
    assert get(program.port) == "last end"
    program.stop(last)
    assert "Traceback" not in program.text


@pytest.mark.parametrize("victim", ["incumbent", "successor"])
@pytest.mark.parametrize("step", STARTING)
def test_sigkill_before_ready_leaves_the_other_serving(step, victim, folder):
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        port = program.port
        (folder / "version").write_text("v1")
        with stopped_at(step, folder) as reached:
            os.kill(old, HUP)
            reached()
            new = started(program, 1)
            assert get(port) == "v0 end"
            os.kill(old if victim == "incumbent" else new, KILL)
            if victim == "successor":
                program.wait(r"reload failed: .*killed by SIGKILL.*goes on serving")
            else:
                program.process.wait(TIMEOUT)
        if victim == "incumbent":
            assert program.wait_serving(1) == new
            serves_and_reloads(program, folder, new, 2, "v1")
        else:
            serves_and_reloads(program, folder, old, 1, "v0")


def test_an_incumbent_that_sleeps_while_its_successor_is_replaced_drains_after_all(folder):
    """It hears at once that the one was ready, and that another one is its heir."""
    with Program("steps.py", folder) as program:
        first = program.wait_serving()
        with stopped_at("imported", folder) as reached:
            os.kill(first, HUP)
            reached()
            started(program, 1)
            os.kill(first, signal.SIGSTOP)
        second = program.wait_serving(1)
        (folder / "version").write_text("last")
        third = program.reload(2, second)
        program.wait(rf"\[{second}\] .*finished; exiting")
        until_dead(second)
        os.kill(first, signal.SIGCONT)
        program.wait_alone(third)
        assert get(program.port) == "last end"
        program.stop(third)
        assert "reload failed" not in program.text
        assert program.text.count(f"(pid {second}) exited with status 0") == 1


def until_dead(pid):
    """Wait until a process has ended, reaped or not."""
    deadline = time.monotonic() + TIMEOUT
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", first([TERM, INT, USR2]), ids=["TERM", "INT", "USR2"])
@pytest.mark.parametrize("step", STARTING)
def test_a_stop_before_ready_ends_both(step, number, folder):
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        with stopped_at(step, folder) as reached:
            os.kill(old, HUP)
            reached()
            os.kill(old, number)
            program.wait_alone(None)
        assert program.process.wait(TIMEOUT) == 0
        assert ("KeyboardInterrupt" in program.text) == (number == INT)


@pytest.mark.parametrize("step", STARTING)
def test_a_stop_of_the_successor_before_ready_only_ends_the_reload(step, folder):
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        with stopped_at(step, folder) as reached:
            os.kill(old, HUP)
            reached()
            os.kill(started(program, 1), TERM)
            program.wait(r"reload failed: .*killed by SIGTERM.*goes on serving")
        serves_and_reloads(program, folder, old, 1, "v0")


@pytest.mark.parametrize("who", ["incumbent", "successor"])
@pytest.mark.parametrize("number", first([TERM, INT]), ids=["TERM", "INT"])
def test_a_stop_while_the_incumbent_drains_ends_both(number, who, folder):
    answers: list[str] = []
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        thread = slow_request(folder, program.port, answers)
        new = program.reload(1, old)
        program.wait("finishing ")
        os.kill(old if who == "incumbent" else new, number)
        program.wait(rf"\[{new}\] generation 1: .*; finishing ")
        (folder / "go").touch()
        thread.join(TIMEOUT)
        assert answers == ["v0 end"]
        program.wait_alone(None)


@pytest.mark.slow
@pytest.mark.parametrize("number", [TERM, KILL, HUP], ids=["TERM", "KILL", "HUP"])
def test_a_signal_while_the_incumbent_cleans_up(number, folder):
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        (folder / "version").write_text("v1")
        with stopped_at("cleaning", folder) as reached:
            os.kill(old, HUP)
            reached()
            new = program.wait_serving(1)
            assert get(program.port) == "v1 end"
            os.kill(old, number)
            if number == TERM:
                program.wait(rf"\[{new}\] generation 1: .*; finishing ")
            elif number == HUP:
                program.wait(rf"\[{new}\] generation 1: .*: started generation 2")
            else:
                program.wait(rf"\[{new}\] generation 1: .*\(pid {old}\) has ended")
        if number == TERM:
            program.wait_alone(None)
            return
        left = 2 if number == HUP else 1
        pid = program.wait_serving(left)
        program.wait_alone(pid)
        serves_and_reloads(program, folder, pid, left + 1, "v1")


LATE = {
    "atexit": "import atexit, os\natexit.register(os.kill, os.getpid(), 1)",  # runs after ours
    "finalization": """
import os

class Last:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, 1)

last = Last()
""",
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc")
@pytest.mark.parametrize("when", LATE)
def test_a_hup_at_the_very_end_of_the_incumbent_is_not_lost(when, folder):
    (folder / "code").write_text(LATE[when])
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        (folder / "code").write_text("")
        (folder / "version").write_text("v1")
        os.kill(old, HUP)
        program.wait(r"generation 1: .* told at its very end: started generation 2")
        pid = program.wait_serving(2)
        program.wait_alone(pid)
        assert program.process.returncode == 0
        serves_and_reloads(program, folder, pid, 3, "v1")


def test_a_hup_that_is_the_programs_own_is_so_to_the_end(folder):
    own = "import endless_py, signal\nsignal.signal(1, lambda *_: endless_py.reload())"
    (folder / "code").write_text(own + LATE["finalization"])
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        (folder / "code").write_text("")
        new = program.reload(1, old)
        program.wait(rf"\[{new}\] .*\(pid {old}\) has ended")
        assert get(program.port) == "v0 end"
        program.wait_alone(new)
        assert program.process.returncode == -HUP  # what the interpreter makes of it
        program.stop(new)
        assert "generation 2" not in program.text


def chain(program, folder, answers):
    """Three generations: the first two each drain a slow answer, the third serves."""
    pids = [program.wait_serving()]
    threads = []
    for generation in (1, 2):
        name = f"slow{generation}"
        threads.append(slow_request(folder, program.port, answers, name))
        (folder / "version").write_text(f"v{generation}")
        pids.append(program.reload(generation, pids[-1]))
        program.wait(rf"\[{pids[-2]}\] generation {generation - 1}: .* finishing ")
    return pids, threads


@pytest.mark.slow
@pytest.mark.parametrize("victim", first([0, 1, 2]))
def test_sigkill_in_a_chain_leaves_one_serving(victim, folder):
    answers: list[str] = []
    with Program("steps.py", folder) as program:
        pids, threads = chain(program, folder, answers)
        os.kill(pids[victim], KILL)
        if victim == 2:
            program.wait(rf"\[{pids[1]}\] generation 1: .*accepts again")
        else:
            program.wait(rf"generation {victim + 1}: .*\(pid {pids[victim]}\) has ended")
        assert get(program.port) == ("v1 end" if victim == 2 else "v2 end")
        for number in (1, 2):
            (folder / f"go{number}").touch()
        for thread in threads:
            thread.join(TIMEOUT)
        assert sorted(answers) == [f"v{n} end" for n in (0, 1) if n != victim]
        left = pids[1] if victim == 2 else pids[2]
        program.wait_alone(left)
        serves_and_reloads(program, folder, left, 2 if victim == 2 else 3, f"v{pids.index(left)}")


@pytest.mark.slow
@pytest.mark.parametrize("whom", first([0, 1, 2]))
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["oldest first", "middle first"])
def test_term_to_any_of_a_chain_ends_all_after_their_answers(order, whom, folder):
    answers: list[str] = []
    with Program("steps.py", folder) as program:
        pids, threads = chain(program, folder, answers)
        os.kill(pids[whom], TERM)
        program.wait(rf"\[{pids[2]}\] generation 2: .*; finishing ")
        for number in order:
            (folder / f"go{number + 1}").touch()
            threads[number].join(TIMEOUT)
        assert sorted(answers) == ["v0 end", "v1 end"]
        program.wait_alone(None)


@pytest.mark.slow
@pytest.mark.parametrize("whom", first([0, 1, 2]))
def test_hup_to_any_of_a_chain_starts_one_more(whom, folder):
    answers: list[str] = []
    with Program("steps.py", folder) as program:
        pids, threads = chain(program, folder, answers)
        (folder / "version").write_text("v3")
        os.kill(pids[whom], HUP)
        last = program.wait_serving(3)
        program.wait("generation 2: generation 3 .*finishing ")
        assert get(program.port) == "v3 end"
        for number in (2, 1):  # the middle one ends first and hands its neighbours on
            (folder / f"go{number}").touch()
            threads[number - 1].join(TIMEOUT)
        assert sorted(answers) == ["v0 end", "v1 end"]
        program.wait_alone(last)
        program.stop(last)
