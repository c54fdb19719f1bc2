"""Waiting without polling: what makes a descriptor, a wake-up and a time end a wait."""

from __future__ import annotations

import os
import resource
import socket
import threading

import pytest

from endless_py._sockets.exclusive import ExclusivePoller
from endless_py._sockets.poller import READ, WRITE, Poller, SelfPipe


@pytest.fixture
def pipe():
    pipe = SelfPipe()
    yield pipe
    pipe.close()


@pytest.fixture(params=[Poller, lambda: ExclusivePoller(-1, lambda: None)])
def poller(request):
    poller = request.param()
    yield poller
    poller.close()


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_what_was_written_is_returned_once(pipe):
    assert pipe.clear() == b""
    pipe.write()
    pipe.write()
    with open(pipe.sender(), "wb", buffering=0, closefd=False) as file:
        file.write(b"\x0f")  # as the interpreter does for a signal
    assert pipe.clear() == b"\0\0\x0f"
    assert pipe.clear() == b""


def test_a_full_pipe_is_no_error_and_is_emptied_whole(pipe):
    while True:
        try:
            count = socket.socket.send(pipe._sender, b"\0" * 4096)
        except BlockingIOError:
            break
        assert count
    pipe.write()
    assert len(pipe.clear()) > 4096
    assert pipe.clear() == b""


def test_nobody_is_woken_by_a_closed_one_and_that_is_no_error():
    pipe = SelfPipe()
    pipe.close()
    pipe.write()
    assert pipe.clear() == b""


def test_a_time_ends_a_wait_and_one_that_has_passed_does_not_wait(poller):
    for seconds in (0.001, 0, -1.0):
        assert poller.wait(seconds) == (set(), False)


def test_a_wake_up_before_the_wait_ends_it_once(poller):
    poller.interrupt()
    poller.interrupt()
    assert poller.wait(None) == (set(), True)
    assert poller.wait(0) == (set(), False)


def test_another_thread_ends_a_wait_for_ever(poller):
    thread = threading.Timer(0.01, poller.interrupt)
    thread.start()
    assert poller.wait(None) == (set(), True)
    thread.join()


def test_a_descriptor_is_told_for_the_events_that_it_is_watched_for(poller, pair):
    ours, theirs = pair
    poller.watch({ours.fileno(): READ})
    assert poller.wait(0) == (set(), False)
    poller.watch({ours.fileno(): WRITE})  # the same one, for something else
    assert poller.wait(None) == ({ours.fileno()}, False)
    poller.watch({ours.fileno(): READ | WRITE, theirs.fileno(): READ})
    assert poller.wait(None) == ({ours.fileno()}, False)
    ours.sendall(b"x")
    assert poller.wait(None) == ({ours.fileno(), theirs.fileno()}, False)
    poller.interrupt()
    assert poller.wait(None) == ({ours.fileno(), theirs.fileno()}, True)
    poller.watch({})
    assert poller.wait(0) == (set(), False)


def test_the_end_of_the_other_side_is_told_even_to_who_watches_for_nothing(poller, pair):
    ours, theirs = pair
    poller.watch({ours.fileno(): 0})
    theirs.sendall(b"x")
    assert poller.wait(0) == (set(), False)
    theirs.close()
    assert poller.wait(None) == ({ours.fileno()}, False)


def test_one_more_and_one_less(poller, pair):
    ours, theirs = pair
    theirs.sendall(b"x")
    poller.add(ours.fileno())
    assert poller.wait(None) == ({ours.fileno()}, False)
    poller.discard(ours.fileno())
    poller.discard(ours.fileno())  # of one that is not watched nothing is asked
    assert poller.wait(0) == (set(), False)


def test_what_was_closed_is_not_told_of_though_another_process_has_it(poller, pair):
    """As the end of a pipe that every worker has from its leader."""
    ours, theirs = pair
    number = ours.fileno()
    with ours.dup():  # for the kernel it is not closed
        poller.watch({number: READ})
        theirs.close()
        assert poller.wait(None) == ({number}, False)
        ours.close()
        poller.watch({})
        assert poller.wait(0) == (set(), False)
        poller.interrupt()
        assert poller.wait(None) == (set(), True)


def test_a_number_that_is_another_files_by_now_is_waited_for_anew(poller, pair):
    ours, theirs = pair
    number = ours.fileno()
    mine, other = socket.socketpair()
    with ours.dup(), mine, other:
        poller.watch({number: READ})
        theirs.sendall(b"x")
        os.dup2(mine.fileno(), number)
        poller.watch({number: READ})
        assert poller.wait(0) == (set(), False)  # what came is for the former one
        other.sendall(b"x")
        assert poller.wait(None) == ({number}, False)


def test_where_no_descriptor_is_left_it_still_waits_for_what_it_can(poller, pair):
    ours, theirs = pair
    number = ours.fileno()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ours.dup():
        poller.watch({number: READ, theirs.fileno(): READ})
        ours.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
        try:
            poller.watch({theirs.fileno(): READ})
            poller.interrupt()
            assert poller.wait(None)[1]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        theirs.sendall(b"x")
        assert poller.wait(0) == (set(), False)


def test_with_fewer_descriptors_allowed_than_are_watched_it_still_waits(poller, pair):
    """The program, or its manager, lowered the limit while it ran: poll() refuses."""
    ours, theirs = pair
    poller.watch({ours.fileno(): READ, theirs.fileno(): READ})
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
    try:
        assert poller.wait(0) == (set(), False)
        thread = threading.Timer(0.01, poller.interrupt)
        thread.start()
        assert poller.wait(None) == (set(), True)
        theirs.sendall(b"x")
        assert poller.wait(None) == ({ours.fileno()}, False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    thread.join()
