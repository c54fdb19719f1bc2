"""The table agrees with what the code did before there was a table.

recorded_moves.json has every move (state, event, state, how often) that the processes of the suite
and of the matrix of faults made with the last version whose states were flags in a dozen classes,
18,421 of them: that version had been proven by both. What differs now is listed with its reason.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from endless_py._reload.machine import TABLE, Event, State

MOVES = json.loads((Path(__file__).parent / "recorded_moves.json").read_text())
DIFFERS = {
    ("SERVING", "RELOAD", "RELOADING"): "PREPARING is between them: the hooks run",
    ("SERVING", "RELOAD", "SERVING"): "a hook cancelled it: PREPARING, then CANCELLED",
    ("DRAINED", "EXITING", "REEXEC"): "an event of its own: KEPT_PID_EXITS",
    ("REEXEC", "FAILED", "ENDED"): "the end of the bridge is looked at by HANDED_BACK",
    ("REEXEC", "REAPED", "ENDED"): "the same",
    ("REEXEC", "GONE_FOR_GOOD", "REEXEC"): "LEAVING was a flag: it waits for the bridge's end",
    ("SERVING", "GONE_FOR_GOOD", "STOPPING"): "the kept pid is gone: that is an order to stop",
    ("HANDING_BACK", "GONE_FOR_GOOD", "HANDING_BACK"): "the kept pid stops: so does the bridge",
    ("HANDING_BACK", "READY", "RETIRING"): "SUPERSEDED is fired right after READY",
    ("RELOADING", "READY", "RETIRING"): "SUPERSEDED is fired right after READY",
    ("STARTING", "STOP", "STARTING"): "it stops; it went on to serve, and stopped then",
}


@pytest.mark.parametrize("move", MOVES, ids=lambda move: "-".join(map(str, move[:3])))
def test_a_recorded_move(move):
    before, event, after, _ = move
    row = TABLE.get((State[before], Event[event]))
    now = before if row is None else row[0].name
    assert (now != after) == ((before, event, after) in DIFFERS)
