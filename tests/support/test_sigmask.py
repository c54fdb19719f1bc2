"""Signals that are held back: whose they were before, and which a process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from endless_py._support import sigmask

USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


@pytest.fixture(autouse=True)
def mask():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_what_was_held_back_before_is_returned():
    sigmask.unblock([USR1, USR2])
    before = sigmask.block([USR1])
    assert USR1 not in before
    assert all(type(number) is int for number in before)
    assert sigmask.block(iter([USR1, USR2])) == before | {int(USR1)}
    sigmask.unblock([USR1])
    assert sigmask.block(()) == before | {int(USR2)}


def test_a_signal_that_is_held_back_comes_when_it_is_let_in():
    seen = []
    old = signal.signal(USR1, lambda number, frame: seen.append(number))
    try:
        sigmask.block([USR1])
        # Sent to the process, a thread of the test runner's could take it.
        signal.pthread_kill(threading.get_ident(), USR1)
        assert seen == []
        sigmask.unblock([USR1])
        assert seen == [USR1]
    finally:
        signal.signal(USR1, old)


def test_what_a_process_held_back_to_its_end_is_told_until_it_is_reaped():
    code = "import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, 15})\n"
    code += "os.kill(os.getpid(), signal.SIGHUP); os._exit(0)"
    process = subprocess.Popen([sys.executable, "-S", "-c", code])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert sigmask.left_by(process.pid) == {signal.SIGHUP}
    process.wait()
    assert sigmask.left_by(process.pid) == set()
