"""Waiting without polling: what makes a descriptor, a wake-up and a time end a wait."""

from __future__ import annotations

import socket
import threading

import pytest

from endless_py._sockets.poller import READ, WRITE, Waiter, Waker


@pytest.fixture
def waker():
    waker = Waker()
    yield waker
    waker.close()


@pytest.fixture
def waiter():
    waiter = Waiter()
    yield waiter
    waiter.close()


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_what_was_written_is_returned_once(waker):
    assert waker.clear() == b""
    waker.wake()
    waker.wake()
    with open(waker.sender(), "wb", buffering=0, closefd=False) as file:
        file.write(b"\x0f")  # as the interpreter does for a signal
    assert waker.clear() == b"\0\0\x0f"
    assert waker.clear() == b""


def test_a_full_pipe_is_no_error_and_is_emptied_whole(waker):
    while True:
        try:
            count = socket.socket.send(waker._sender, b"\0" * 4096)
        except BlockingIOError:
            break
        assert count
    waker.wake()
    assert len(waker.clear()) > 4096
    assert waker.clear() == b""


def test_nobody_is_woken_by_a_closed_one_and_that_is_no_error():
    waker = Waker()
    waker.close()
    waker.wake()
    assert waker.clear() == b""


def test_a_time_ends_a_wait_and_one_that_has_passed_does_not_wait(waiter):
    for seconds in (0.001, 0, -1.0):
        assert waiter.wait(seconds) == (set(), False)


def test_a_wake_up_before_the_wait_ends_it_once(waiter):
    waiter.wake()
    waiter.wake()
    assert waiter.wait(None) == (set(), True)
    assert waiter.wait(0) == (set(), False)


def test_another_thread_ends_a_wait_for_ever(waiter):
    thread = threading.Timer(0.01, waiter.wake)
    thread.start()
    assert waiter.wait(None) == (set(), True)
    thread.join()


def test_a_descriptor_is_told_for_the_events_that_it_is_watched_for(waiter, pair):
    ours, theirs = pair
    waiter.watch({ours.fileno(): READ})
    assert waiter.wait(0) == (set(), False)
    waiter.watch({ours.fileno(): WRITE})  # the same one, for something else
    assert waiter.wait(None) == ({ours.fileno()}, False)
    waiter.watch({ours.fileno(): READ | WRITE, theirs.fileno(): READ})
    assert waiter.wait(None) == ({ours.fileno()}, False)
    ours.sendall(b"x")
    assert waiter.wait(None) == ({ours.fileno(), theirs.fileno()}, False)
    waiter.wake()
    assert waiter.wait(None) == ({ours.fileno(), theirs.fileno()}, True)
    waiter.watch({})
    assert waiter.wait(0) == (set(), False)


def test_the_end_of_the_other_side_is_told_even_to_who_watches_for_nothing(waiter, pair):
    ours, theirs = pair
    waiter.watch({ours.fileno(): 0})
    theirs.sendall(b"x")
    assert waiter.wait(0) == (set(), False)
    theirs.close()
    assert waiter.wait(None) == ({ours.fileno()}, False)


def test_one_more_and_one_less(waiter, pair):
    ours, theirs = pair
    theirs.sendall(b"x")
    waiter.add(ours.fileno())
    assert waiter.wait(None) == ({ours.fileno()}, False)
    waiter.discard(ours.fileno())
    waiter.discard(ours.fileno())  # of one that is not watched nothing is asked
    assert waiter.wait(0) == (set(), False)
