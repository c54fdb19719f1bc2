"""What several threads do in the same moment. Without the GIL they really do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from custom_code import SERVE, custom
from harness import TIMEOUT, environment, reloads_under_load

import endless_py
from endless_py._reload.driver import Driver
from endless_py._reload.hooks import Hooks
from endless_py._reload.listener import Listener, ListenerState
from endless_py._reload.listeners import Listeners
from endless_py._reload.migration import Migration
from endless_py._reload.signals import Signals
from endless_py._sockets.connection import Connection, Connections, MigratingConnection

ROUNDS = 1000


@pytest.fixture(autouse=True)
def often():
    """With a GIL let the threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*calls):
    """Make these calls in threads that begin together; return what they raised."""
    start, raised = threading.Barrier(len(calls)), []

    def run(call):
        start.wait(TIMEOUT)
        try:
            call()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    return raised


LEAVES_BESIDE = """
import endless_py
from endless_py._reload import process
from endless_py._reload.listener import Listener

class Server:
    ready_on_serve = True
    drain_timeout = ready_timeout = keepalive_grace = None
    def fileno(self):
        return -1

current, servers = process.current, [Server(), Server()]
old, new = map(Listener, servers)
for listener in (old, new):
    current.add(listener)
current.loops.enter(old)
current.driver.advance()
assert current.machine.at_peace
with current.driver.stepping:  # another thread takes a step
    for turn in ORDER:
        turn()
current.driver.advance()
print(endless_py.state()["phase"])
"""
LEAVES, ENTERS = "lambda: current.loops.left(old, True)", "lambda: current.loops.enter(new)"


@pytest.mark.parametrize(
    ("order", "phase"),
    [
        ([LEAVES, ENTERS], "serving"),
        ([ENTERS, LEAVES], "serving"),
        ([LEAVES], "starting"),
        ([ENTERS, LEAVES, "lambda: current.loops.left(new, True)"], "starting"),
    ],
    ids=["it leaves first", "it enters first", "it leaves alone", "both leave"],
)
def test_a_server_is_entered_while_the_last_one_leaves(order, phase):
    code = LEAVES_BESIDE.replace("ORDER", f"[{', '.join(order)}]")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.stdout == f"{phase}\n", done.stderr


def test_of_servers_that_begin_at_once_one_begins_alone():
    for _ in range(ROUNDS // 10):
        listeners, alone = Listeners(), []
        servers = [Mock() for _ in range(3)]
        for listener in map(Listener, servers):
            listeners.add(listener)

        def enter(listener, listeners=listeners, alone=alone):
            alone.append(listeners.enter(listener))

        assert at_once(*(partial(enter, listener) for listener in listeners.all)) == []
        assert sorted(alone) == [False, False, True]


def test_a_queue_that_is_served_and_a_drain_whose_time_is_over():
    server = Mock()
    listeners = [Listener(server) for _ in range(ROUNDS)]
    for listener in listeners:
        listener.move("close")
    both = threading.Barrier(2)

    def move(event):
        for listener in listeners:
            both.wait(TIMEOUT)
            listener.move(event)

    assert at_once(lambda: move("cut"), lambda: move("queue served")) == []
    assert {(s.state, s.cut, s.closing) for s in listeners} == {
        (ListenerState.CUT_CLOSED, True, True)
    }


def test_a_signal_is_acted_on_once_however_late_its_handler_runs(monkeypatch):
    acted = []
    started = SimpleNamespace(blocked=set())
    signals = Signals(lambda number, _: acted.append(number), lambda *_: None, started)
    term = int(signal.SIGTERM)
    signals._previous = {term: signal.SIG_DFL}
    monkeypatch.setattr(signal, "getsignal", {term: signals._run}.get)
    signals._pipe = SimpleNamespace(clear=lambda: bytes([term]), close=lambda: None)
    both = threading.Barrier(2)

    def loop():
        for _ in range(ROUNDS):
            both.wait(TIMEOUT)
            acted.extend(signals.overdue(last=True))
            both.wait(TIMEOUT)

    counts = []

    def handler():
        for _ in range(ROUNDS):
            before = len(acted)
            both.wait(TIMEOUT)
            signals._run(term, None)
            both.wait(TIMEOUT)
            counts.append(len(acted) - before)

    assert at_once(loop, handler) == []
    assert set(counts) == {1}


@pytest.mark.parametrize("order", ["read first", "handled first", "taken by a loop"])
def test_the_next_signal_counts_however_late_the_handler_of_the_one_before_ran(order, monkeypatch):
    acted = []
    signals = Signals(
        lambda number, _: acted.append(number), lambda *_: None, SimpleNamespace(blocked=set())
    )
    hup = int(signal.SIGHUP)
    numbers = []
    signals._previous = {hup: signal.SIG_DFL}
    monkeypatch.setattr(signal, "getsignal", {hup: signals._run}.get)
    signals._pipe = SimpleNamespace(
        clear=lambda: bytes([numbers.pop()] if numbers else []), close=lambda: None
    )
    for count in (1, 2, 3):
        numbers.append(hup)
        if order == "handled first":
            signals._run(hup, None)
        acted.extend(signals.overdue(last=order == "taken by a loop"))
        if order != "handled first":
            signals._run(hup, None)
        assert acted == [hup] * count
        assert not signals._ran
        assert signals.deadline() is None


def test_hooks_that_are_added_at_once_are_all_called():
    hooks = Hooks(lambda *_: None)
    adds = [lambda n=n: add_hooks(hooks, n) for n in range(4)]
    assert at_once(*adds) == []
    assert {len(found) for found in hooks.before_signal.values()} == {4}


def add_hooks(hooks, _):
    for number in range(ROUNDS):
        hooks.before_signal.setdefault(number, []).append(lambda: None)


def test_files_that_are_passed_and_taken_at_once(tmp_path):
    files = [open(tmp_path / name, "w+b", 0) for name in "ab"]  # noqa: SIM115
    known = {os.fstat(file.fileno()).st_ino for file in files}

    def give(file):
        for _ in range(ROUNDS // 4):
            endless_py.pass_file("at once", file)

    def take():
        for _ in range(ROUNDS // 4):
            descriptor = endless_py.passed_file("at once")
            assert os.fstat(descriptor).st_ino in known
            os.close(descriptor)

    try:
        endless_py.pass_file("at once", files[0])
        before = len(os.listdir("/proc/self/fd"))
        assert at_once(*(lambda f=f: give(f) for f in files), take, take) == []
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        endless_py.pass_file("at once", None)
        for file in files:
            file.close()


def test_no_connection_is_forgotten_when_they_are_left_to_the_successor():
    migration = Migration(SimpleNamespace())
    closed, made = [], []

    def add():
        for _ in range(ROUNDS):
            sock = SimpleNamespace(close=lambda: closed.append(1))
            made.append(1)
            migration.add(None, MigratingConnection(sock, ("x", 1), b""))

    def leave():
        while len(made) < 3 * ROUNDS:
            migration.leave_to_successor()

    assert at_once(add, add, add, leave) == []
    migration.leave_to_successor()
    assert len(closed) == len(made) == 3 * ROUNDS


def test_the_count_of_what_is_active_while_connections_come_and_go():
    connections = Connections()
    ends = threading.Event()

    def come_and_go():
        for _ in range(ROUNDS * 4):
            request = object()
            connections.active[id(request)] = Connection(request, None)
            assert connections.get(request).request is request
            assert connections.active.pop(id(request)).request is request
        ends.set()

    def count():
        while not ends.is_set():
            total, idle = connections.counts()
            assert 0 <= total <= 2
            assert not idle

    assert at_once(come_and_go, come_and_go, count) == []
    assert len(connections) == 0


def test_jobs_that_are_short_run_one_after_the_other():
    running, overlaps = [], []
    driven = SimpleNamespace(step=lambda: None, pending=lambda: False)
    driver = Driver(driven)
    done = []

    def job():
        running.append(1)
        if len(running) > 1:
            overlaps.append(1)
        running.pop()
        done.append(1)

    def drive():
        for _ in range(ROUNDS // 4):
            driver.later(job)
            driver.advance()

    assert at_once(drive, drive, drive) == []
    driver.advance()
    assert not overlaps
    assert len(done) == 3 * (ROUNDS // 4)


def test_who_waits_while_another_thread_steps_is_not_told_to_look_at_once():
    """What that step leaves its thread runs; to look for it without end would keep it from that."""
    driver = Driver(SimpleNamespace(step=lambda: None, pending=lambda: False))
    assert driver.jobs_deadline() is None
    driver.later(int)
    assert driver.jobs_deadline() <= time.monotonic()
    with driver.stepping:
        assert driver.jobs_deadline() > time.monotonic()
    driver.advance()
    assert driver.jobs_deadline() is None


ROLLING = """
import sys, threading, time
import endless_py
from endless_py.socketserver import BaseRequestHandler, ThreadingTCPServer

sys.setswitchinterval(1e-5)
wrong = []

def come_and_go():
    for _ in range(100):
        with ThreadingTCPServer(("127.0.0.1", 0), BaseRequestHandler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            while not server._listener.ready:
                time.sleep(0)
            until = time.monotonic() + 30
            while endless_py.state()["phase"] != "serving":  # whoever drives may be about to say so
                time.sleep(0.001)
                if time.monotonic() > until:
                    wrong.append(endless_py.state())
                    break
            server.shutdown()
            thread.join()

threads = [threading.Thread(target=come_and_go) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(wrong, endless_py.state()["phase"], endless_py.state()["servers"])
"""


@pytest.mark.slow
def test_servers_that_come_and_go_at_once_are_all_served_by_a_process_that_serves():
    done = subprocess.run(
        [sys.executable, "-c", ROLLING],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=5 * TIMEOUT,
    )
    assert done.stdout == "[] starting []\n", done.stderr
    assert "Traceback" not in done.stderr
    assert "no move is known" not in done.stderr


CALLS = """
sys.setswitchinterval(1e-5)

def call():
    while endless_py.state()["phase"] not in ("draining", "drained", "stopping"):
        endless_py.pass_file("shared", log)
        os.close(endless_py.passed_file("shared"))
        endless_py.on_draining(int)
        endless_py.before_reload(int)

log = open(os.devnull, "w")
for _ in range(3):
    threading.Thread(target=call).start()
"""


@pytest.mark.slow
def test_everything_is_asked_at_once_while_reload_follows_reload(tmp_path):
    with custom(tmp_path, CALLS + SERVE) as program:
        text = reloads_under_load(program, 5)
        assert "Traceback" not in text
        assert "no move is known" not in text
        assert "this goes on" not in text
