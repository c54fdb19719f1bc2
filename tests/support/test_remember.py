"""What is asked with every request is found out once, without a lock that others wait for."""

from __future__ import annotations

import sys
import threading

import pytest

from endless_py._support import remember


@pytest.fixture
def asked():
    return []


@pytest.fixture
def square(asked):
    @remember.without_lock
    def square(number, kind=int):
        """Return the square."""
        asked.append(number)
        if number < 0:
            raise ValueError(number)
        return kind(number * number)

    return square


def test_an_answer_is_found_out_once(square, asked):
    assert [square(2), square(2), square(2, float), square(3)] == [4, 4, 4.0, 9]
    assert asked == [2, 2, 3]
    assert square.__doc__ == "Return the square."


def test_what_was_raised_is_found_out_again(square, asked):
    for _ in range(2):
        with pytest.raises(ValueError, match="-1"):
            square(-1)
    assert asked == [-1, -1]


def test_it_fills_no_memory(square, asked):
    for number in range(3 * remember._MOST):
        assert square(number) == number * number
    assert len(square.__closure__[0].cell_contents) <= remember._MOST
    assert square(1) == 1
    assert asked.count(1) == 2  # it was forgotten


def test_nobody_waits_for_who_finds_out(square):
    began, go_on = threading.Event(), threading.Event()

    @remember.without_lock
    def slow(number):
        if number == 1:
            began.set()
            assert go_on.wait(10)
        return number

    thread = threading.Thread(target=slow, args=(1,))
    thread.start()
    assert began.wait(10)
    assert slow(2) == 2
    go_on.set()
    thread.join()


def test_with_the_gil_the_library_does_it():
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert hasattr(remember.remember(lambda: 1), "cache_info") is has_gil
