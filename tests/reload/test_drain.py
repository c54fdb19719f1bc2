"""A crowd of threads that a drain wakes at once."""

from __future__ import annotations

import sys

import pytest

from endless_py._reload.drain import Turns


@pytest.fixture
def interval():
    before = sys.getswitchinterval()
    yield sys.getswitchinterval
    sys.setswitchinterval(before)


def test_a_crowd_asks_less_often_until_it_is_gone(interval):
    sys.setswitchinterval(0.005)
    turns = Turns()
    for threads, expected in ((50, 0.005), (1000, 0.1), (100_000, 0.2), (300, 0.03), (0, 0.005)):
        turns.share(threads)
        assert interval() == pytest.approx(expected)


def test_what_the_program_sets_itself_is_kept(interval):
    turns = Turns()
    turns.share(1000)
    sys.setswitchinterval(0.5)
    turns.share(1000)
    assert interval() == pytest.approx(0.5)
    sys.setswitchinterval(0.001)
    turns.share(1000)
    assert interval() == pytest.approx(0.1)
    turns.share(0)
    assert interval() == pytest.approx(0.001)
