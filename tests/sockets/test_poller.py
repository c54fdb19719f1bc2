"""Waiting without polling: what makes a descriptor, a wake-up and a time end a wait."""

from __future__ import annotations

import resource
import socket
import threading

import pytest

from endless_py._sockets.poller import READ, WRITE, Poller, SelfPipe


@pytest.fixture
def pipe():
    pipe = SelfPipe()
    yield pipe
    pipe.close()


@pytest.fixture
def poller():
    poller = Poller()
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
