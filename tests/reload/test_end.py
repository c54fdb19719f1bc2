"""When a process of which nothing is active any more may end, played without a process."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from endless_py._reload import exit as step
from endless_py._reload.machine import Event


class Played:
    """A process that drains and has finished; its successor said so long ago that it serves."""

    def __init__(self, ago=0.0, succeeds=True, kept=False, ordered=False):
        self.fired = []
        successor = SimpleNamespace(first_ready=time.monotonic() - ago) if succeeds else None
        self.process = SimpleNamespace(
            machine=SimpleNamespace(drains=True, stops=False),
            driver=SimpleNamespace(jobs_wait=False, exiting=False),
            predecessors=SimpleNamespace(living=[]),
            listeners=SimpleNamespace(drained=lambda: True),
            others_ended=lambda: True,
            living_successor=successor,
            is_kept_by=lambda successor: kept,
            fire=self.fired.append,
        )
        self.exit = step.Exit(self.process, None, SimpleNamespace(ordered=ordered), None, [])
        self.exit.check()


def test_it_waits_a_moment_for_the_successor_to_have_begun():
    played = Played(ago=-1.0)  # so that no pause of the machine can be as long
    first_ready = played.process.living_successor.first_ready
    assert not played.fired
    assert played.exit.deadline() == first_ready + step._SETTLING
    played.process.living_successor.first_ready -= 2.0
    played.exit.check()
    assert played.fired == [Event.EMPTY]


def test_the_moment_is_one_for_as_long_as_there_is_nothing_else_to_wait_for():
    played = Played(ago=-1.0)
    played.process.listeners.drained = lambda: False  # what has come home from a forked handler
    played.exit.check()
    assert not played.fired
    assert played.exit.deadline() is None  # a moment that passes unused would be spun on


@pytest.mark.parametrize(
    "how",
    [{"ago": 1.0}, {"succeeds": False}, {"ago": -1.0, "ordered": True}],
    ids=["served for long", "no successor", "it was told to stop"],
)
def test_else_it_ends_at_once(how):
    assert Played(**how).fired == [Event.EMPTY]


def test_a_bridge_is_on_probation():
    played = Played(ago=1.0, kept=True)
    assert not played.fired
    assert played.exit.deadline() > time.monotonic()
