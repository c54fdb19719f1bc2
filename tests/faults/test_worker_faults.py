"""A worker or a leader dies during a reload, or a fork fails, under load.

Lost is at most what the dead one handled; afterwards one generation serves, whole. What happens at
all the other steps the matrix tells.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from harness import Program, connect, environment, get, slow, until
from mixed_load import Clients
from processes import kill
from strike import HELD

HERE = Path(__file__).resolve().parent
COUNT = 3


class Reloaded:
    """A program with workers, whose next reload waits at one step of one process."""

    def __init__(self, folder: Path, program: Program) -> None:
        self.folder, self.program = folder, program
        self.pid = program.wait_serving()
        self.port = program.port
        os.mkfifo(folder / "orders")
        self._orders = os.open(folder / "orders", os.O_RDWR)

    def reload_to(self, step: str, other: bool) -> int:
        """Reload as far as that step; return the pid of who is there."""
        body = {"step": step, "pid": self.pid, "other": other, "slow": 1.0}
        (self.folder / "place.new").write_text(json.dumps(body))
        (self.folder / "place.new").rename(self.folder / "place")
        os.kill(self.pid, signal.SIGHUP)
        return int(self.program.wait(rf"at '{step}': pid (\d+)")[1])

    def go_on(self, letter: str = "g") -> None:
        os.write(self._orders, letter.encode())

    def state(self) -> dict:
        return json.loads(get(self.port, "/state"))

    def settled(self) -> dict:
        """Return the state of the only generation that is left, once it is whole."""

        def look():
            self.program.process.poll()
            try:
                state = self.state()
            except Exception:
                return None
            calm = state["phase"] == "serving" and not state["successor"]
            whole = len(state["workers"]) == COUNT and not state["predecessors"]
            return state if calm and whole and len(self.program.pids()) == COUNT + 1 else None

        return until(look)

    def close(self) -> None:
        os.close(self._orders)


@pytest.fixture
def reloaded(tmp_path):
    path = os.pathsep.join([environment()["PYTHONPATH"], str(HERE)])
    env = environment(
        PYTHONPATH=path,
        ENDLESS_PY_FAULTS="inject.at",
        FAULT_FOLDER=str(tmp_path),
        ENDLESS_PY_WORKERS=str(COUNT),
        ENDLESS_PY_KEEPALIVE_GRACE="1",
    )
    server = HERE.parent / "programs" / "http_server.py"
    with Program(command=[sys.executable, server, "ThreadingHTTPServer", "0"], env=env) as program:
        found = Reloaded(tmp_path, program)
        yield found
        found.close()


def check(reloaded: Reloaded, clients: Clients, handled: set[int], generations: set[int]) -> dict:
    state = reloaded.settled()
    clients.wait_served(20)
    assert state["generation"] in generations
    return state


def end(reloaded: Reloaded, clients: Clients, handled: set[int], state: dict) -> None:
    unexcused = [str(loss) for loss in clients.lost if loss.port not in handled]
    assert not unexcused, f"lost: {unexcused}"
    assert "Traceback" not in reloaded.program.text
    leader = state["workers"][0]["pid"]
    os.kill(leader, signal.SIGHUP)
    after = until(lambda: (s := reloaded.settled()) and s["generation"] > state["generation"] and s)
    os.kill(after["workers"][0]["pid"], signal.SIGTERM)
    reloaded.program.wait_alone(None)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["adopted heard", "stop accepting"])
def test_a_worker_of_the_incumbent_is_killed(reloaded, step):
    with Clients(reloaded.port) as clients:
        clients.wait_served(20)
        victim = reloaded.state()["workers"][1]["pid"]
        reloaded.reload_to(step, other=False)
        handled = kill(victim, reloaded.port)
        time.sleep(HELD)
        reloaded.go_on()
        state = check(reloaded, clients, handled, {1})
    end(reloaded, clients, handled, state)


@pytest.mark.parametrize("step", ["signal", slow("ready heard"), slow("exit")])
def test_the_leader_of_the_incumbent_is_killed(reloaded, step):
    """Before it has started a successor the generation ends with it, as one process would."""
    with Clients(reloaded.port) as clients:
        clients.wait_served(20)
        reloaded.reload_to(step, other=False)
        handled = kill(reloaded.pid, reloaded.port)
        reloaded.go_on()
        if step == "signal":
            reloaded.program.process.wait(30)
            until(lambda: not reloaded.program.pids())
            return
        state = check(reloaded, clients, handled, {1})
    end(reloaded, clients, handled, state)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["fork worker", "ready"])
def test_the_leader_of_the_successor_is_killed(reloaded, step):
    with Clients(reloaded.port) as clients:
        clients.wait_served(20)
        victim = reloaded.reload_to(step, other=True)
        handled = kill(victim, reloaded.port)
        reloaded.go_on()
        state = check(reloaded, clients, handled, {0})
    end(reloaded, clients, handled, state)


@pytest.mark.parametrize("step", [slow("fork server"), "fork worker"])
def test_a_fork_that_fails_fails_the_reload(reloaded, step):
    with Clients(reloaded.port) as clients:
        clients.wait_served(20)
        reloaded.reload_to(step, other=True)
        reloaded.go_on("r")
        reloaded.program.wait("reload failed")
        state = check(reloaded, clients, set(), {0})
    unexcused = [str(loss) for loss in clients.lost]
    assert not unexcused
    os.kill(state["workers"][0]["pid"], signal.SIGTERM)
    reloaded.program.wait_alone(None)


def test_the_system_that_allows_no_more_processes_is_named(reloaded):
    reloaded.reload_to("fork worker", other=True)
    (reloaded.folder / "no-forks").touch()
    reloaded.go_on()
    reloaded.program.wait("reload failed: .*: worker 1 could not be forked: .*unavailable")
    (reloaded.folder / "no-forks").unlink()
    state = reloaded.settled()
    assert state["generation"] == 0
    reloaded.program.stop(state["workers"][0]["pid"])


@pytest.mark.parametrize("number", [slow(1), slow(2)])
def test_a_worker_of_the_successor_is_killed_before_it_is_ready(reloaded, number):
    """The leader is ready all the same, and replaces it."""
    with Clients(reloaded.port) as clients:
        clients.wait_served(20)
        before = set(reloaded.program.pids())
        leader = reloaded.reload_to("ready", other=True)
        new = sorted(set(reloaded.program.pids()) - before - {leader})
        handled = kill(new[number], reloaded.port)
        time.sleep(HELD)
        reloaded.go_on()
        state = check(reloaded, clients, handled, {1})
    end(reloaded, clients, handled, state)


@pytest.mark.slow
def test_one_after_the_other_is_killed(reloaded):
    """Whoever it is, and whenever: what is not its own goes on."""
    import random

    chance, handled = random.Random(7), set()
    with Clients(reloaded.port) as clients:
        for turn in range(12):
            clients.wait_served(5)
            state = reloaded.settled()
            leader, *others = (worker["pid"] for worker in state["workers"])
            if turn % 3 == 2:
                os.kill(leader, signal.SIGHUP)
                time.sleep(chance.random() * 0.5)
            handled |= kill(chance.choice(others), reloaded.port)
        state = reloaded.settled()
    end(reloaded, clients, handled, state)


@pytest.mark.parametrize("fails_in", ["a leader that drains", "a leader that serves"])
def test_connections_that_a_leader_fails_to_take_are_taken_soon(reloaded, fails_in):
    """What was said to it is heard again, so that nobody waits for an answer as long as it may."""
    serves = fails_in == "a leader that serves"
    with contextlib.ExitStack() as stack:
        clients = [connect(reloaded.port) for _ in range(24)]
        for client in clients:
            stack.callback(client.close)
            client.request("GET", "/")
            client.getresponse().read()
        reloaded.reload_to("connections received", other=serves)
        reloaded.go_on("r")
        state = reloaded.settled()
        assert state["generation"] == 1
        for client in clients:
            client.request("GET", "/")
            assert client.getresponse().read()
        assert reloaded.program.text.count("a fault for a test") == 1
        os.kill(state["workers"][0]["pid"], signal.SIGTERM)
    reloaded.program.wait_alone(None)
