"""The states of a server process, and the events that may change them; see `machine`."""

from __future__ import annotations

import enum


class State(enum.Enum):
    """The values are what `status` and the log say."""

    STARTING = "starting"  # no server serves yet
    SERVING = "serving"  # the incumbent in peace
    PREPARING = "preparing"  # `before_reload` hooks run; everything is served
    RELOADING = "reloading"  # a successor was started and is not ready; everything is served
    ABORTING = "aborting"  # the successor failed and is not reaped yet; everything is served
    HANDING_BACK = "handing back"  # a bridge waits until the kept pid is ready; it serves
    DRAINING = "draining"  # the successor serves; active requests finish
    RETIRING = "retiring"  # so, and the successor's end would not bring the listeners back
    DELAYING = "stopping soon"  # told to stop, and says so; until then everything is served
    STOPPING = "stopping"  # told to stop; active requests finish, and nobody takes over
    DRAINED = "drained"  # nothing is active; every serve_forever() returns
    REEXEC = "re-exec"  # the interpreter ends; waits until the bridge hands back
    LEAVING = "leaving"  # the interpreter ends; waits for the end of the processes it answers for
    ENDED = "ended"  # the process ends, or is replaced in place


class Event(enum.Enum):
    SERVES = "serves"  # the first server is entered
    LEFT = "left"  # the last loop has ended, without a drain
    RELOAD = "reload"  # an order
    PREPARED = "prepared"  # the `before_reload` hooks have passed
    CANCELLED = "cancelled"  # one of them has raised, or a bridge cannot hand back just now
    STARTED = "started"  # the kept pid starts the program just now
    READY = "ready"  # the successor serves all that it has adopted
    FAILED = "failed"  # the successor is given up
    REAPED = "reaped"  # the failed successor's process has ended
    SUPERSEDED = "superseded"  # the successor's own successor serves
    GONE_FOR_GOOD = "gone for good"  # the successor stops
    TAKE_BACK = "take back"  # a bridge is to hand back
    STOP = "stop"  # an order
    STOP_LATER = "stop later"  # an order, of a server with a `stop_delay`
    FORCE = "force"  # an order: a second stop, or a force stop
    FORCED = "forced"  # the successor was told to force its stop, so this process ends as well
    EMPTY = "empty"  # nothing is active any more
    EXITING = "exiting"  # the interpreter ends
    KEPT_PID_EXITS = "kept pid exits"  # so, and the bridge is to hand back
    STOPPED_PID_EXITS = "stopped pid exits"  # so, and processes it answers for still live
    HANDED_BACK = "handed back"  # the bridge has, or has died; no signal can come any more
    ALONE = "alone"  # none of the processes it answers for lives any more
    WORKS = "works"  # it was forked to be a worker, and its leader decides from now on
    YIELD = "yield"  # of a worker: the leader's successor serves
    RESUME = "resume"  # of a worker: that one has died, and the leader serves again
    LEADERLESS = "leaderless"  # of a worker: the leader has died
