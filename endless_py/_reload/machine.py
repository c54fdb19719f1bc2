"""The states of a server process as one table: (state, event) -> (next state, actions).

Everything that changes the state is here, and there is no I/O in it. A reload is read along the
table: SERVING, PREPARING (the program's `before_reload` hooks run), RELOADING (a successor was
started), DRAINING (it serves), DRAINED (nothing is active), ENDED. With a kept pid the successor
is a bridge, and DRAINED leads to REEXEC: the process waits until the bridge hands back
(HANDING_BACK, seen from the bridge), and is replaced in place.

An action is the name of a method, "step.method"; the steps are the files beside this one. The
actions of a move are done in their order, with what the event carries, each exactly once: one
that raises is tried again by the next step of the driver, and those behind it wait for it.

`OWED` is looked at after every move until nothing changes (h11 calls these state-triggered): an
order that came in a state that could not carry it out takes effect when one that can is reached.

A pair that is in neither `TABLE` nor `IGNORED` is a bug. It raises in tests; in production it is
logged with both names, and nothing is done.
"""

from __future__ import annotations

import time
from collections import deque

from endless_py._reload.states import Event as Event
from endless_py._reload.states import State as State

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional


S, E = State, Event

_GIVE_UP = ("stop.tell_neighbours", "drain.give_up_listeners", "report.stopped")
_BEGIN_STOP = (*_GIVE_UP, "drain.begin", "drain.tell_program")
_BEGIN_DELAY = ("stop.tell_neighbours", "report.stopped", "stop.delay")
_CANCEL_AND_DELAY = ("stop.stop_successor", "resume.keep_listeners", *_BEGIN_DELAY)
_BEGIN_DRAIN = (
    "readiness.take_over",
    "supervisor.hand_over",  # who is told that it is ready finds its pid in the pid file
    "report.ready",
    "drain.begin",
    "drain.tell_program",
    "orders.pass_on_owed_reload",
)
_BEGIN_END = ("drain.close_listeners", "drain.begin", "drain.tell_program")
_FORCE = ("stop.force_predecessors", "drain.force")
_PASS_ON_STOP = ("stop.pass_on", "supervisor.stopping")
_PASS_ON_FORCE = ("stop.pass_on_force", "supervisor.stopping", *_FORCE)

TABLE: dict[tuple[State, Event], tuple[State, tuple[str, ...]]] = {
    (S.STARTING, E.SERVES): (S.SERVING, ("spawn.announce", "answers.open", "bridge.serves")),
    (S.STARTING, E.RELOAD): (S.STARTING, ("orders.owe_early_reload",)),
    (S.STARTING, E.STOP): (S.STOPPING, _BEGIN_STOP),
    (S.STARTING, E.FORCE): (S.STOPPING, (*_BEGIN_STOP, *_FORCE)),
    (S.STARTING, E.STOP_LATER): (S.STARTING, ("stop.owe_delayed",)),
    (S.STARTING, E.EXITING): (S.ENDED, ()),
    (S.STARTING, E.WORKS): (S.SERVING, ()),
    (S.SERVING, E.LEFT): (S.STARTING, ()),
    (S.SERVING, E.RELOAD): (S.PREPARING, ("report.begins", "spawn.prepare")),
    (S.SERVING, E.TAKE_BACK): (S.HANDING_BACK, ("bridge.hand_back",)),
    (S.SERVING, E.STOP): (S.STOPPING, _BEGIN_STOP),
    (S.SERVING, E.STOP_LATER): (S.DELAYING, _BEGIN_DELAY),
    (S.SERVING, E.FORCE): (S.STOPPING, (*_BEGIN_STOP, *_FORCE)),
    (S.SERVING, E.EXITING): (S.ENDED, ()),
    (S.SERVING, E.YIELD): (S.DRAINING, ("drain.begin", "drain.tell_program")),
    (S.SERVING, E.LEADERLESS): (S.STOPPING, _BEGIN_END),
    (S.PREPARING, E.PREPARED): (S.RELOADING, ("spawn.start",)),
    (S.PREPARING, E.CANCELLED): (S.SERVING, ("report.cancelled",)),
    (S.PREPARING, E.STOP): (S.STOPPING, _BEGIN_STOP),
    (S.PREPARING, E.STOP_LATER): (S.DELAYING, _BEGIN_DELAY),
    (S.PREPARING, E.FORCE): (S.STOPPING, (*_BEGIN_STOP, *_FORCE)),
    (S.PREPARING, E.EXITING): (S.ENDED, ()),
    (S.RELOADING, E.RELOAD): (S.RELOADING, ("orders.owe_reload",)),
    (S.RELOADING, E.READY): (S.DRAINING, _BEGIN_DRAIN),
    (S.RELOADING, E.FAILED): (S.ABORTING, ("resume.keep_listeners",)),
    (S.RELOADING, E.STOP): (S.STOPPING, ("stop.stop_successor", *_BEGIN_STOP)),
    (S.RELOADING, E.STOP_LATER): (S.DELAYING, _CANCEL_AND_DELAY),
    (S.RELOADING, E.FORCE): (S.STOPPING, ("stop.stop_successor", *_BEGIN_STOP, *_FORCE)),
    (S.RELOADING, E.EXITING): (S.ENDED, ()),
    (S.ABORTING, E.RELOAD): (S.ABORTING, ("orders.owe_reload",)),
    (S.ABORTING, E.REAPED): (S.SERVING, ("report.failed",)),
    (S.ABORTING, E.STOP): (S.STOPPING, _BEGIN_STOP),
    (S.ABORTING, E.STOP_LATER): (S.DELAYING, _BEGIN_DELAY),
    (S.ABORTING, E.FORCE): (S.STOPPING, (*_BEGIN_STOP, *_FORCE)),
    (S.ABORTING, E.EXITING): (S.ENDED, ()),
    (S.HANDING_BACK, E.RELOAD): (S.HANDING_BACK, ("orders.owe_reload",)),
    (S.HANDING_BACK, E.STARTED): (S.HANDING_BACK, ("readiness.restart_clock",)),
    (S.HANDING_BACK, E.CANCELLED): (S.SERVING, ()),
    (S.HANDING_BACK, E.READY): (S.DRAINING, _BEGIN_DRAIN),
    (S.HANDING_BACK, E.FAILED): (S.SERVING, ("resume.keep_listeners", "bridge.failed")),
    (S.HANDING_BACK, E.GONE_FOR_GOOD): (S.STOPPING, ("stop.say_kept_pid_stops", *_BEGIN_STOP)),
    (S.HANDING_BACK, E.STOP): (S.STOPPING, ("stop.stop_successor", *_BEGIN_STOP)),
    (S.HANDING_BACK, E.STOP_LATER): (S.DELAYING, _CANCEL_AND_DELAY),
    (S.HANDING_BACK, E.FORCE): (S.STOPPING, ("stop.stop_successor", *_BEGIN_STOP, *_FORCE)),
    (S.HANDING_BACK, E.EXITING): (S.ENDED, ()),
    (S.DELAYING, E.STOP): (S.STOPPING, _BEGIN_STOP),
    (S.DELAYING, E.FORCE): (S.STOPPING, (*_BEGIN_STOP, *_FORCE)),
    (S.DELAYING, E.STOPPED_PID_EXITS): (S.LEAVING, ()),
    (S.DELAYING, E.EXITING): (S.ENDED, ()),
    (S.DRAINING, E.RELOAD): (S.DRAINING, ("orders.pass_on_reload",)),
    (S.DRAINING, E.FAILED): (S.SERVING, ("resume.accept_again", "report.died", "bridge.resume")),
    (S.DRAINING, E.SUPERSEDED): (S.RETIRING, ()),
    (S.DRAINING, E.GONE_FOR_GOOD): (S.RETIRING, ("drain.close_listeners",)),
    (S.DRAINING, E.STOP): (S.DRAINING, ("stop.owe_stop", *_PASS_ON_STOP)),
    (S.DRAINING, E.FORCE): (S.DRAINING, ("stop.owe_stop", *_PASS_ON_FORCE)),
    (S.DRAINING, E.FORCED): (S.DRAINING, ("drain.force",)),
    (S.DRAINING, E.EMPTY): (S.DRAINED, ("exit.finish",)),
    (S.DRAINING, E.EXITING): (S.ENDED, ()),
    (S.DRAINING, E.RESUME): (S.SERVING, ("resume.serve_again",)),
    (S.DRAINING, E.LEADERLESS): (S.STOPPING, ("drain.close_listeners",)),
    (S.RETIRING, E.RELOAD): (S.RETIRING, ("orders.pass_on_reload",)),
    (S.RETIRING, E.GONE_FOR_GOOD): (S.RETIRING, ("drain.close_listeners",)),
    (S.RETIRING, E.STOP): (S.RETIRING, _PASS_ON_STOP),
    (S.RETIRING, E.FORCE): (S.RETIRING, _PASS_ON_FORCE),
    (S.RETIRING, E.FORCED): (S.RETIRING, ("drain.force",)),
    (S.RETIRING, E.EMPTY): (S.DRAINED, ("exit.finish",)),
    (S.RETIRING, E.EXITING): (S.ENDED, ()),
    (S.RETIRING, E.LEADERLESS): (S.STOPPING, ("drain.close_listeners",)),
    (S.STOPPING, E.FORCE): (S.STOPPING, _FORCE),
    (S.STOPPING, E.FORCED): (S.STOPPING, ("drain.force",)),
    (S.STOPPING, E.EMPTY): (S.DRAINED, ("exit.finish",)),
    (S.STOPPING, E.STOPPED_PID_EXITS): (S.LEAVING, ()),
    (S.STOPPING, E.EXITING): (S.ENDED, ()),
    (S.DRAINED, E.RELOAD): (S.DRAINED, ("orders.pass_on_reload",)),
    (S.DRAINED, E.GONE_FOR_GOOD): (S.DRAINED, ("reexec.forget_spare",)),
    (S.DRAINED, E.STOP): (S.DRAINED, _PASS_ON_STOP),
    (S.DRAINED, E.FORCE): (S.DRAINED, _PASS_ON_FORCE),
    (S.DRAINED, E.KEPT_PID_EXITS): (S.REEXEC, ()),
    (S.DRAINED, E.STOPPED_PID_EXITS): (S.LEAVING, ()),
    (S.DRAINED, E.EXITING): (S.ENDED, ()),
    (S.REEXEC, E.RELOAD): (S.REEXEC, ("orders.pass_on_reload",)),
    (S.REEXEC, E.STOP): (S.LEAVING, ("reexec.forget_spare", *_PASS_ON_STOP)),
    (S.REEXEC, E.FORCE): (S.LEAVING, ("reexec.forget_spare", *_PASS_ON_FORCE)),
    (S.REEXEC, E.GONE_FOR_GOOD): (S.LEAVING, ("reexec.forget_spare",)),
    (S.REEXEC, E.HANDED_BACK): (S.ENDED, ("reexec.replace",)),
    (S.LEAVING, E.STOP): (S.LEAVING, ("stop.pass_on",)),
    (S.LEAVING, E.FORCE): (S.LEAVING, ("stop.pass_on_force", "stop.force_predecessors")),
    (S.LEAVING, E.ALONE): (S.ENDED, ()),
}

# What cannot be, or has no effect, and why. None stands for every state that has no row above.
IGNORED: dict[tuple[Optional[State], Event], str] = {
    (None, E.SERVES): "a server more; the process serves already, or never will again",
    (None, E.LEFT): "only a process at peace begins anew; else the drain or the reload decides",
    (S.PREPARING, E.RELOAD): "the successor that is about to be started is started after it",
    (S.DELAYING, E.RELOAD): "a process that was told to stop is not replaced",
    (S.STOPPING, E.RELOAD): "a process that was told to stop is not replaced",
    (S.LEAVING, E.RELOAD): "a process that was told to stop is not replaced",
    (S.ENDED, E.RELOAD): "it ends; its successor looks for what was held back",
    (None, E.PREPARED): "told to stop, or ended, while the hooks ran",
    (None, E.CANCELLED): "told to stop, or ended, while the hooks ran",
    (None, E.STARTED): "only a bridge that hands back waits for it",
    (None, E.READY): "the successor was given up just before it said so",
    (S.REEXEC, E.FAILED): "looked at when signals are held back, by HANDED_BACK",
    (None, E.FAILED): "nobody counts on the successor any more, or it stops by itself",
    (None, E.REAPED): "the failure was reported, or is none: this process stops or has drained",
    (None, E.SUPERSEDED): "it matters only to who would accept again",
    (None, E.GONE_FOR_GOOD): "a successor that stops before it is ready has failed, no more",
    (None, E.TAKE_BACK): "it is looked for again when this process serves",
    (None, E.STOP_LATER): "told again what it does already; what drains is told to stop now",
    (S.STOPPING, E.STOP): "the same order, once by a predecessor and once by a signal",
    (S.ENDED, E.STOP): "it ends",
    (S.ENDED, E.FORCE): "it ends",
    (None, E.FORCED): "nothing here drains for it",
    (None, E.EMPTY): "nothing drains",
    (None, E.HANDED_BACK): "it was told to stop in the last moment",
    (None, E.ALONE): "nothing waits for it",
    (None, E.KEPT_PID_EXITS): "only a drained process is replaced in place",
    (None, E.STOPPED_PID_EXITS): "it was not told to stop",
    (None, E.EXITING): "it ends already",
    (None, E.WORKS): "only what was just forked begins as a worker",
    (None, E.YIELD): "it is told to, or has, already",
    (None, E.RESUME): "it serves, or has ended; then the leader starts another one",
    (None, E.LEADERLESS): "it ends already",
}

# (state, the name of what is owed, the event it leads to), in the order in which it is looked at
OWED: tuple[tuple[State, str, Event], ...] = (
    (S.SERVING, "stop", E.STOP),
    (S.SERVING, "delayed stop", E.STOP_LATER),
    (S.SERVING, "reload", E.RELOAD),
)

_RELOADS = {S.PREPARING, S.RELOADING, S.ABORTING, S.HANDING_BACK}
_ACCEPTING = {S.STARTING, S.SERVING, *_RELOADS, S.DELAYING}
_DRAINS = {S.DRAINING, S.RETIRING, S.STOPPING}
_OVER = {S.DRAINED, S.REEXEC, S.LEAVING, S.ENDED}


class IllegalMove(RuntimeError):
    """A pair of state and event that is neither in the table nor ignored."""


class Machine:
    """The state, and the one place where it changes. One thread at a time may call `fire()`.

    The attributes below follow from the state; any thread may read them.

    accepting    what arrives at its listeners is this process's to serve
    starting     no server serves yet
    at_peace     it serves, and neither reloads nor drains
    prepares     the program's hooks before a reload run
    aborts       the successor has failed, and is not reaped yet
    awaits       a successor (or the kept pid) is to become ready
    drains       active requests finish
    migrates     a successor may take idle connections
    delays       told to stop, but not yet
    stops        told to stop, now or soon
    over         nothing is active any more
    reexecs      the interpreter ends, and waits for the bridge to hand back
    leaves       the interpreter ends, and waits for the end of other processes
    """

    def __init__(
        self,
        perform: Callable[[str, tuple[Any, ...]], None],
        owes: Callable[[str], Optional[tuple[Any, ...]]],
        trace: Callable[[State, Event, State, bool], None],
    ) -> None:
        """perform does an action, owes returns what an owed order carries (None: it is not owed).

        trace hears of every event: the state before, the event, the state after, and whether
        the pair is in the table.
        """
        self._perform = perform
        self._owes = owes
        self._trace = trace
        self._events: deque[tuple[Event, tuple[Any, ...]]] = deque()
        self._actions: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._moving = False
        self._set(State.STARTING)

    def _set(self, state: State) -> None:
        self.state = state
        self.since = time.time()
        self.accepting = state in _ACCEPTING
        self.starting = state is S.STARTING
        self.at_peace = state is S.SERVING
        self.prepares = state is S.PREPARING
        self.aborts = state is S.ABORTING
        self.awaits = state in (S.RELOADING, S.HANDING_BACK)
        self.drains = state in _DRAINS
        self.migrates = state in (S.DRAINING, S.RETIRING)
        self.delays = state is S.DELAYING
        self.stops = state in (S.DELAYING, S.STOPPING)
        self.over = state in _OVER
        self.reexecs = state is S.REEXEC
        self.leaves = state is S.LEAVING

    def begin_again(self) -> None:
        """In a process that was forked to be one of its own: what was under way is not its."""
        self._events.clear()
        self._actions.clear()
        self._moving = False
        self._set(State.STARTING)

    def fire(self, event: Event, *what: Any) -> None:
        """Move, and do what the table says; an event of an action waits until the action is done.

        Raises what an action raises. It is then tried again by `go_on()`.
        """
        self._events.append((event, what))
        self.go_on()

    @property
    def waits(self) -> bool:
        """Whether an action has raised, and waits to be tried again."""
        return bool(self._actions) and not self._moving

    def go_on(self) -> None:
        """Do what is left of earlier moves."""
        if self._moving:
            return
        self._moving = True
        try:
            while True:
                while self._actions:
                    action, what = self._actions[0]
                    self._perform(action, what)
                    self._actions.popleft()
                if not self._events and not self._look_at_owed():
                    return
                self._move(*self._events.popleft())
        finally:
            self._moving = False

    def skip(self) -> str:
        """Give up the action that raises again and again; return its name, "" for none."""
        return self._actions.popleft()[0] if self._actions else ""

    def _move(self, event: Event, what: tuple[Any, ...]) -> None:
        before = self.state
        row = TABLE.get((before, event))
        if row is None:
            self._trace(before, event, before, False)
            return
        after, actions = row
        if after is not before:
            self._set(after)
        self._trace(before, event, after, True)
        self._actions.extend((action, what) for action in actions)

    def _look_at_owed(self) -> bool:
        for state, name, event in OWED:
            if self.state is state:
                what = self._owes(name)
                if what is not None:
                    self._events.append((event, what))
                    return True
        return False


def reason_ignored(state: State, event: Event) -> Optional[str]:
    """Return why this event has no effect in this state; None where it should have one."""
    if (state, event) in TABLE:
        return None
    return IGNORED.get((state, event)) or IGNORED.get((None, event))


def check(state: State, event: Event) -> None:
    """Raise IllegalMove for a pair that is neither in the table nor ignored."""
    if (state, event) not in TABLE and reason_ignored(state, event) is None:
        raise IllegalMove(f"{event.name} in the state {state.name}")
