"""What every step of a reload has to do with: this process, its listeners, its neighbours."""

from __future__ import annotations

import importlib
import os
import threading
from collections import deque
from functools import partial

from endless_py._handoff.child import Children
from endless_py._handoff.started import Started
from endless_py._reload.beside import Beside
from endless_py._reload.counters import Counters
from endless_py._reload.driver import Driver
from endless_py._reload.hooks import Hooks
from endless_py._reload.listeners import Listeners
from endless_py._reload.machine import TABLE, Event, Machine, State, check
from endless_py._reload.predecessors import Predecessors
from endless_py._reload.retries import Retries
from endless_py._reload.signals import Signals
from endless_py._sockets.listener import ReceivedListeners
from endless_py._support import faults, log
from endless_py._support.reserve import Reserve

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, Optional, TypeVar

    from endless_py._handoff.successor import Successor
    from endless_py._reload.group import Group
    from endless_py._reload.listener import Listener

    _Made = TypeVar("_Made")


class Order:
    """Something that the process is to do, left by a signal handler or by any thread.

    event is what the machine is to be told, with `what` (the first of it is the name of who asked);
    number is that of the signal, 0 without one. An order without an event has only hooks, or is a
    call that is to be made by whoever drives.
    """

    def __init__(
        self,
        event: Optional[Event],
        *what: Any,
        number: int = 0,
        call: Optional[Callable[[], object]] = None,
    ) -> None:
        self.event = event
        self.what = what
        self.number = number
        self.call = call
        self.hooked = False  # the program's hooks before it have run

    @property
    def name(self) -> str:
        return str(self.what[0]) if self.what else ""


class BaseProcess:
    """This process, as its steps see it. They reach each other through the machine's table."""

    def __init__(self) -> None:
        self.started = Started()  # before anything else: what it was started with
        self.generation = 0
        self.group: Optional[Group] = None  # where this generation has more processes
        self.worker = 0  # its number among them; the leader's, and that of the only one, is 0
        self.in_handler = False  # it was forked to handle a request
        self.bridge = False
        self.orphaned = False  # it was a bridge, or comes from one, and the kept pid is lost
        self.reserve = Reserve()
        self.driver = Driver(self)
        self.machine = Machine(self.perform, self._owes, self._trace)
        self.retries = Retries()
        self.left_orders: deque[Order] = deque()
        self.owed: dict[str, str] = {}  # orders that wait for a state: their kind, who asked
        self.hooks = Hooks(self.log)
        self.signals = Signals(self.on_signal, self.log, self.started)
        self.listeners = Listeners()
        self.counters = Counters()
        self.beside = Beside()
        self.children = Children()
        self.predecessors = Predecessors(self.children)
        self.successor: Optional[Successor] = None  # the last one that was started
        self.handed: list[Listener] = []  # in the order of the successor's numbers
        self.received = ReceivedListeners()  # from a predecessor or a service manager
        self.hurries = False  # a stop in the foreground of a terminal: what is idle ends at once
        self.called = False  # by a command that got no answer at once
        self.released = False  # drained, and the program's hooks for that have run
        self.files: dict[str, int] = {}  # what else every generation is handed, by name
        # Held by who changes them, and by who uses a descriptor that another thread might close.
        self.files_lock = threading.RLock()

    @property
    def living_successor(self) -> Optional[Successor]:
        """The successor, unless it has failed."""
        successor = self.successor
        return successor if successor is not None and successor.failure is None else None

    def log(self, level: int, template: str, event: str = "", **fields: Any) -> None:
        """Write a line: template % fields. Each kind of event has one name and one template."""
        kind = "bridge" if self.bridge else ""
        if self.worker:
            kind += f"{', ' * bool(kind)}worker {self.worker}"
        number = f"{self.generation} ({kind})" if kind else str(self.generation)
        log.write(level, number, template, event, fields)

    # -- driven -----------------------------------------------------------

    def step(self) -> None:
        """Do what there is to do; an exception in it must not end a server that could go on."""
        with self.reserve.lent():
            try:
                self.take_step()
            except Exception as error:
                self.stumbled(error)
            else:
                if not self.machine.waits:
                    self.retries.clear()
            self.after_step()
            # What drains takes no more clients; what it has may use all that there is.
            self.reserve.keep(self.machine.accepting and bool(self.listeners.all))

    def make(self, what: Callable[[], _Made]) -> _Made:
        """Return what() outside a step; the reserve is for that as well."""
        try:
            return what()
        except OSError:
            with self.reserve.lent():
                return what()

    def load(self, module: str) -> Any:
        """Import a module that few servers need; there may be no free descriptor to read it."""
        return self.make(partial(importlib.import_module, module))

    # -- orders and events ------------------------------------------------

    def post(self, order: Order) -> None:
        """Leave an order, and have it taken soon; safe in a signal handler and in any thread."""
        self.leave(order)
        self.driver.wake()

    def leave(self, order: Order) -> None:
        """Leave an order for the next step, which the caller sees to."""
        self.left_orders.append(order)
        self.driver.posted = True

    def do(self, order: Order) -> None:
        """Carry out an order in this thread, unless another one just drives."""
        self.leave(order)
        self.driver.advance()

    def fire(self, event: Event, *what: Any) -> None:
        """Tell the machine; only by whoever drives. What an action raises is tried again."""
        try:
            self.machine.fire(event, *what)
        except Exception as error:
            self.stumbled(error)

    def stumbled(self, error: Exception) -> None:
        """Something of ours raised: say so, and try again a little later, but not for ever."""
        say, give_up = self.retries.note()
        if say:
            state = self.machine.state.value
            self.log(
                log.ERROR,
                "%(reason)s at %(where)s while %(state)s; this goes on",
                "error",
                reason=repr(error),
                where=log.where(error),
                state=state,
            )
        if not give_up:
            return
        # What is missing now, a descriptor or memory, may be there again later.
        skipped = "" if isinstance(error, (OSError, MemoryError)) else self.machine.skip()
        if skipped:
            template = "%(action)s was tried in vain and is left out"
            self.log(log.ERROR, template, "action_left_out", action=skipped)
        successor = self.living_successor
        if self.machine.awaits and successor is not None:
            successor.fail(f"this process cannot go on with the reload: {error!r}")

    def _trace(self, before: State, event: Event, after: State, listed: bool) -> None:
        faults.moved(before.name, event.name, after.name)
        if listed:
            self.driver.changes = object()
            return
        try:
            check(before, event)
        except RuntimeError as error:
            if faults.on():
                raise
            template = "no move is known for %(reason)s; it is ignored"
            self.log(log.ERROR, template, "no_move", reason=str(error))
            return
        if event is Event.RELOAD:
            template = "an order to reload is ignored: this process is %(state)s"
            self.log(log.WARNING, template, "reload_ignored", state=before.value)

    def _owes(self, kind: str) -> Optional[tuple[Any, ...]]:
        name = self.owed.pop(kind, None)
        return None if name is None else (name,)

    # -- supplied by ServerProcess ----------------------------------------

    def perform(self, action: str, what: tuple[Any, ...]) -> None:
        raise NotImplementedError

    def on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        raise NotImplementedError

    def take_step(self) -> None:
        raise NotImplementedError

    def after_step(self) -> None:
        raise NotImplementedError

    def pending(self) -> bool:
        raise NotImplementedError

    def watched(self) -> dict[int, int]:
        raise NotImplementedError

    def deadline(self) -> Optional[float]:
        raise NotImplementedError

    # -- everybody --------------------------------------------------------

    def others_ended(self) -> bool:
        """Whether none of the processes that this one leads lives any more."""
        return self.group is None or self.group.ended()

    @property
    def runs_main(self) -> bool:
        """Whether several processes run the program's own function, with all that it serves."""
        return self.group is not None and self.group.runs_main

    def tell_workers(self, word: str) -> None:
        """Say a word of the leader's to each worker, where there are any."""
        if self.group is not None:
            self.group.tell(word)

    def wake(self) -> None:
        """Have the process driven soon; safe in a signal handler and in any thread."""
        self.driver.wake()

    def wake_all(self) -> None:
        """Wake every loop, and whoever drives."""
        self.listeners.wake()
        self.driver.wake()

    def pass_file(self, name: str, descriptor: Optional[int]) -> None:
        """Keep a duplicate of this descriptor for the generations to come; None: no longer."""
        new = {} if descriptor is None else {name: os.dup(descriptor)}
        with self.files_lock:
            old = self.files.get(name)
            self.files = {**{k: v for k, v in self.files.items() if k != name}, **new}
            if old is not None:
                os.close(old)

    def passed_file(self, name: str) -> Optional[int]:
        """Return a duplicate of what is kept under this name, the caller's own."""
        with self.files_lock:
            descriptor = self.files.get(name)
            return None if descriptor is None else os.dup(descriptor)

    def drained(self) -> None:
        """The program's own servers have drained."""
        for listener in self.listeners.foreign():
            listener.done = True
        self.wake()

    def alone(self) -> bool:
        """Whether this process serves and has no living neighbour."""
        return (
            self.machine.at_peace and not self.predecessors.living and self.living_successor is None
        )

    def is_kept_by(self, successor: Optional[Successor]) -> bool:
        """Whether this successor is the bridge to what will replace this process in place."""
        return successor is not None and successor.bridge and not self.bridge

    def serving_process(self) -> bool:
        """Whether this is the process that serves, and not a fork of it."""
        return os.getpid() == self.driver.pid


def actions() -> set[str]:
    """Return the names of every action in the table."""
    return {action for _, names in TABLE.values() for action in names}
