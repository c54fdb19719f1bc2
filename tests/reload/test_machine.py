"""The tables: of the process, of a listener, of a connection. Everything here is logic."""

from __future__ import annotations

import inspect
import re
from itertools import product
from pathlib import Path

import pytest

from endless_py._reload import process
from endless_py._reload.base import actions
from endless_py._reload.listener import LISTENER_TABLE, Listener, ListenerState
from endless_py._reload.machine import (
    IGNORED,
    OWED,
    TABLE,
    Event,
    IllegalMove,
    Machine,
    State,
    check,
    reason_ignored,
)
from endless_py._sockets.connection import CONNECTION_TABLE, Connection, ConnectionState

PACKAGE = Path(process.__file__).parent.parent


def machine(owed=None, perform=None):
    """Return a machine, and what it has done."""
    done: list[str] = []
    owed = {} if owed is None else owed

    def record(action, what):
        done.append(action)
        if perform is not None:
            perform(action, what)

    return Machine(record, lambda kind: owed.pop(kind, None), lambda *_: None), done


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_pair_is_a_move_or_ignored_with_a_reason(state, event):
    row = TABLE.get((state, event))
    assert (row is None) == bool(reason_ignored(state, event)), "exactly one of the two"
    check(state, event)
    tested, done = machine()
    tested._set(state)
    tested.fire(event, "what")
    expected = (state, ()) if row is None else row
    assert (tested.state, tuple(done)) == expected


def test_what_is_ignored_is_not_in_the_table_too():
    assert not IGNORED.keys() & TABLE.keys()


def test_a_pair_that_nobody_thought_of_is_illegal(monkeypatch):
    # Not delitem(): what it puts back comes last, and the diagram is drawn in the order of this.
    rest = {pair: row for pair, row in TABLE.items() if pair != (State.SERVING, Event.RELOAD)}
    monkeypatch.setattr(process.current.machine.__module__ + ".TABLE", rest)
    with pytest.raises(IllegalMove, match="RELOAD in the state SERVING"):
        check(State.SERVING, Event.RELOAD)


@pytest.mark.parametrize("name", sorted(actions()))
def test_every_action_is_a_method_of_a_step(name):
    # An event carries the name of who asked, or why, and some carry nothing.
    inspect.signature(process.current.action(name)).bind("why")


def test_every_state_can_be_reached_and_left():
    reached = {State.STARTING}
    while True:
        more = {after for (before, _), (after, _) in TABLE.items() if before in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == set(State)
    assert {before for before, _ in TABLE} == set(State) - {State.ENDED}


def test_a_state_that_drains_comes_to_an_end():
    for state in State:
        tested, _ = machine()
        tested._set(state)
        if tested.drains:
            assert TABLE[state, Event.EMPTY][0] is State.DRAINED


# -- how it moves -------------------------------------------------------------


def test_an_action_that_raises_is_tried_again_and_those_behind_it_wait():
    broken = [True]

    def perform(action, what):
        if action == "drain.begin" and broken:
            raise OSError("not now")

    tested, done = machine(perform=perform)
    tested._set(State.RELOADING)
    with pytest.raises(OSError, match="not now"):
        tested.fire(Event.READY, "it is ready")
    assert tested.waits
    assert tested.state is State.DRAINING
    broken.clear()
    tested.go_on()
    assert not tested.waits
    actions = list(TABLE[State.RELOADING, Event.READY][1])
    again = actions.index("drain.begin")
    assert done == [*actions[: again + 1], *actions[again:]]


def test_what_is_tried_in_vain_can_be_left_out():
    def perform(action, what):
        if action == "report.ready":
            raise OSError("never")

    tested, _ = machine(perform=perform)
    tested._set(State.RELOADING)
    with pytest.raises(OSError, match="never"):
        tested.fire(Event.READY)
    assert tested.skip() == "report.ready"
    tested.go_on()
    assert not tested.waits


def test_an_event_of_an_action_waits_for_the_actions_of_the_move():
    def perform(action, what):
        if action == "spawn.start":
            tested.fire(Event.FAILED, "why")
            tested.fire(Event.REAPED, "why")
            assert tested.state is State.RELOADING

    tested, done = machine(perform=perform)
    tested._set(State.PREPARING)
    tested.fire(Event.PREPARED)
    assert tested.state is State.SERVING
    assert done == ["spawn.start", "resume.keep_listeners", "report.failed"]


def test_a_stop_that_came_while_the_successor_lived_is_carried_out_when_it_dies():
    owed = {}

    def perform(action, what):
        if action == "stop.owe_stop":
            owed["stop"] = what

    tested, _ = machine(owed, perform)
    tested._set(State.DRAINING)
    tested.fire(Event.STOP, "SIGTERM")
    assert tested.state is State.DRAINING
    tested.fire(Event.FAILED, "killed")
    assert tested.state is State.STOPPING
    assert owed == {}


def test_a_stop_comes_before_a_reload_where_both_are_owed():
    assert [kind for state, kind, _ in OWED if state is State.SERVING] == [
        *("stop", "delayed stop", "reload")
    ]
    tested, done = machine({"stop": ("SIGTERM",), "reload": ("SIGHUP",)})
    tested._set(State.ABORTING)
    tested.fire(Event.REAPED, "why")
    assert tested.state is State.STOPPING
    assert "spawn.prepare" not in done


# -- listeners and connections ------------------------------------------------


@pytest.mark.parametrize(("state", "event"), list(product(ListenerState, LISTENER_TABLE)))
def test_a_listener_moves_as_its_table_says(state, event):
    listener = Listener(type("Server", (), {})())
    listener._set(state)
    after = LISTENER_TABLE[event].get(state)
    assert listener.move(event) == (after is not None)
    assert listener.state is (after or state)
    assert listener.accepting == (listener.state is ListenerState.SERVING)


def test_no_listener_that_was_given_up_is_taken_back():
    for event in LISTENER_TABLE:
        for state in (ListenerState.CLOSED, ListenerState.CUT_CLOSED):
            listener = Listener(type("Server", (), {})())
            listener._set(state)
            listener.move(event)
            assert listener.closing


@pytest.mark.parametrize("state", list(ConnectionState))
@pytest.mark.parametrize("event", sorted({event for _, event in CONNECTION_TABLE}))
def test_a_connection_moves_as_its_table_says(state, event):
    connection = Connection(None, None)
    connection.state = state
    if (state, event) in CONNECTION_TABLE:
        connection.move(event)
        assert connection.state is CONNECTION_TABLE[state, event]
    else:
        with pytest.raises(KeyError):
            connection.move(event)


# -- the code around the machine ----------------------------------------------


def test_nobody_else_compares_the_state():
    """What follows from it are attributes of the machine; `.state` is read to be told."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.name != "machine.py":
            for line in path.read_text().splitlines():
                if re.search(r"\bState\.[A-Z_]+\b|machine\.state (?:is|==|in|not)\b", line):
                    found.append(line)
    assert found == []
