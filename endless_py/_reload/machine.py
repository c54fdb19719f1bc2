"""The phases of a generation, and the only moves between them.

STARTING  no server serves yet
SERVING   the incumbent in peace
RELOADING a successor was started and is not ready yet; everything is served
DRAINING  the successor serves; active handlers finish
STOPPING  told to stop; active handlers finish, and nobody takes over
DRAINED   nothing is active; every serve_forever() returns and the program ends
"""

from __future__ import annotations

import enum


class Phase(enum.Enum):
    STARTING = "starting"
    SERVING = "serving"
    RELOADING = "reloading"
    DRAINING = "draining"
    STOPPING = "stopping"
    DRAINED = "drained"


MOVES = {
    Phase.STARTING: {Phase.SERVING},
    Phase.SERVING: {Phase.STARTING, Phase.RELOADING, Phase.STOPPING},
    Phase.RELOADING: {Phase.SERVING, Phase.DRAINING, Phase.STOPPING},
    Phase.DRAINING: {Phase.SERVING, Phase.DRAINED},
    Phase.STOPPING: {Phase.DRAINED},
    Phase.DRAINED: set(),
}


def check_move(before: Phase, after: Phase) -> None:
    """Raise ValueError for a move that is not in the table."""
    if after not in MOVES[before]:
        raise ValueError(f"a generation does not go from {before.value} to {after.value}")
