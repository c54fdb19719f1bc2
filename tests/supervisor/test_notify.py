"""What a service manager is told, by a process that it may not be able to hear."""

from __future__ import annotations

import os
import socket
import time

import pytest

from endless_py._supervisor.notify import _MOST_UNSENT, Notifier, monotonic_usec


@pytest.fixture
def manager(tmp_path):
    """The manager's end, with a path that `notifier` knows."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        yield manager


@pytest.fixture
def notifier(manager):
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    yield notifier
    notifier.close()


def heard(manager):
    """Return what has come so far."""
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def fill(manager):
    """Fill the manager's queue; return how many messages it took."""
    count = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        while True:
            try:
                other.sendto(b"full", manager.getsockname())
            except BlockingIOError:
                return count
            count += 1


def test_variables_are_taken_and_judged():
    variables = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1", "A": "b"}
    notifier = Notifier(variables)
    assert variables == {"A": "b"}
    assert (notifier.enabled, notifier.watchdog) == (True, None)  # another process's watchdog
    assert notifier.environment() == {"NOTIFY_SOCKET": "@x"}
    own = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier(own)
    assert (notifier.watchdog, notifier.problem) == (3.0, None)
    assert notifier.environment() == {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000"}
    for name in ("x", "@", "vsock:2:1"):
        notifier = Notifier({"NOTIFY_SOCKET": name})
        assert not notifier.enabled
        assert name in (notifier.problem or "")
        notifier.send(READY=1)
    for period in ("-1", "0", "soon", "9" * 30, "\u0663"):
        notifier = Notifier({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": period})
        assert (notifier.watchdog, period in (notifier.problem or "")) == (None, True)
    assert (Notifier({}).enabled, Notifier({}).environment()) == (False, {})


def test_what_is_sent_together_is_one_message_and_no_value_breaks_a_line(manager, notifier):
    notifier.send(READY=1, STATUS="serves\nFAKE=1 \udcff")
    notifier.send(MAINPID=7)
    assert heard(manager) == ["READY=1\nSTATUS=serves FAKE=1 ?", "MAINPID=7"]
    assert not notifier.waits


def test_an_abstract_name():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(b"\0endless_py test %d" % os.getpid())
        notifier = Notifier({"NOTIFY_SOCKET": f"@endless_py test {os.getpid()}"})
        notifier.send(READY=1)
        assert manager.recv(99) == b"READY=1"
        notifier.close()


def test_what_a_full_queue_holds_up_is_sent_later_the_newest_of_it(manager, notifier):
    assert fill(manager)
    for number in range(_MOST_UNSENT + 5):
        notifier.send(STATUS=number)
    assert notifier.waits
    assert set(heard(manager)) == {"full"}
    for _ in range(_MOST_UNSENT):  # the queue may be shorter than what waits
        notifier.flush()
        if not notifier.waits:
            break
        assert heard(manager)
    rest = heard(manager)
    assert rest[-1] == f"STATUS={_MOST_UNSENT + 4}"
    assert not notifier.waits


def test_one_that_is_gone_is_forgotten_and_one_that_comes_back_is_told(tmp_path):
    path = str(tmp_path / "notify")
    notifier = Notifier({"NOTIFY_SOCKET": path})
    notifier.send(READY=1)  # nobody is there yet
    assert not notifier.waits
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        notifier.send(STATUS="serves")
        assert manager.recv(99) == b"STATUS=serves"
    notifier.close()


def test_a_closed_one_is_silent(manager, notifier):
    notifier.send(READY=1)
    notifier.close()
    notifier.send(STOPPING=1)
    notifier.flush()
    assert heard(manager) == ["READY=1"]
    assert not notifier.enabled
    assert notifier.environment() == {}


def test_the_successor_is_given_the_watchdog_of_this_process():
    for pid in ({}, {"WATCHDOG_PID": ""}, {"WATCHDOG_PID": str(os.getpid())}):
        variables = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1500001", **pid}
        notifier = Notifier(variables)
        assert variables == {}
        assert notifier.watchdog == pytest.approx(1.500001)
        assert notifier.environment() == {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1500001"}


def test_the_moment_of_a_reload_is_in_microseconds():
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    assert before * 1e6 - 1 <= monotonic_usec() <= (before + 10) * 1e6
