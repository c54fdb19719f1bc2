"""Listeners from a service manager: which descriptors are taken, and what is said of the rest."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from endless_py._sockets import activation

FIRST = 200  # above what a test process has open


@pytest.fixture
def passed(monkeypatch):
    """Passes objects with a descriptor as a manager would: from a fixed number on."""
    monkeypatch.setattr(activation, "_FIRST", FIRST)
    numbers = []

    def passed(*opened, count=None, **more):
        for number, each in enumerate(opened, FIRST):
            os.dup2(each if isinstance(each, int) else each.fileno(), number)
            numbers.append(number)
        variables = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count or len(opened))}
        variables.update(more, OTHER="stays")
        found = activation.take(variables)
        assert variables == {"OTHER": "stays"}
        return found

    yield passed
    for number in numbers:
        os.close(number)


@pytest.fixture
def opened():
    with contextlib.ExitStack() as stack:

        def opened(family, kind=socket.SOCK_STREAM, address=None, listens=False):
            sock = stack.enter_context(socket.socket(family, kind))
            if address is not None:
                sock.bind(address)
            if listens:
                sock.listen()
            return sock

        yield opened


@pytest.fixture
def tcp(opened):
    return opened(socket.AF_INET, address=("127.0.0.1", 0), listens=True)


def test_nothing_is_passed():
    assert activation.take({}) == ([], [])
    assert activation.take({"LISTEN_FDNAMES": "left over"}) == ([], [])


def test_what_is_passed_is_described_and_closed_on_exec(passed, opened, tcp, tmp_path):
    path = str(tmp_path / "socket")
    udp = opened(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
    unix = opened(socket.AF_UNIX, address=path, listens=True)
    found, problems = passed(tcp, udp, unix, LISTEN_FDNAMES="web::admin")
    assert problems == []
    assert [descriptor for _, descriptor in found] == [FIRST, FIRST + 1, FIRST + 2]
    assert not any(os.get_inheritable(descriptor) for _, descriptor in found)
    bindings = [binding for binding, _ in found]
    assert [binding.lent for binding in bindings] == ["web", "", "admin"]
    kinds = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM]
    assert [binding.kind for binding in bindings] == kinds
    assert [binding.address for binding in bindings] == [
        tcp.getsockname(),
        udp.getsockname(),
        path,
    ]
    status = os.stat(path)
    assert bindings[2].inode == (status.st_dev, status.st_ino)


def test_what_is_no_listener_is_said_and_left_open(passed, opened, tcp):
    unbound, nameless = opened(socket.AF_INET), opened(socket.AF_UNIX, socket.SOCK_DGRAM)
    folder = os.open("/", os.O_RDONLY)
    try:
        found, problems = passed(unbound, tcp, nameless, folder)
    finally:
        os.close(folder)
    assert [descriptor for _, descriptor in found] == [FIRST + 1]
    assert problems == [
        f"descriptor {FIRST + n} of LISTEN_FDS=4 is not a listener" for n in (0, 2, 3)
    ]
    for number in range(FIRST, FIRST + 4):
        assert not os.get_inheritable(number)  # open, and no child's


def test_more_are_announced_than_there_are(passed, tcp):
    found, problems = passed(tcp, count=9, LISTEN_FDNAMES="a:b")
    assert [descriptor for _, descriptor in found] == [FIRST]
    assert found[0][0].lent == ""
    assert problems == [
        "LISTEN_FDNAMES has 2 names for 9 descriptors",
        f"descriptor {FIRST + 1} of LISTEN_FDS=9 is not open",
    ]


@pytest.mark.parametrize(
    "bad",
    [
        {"LISTEN_FDS": "many"},
        {"LISTEN_PID": "-1"},
        {"LISTEN_FDS": "9" * 20},
        {"LISTEN_FDS": "\u0663"},
    ],
)
def test_variables_that_are_no_numbers_pass_nothing(bad, passed, tcp):
    found, problems = passed(tcp, **bad)
    assert found == []
    assert len(problems) == 1
    assert "not two numbers" in problems[0]


def test_one_variable_alone_passes_nothing():
    for name in ("LISTEN_PID", "LISTEN_FDS"):
        found, problems = activation.take({name: "1"})
        assert found == []
        assert len(problems) == 1


def test_what_is_meant_for_another_process_is_not_taken(passed, tcp):
    assert passed(tcp, LISTEN_PID=str(os.getppid())) == (
        [],
        [f"LISTEN_FDS is meant for process {os.getppid()} (start this one with exec)"],
    )
