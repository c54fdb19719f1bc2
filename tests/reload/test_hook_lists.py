"""Lists of hooks: each is called in its turn, and one that raises stops no other."""

from __future__ import annotations

import functools

import pytest

from endless_py._reload.hooks import DRAINED, DRAINING, READY, Hooks, name_of
from endless_py._support import log


@pytest.fixture
def said():
    return []


@pytest.fixture
def hooks(said):
    return Hooks(lambda level, text, event, **fields: said.append((level, text % fields)))


def test_a_step_calls_its_own_hooks_in_the_order_of_their_coming(hooks, said):
    called = []
    for number in range(3):
        hooks.steps[READY].append(functools.partial(called.append, number))
    hooks.steps[DRAINED].append(functools.partial(called.append, "another"))
    hooks.run_step(READY)
    assert called == [0, 1, 2]
    hooks.run_step(DRAINING)  # nobody waits for it
    hooks.run_step(READY)  # the list stays
    assert called == [0, 1, 2] * 2
    assert said == []


def test_one_that_raises_is_named_and_the_next_one_is_called(hooks, said):
    called = []

    def bad():
        raise ValueError("its reason")

    hooks.run([bad, functools.partial(called.append, 1)], "SIGHUP hook")
    assert called == [1]
    ((level, text),) = said
    assert level == log.ERROR
    assert "SIGHUP hook" in text
    assert "bad" in text
    assert "ValueError('its reason')" in text


def test_what_ends_the_program_goes_through(hooks, said):
    def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        hooks.run([leave], "ready hook")
    assert said == []


def test_a_hook_that_is_added_by_a_hook_is_called_the_next_time(hooks):
    called = []
    hooks.steps[READY].append(lambda: hooks.steps[READY].append(lambda: called.append(1)))
    hooks.run_step(READY)
    assert called == []
    hooks.run_step(READY)
    assert called == [1]


def test_a_name_is_what_its_author_wrote():
    class Logs:
        def rotate(self):
            pass

    assert name_of(Logs().rotate).endswith("Logs.rotate")
    assert "functools.partial" in name_of(functools.partial(print))
