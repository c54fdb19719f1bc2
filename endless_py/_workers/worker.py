"""A worker's side: its leader stands where a successor stands, and decides.

It has no neighbour but the leader, is asked by no command, and owns no pid file. What signals say
is for the leader, whom those of a terminal or of a service manager reach as well.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
import traceback
from contextlib import suppress

from endless_py._handoff import words
from endless_py._handoff.channel import Channel, Message
from endless_py._reload import migration
from endless_py._reload.listener import Listener
from endless_py._reload.machine import Event
from endless_py._reload.process import ServerProcess
from endless_py._reload.signals import CALL
from endless_py._sockets.connection import MigratingConnection
from endless_py._support import log
from endless_py._workers.board import Board
from endless_py._workers.hearing import hear
from endless_py._workers.shared import Part, Shared
from endless_py.exceptions import ChannelClosed, ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, NoReturn, Optional

_FLUSH = 1.0  # seconds that the last words to the leader may take
_LOOK = 0.002


class Leader:
    """The leader, where the steps of a reload see a successor. Raises nothing, starts nothing."""

    bridge = False
    superseded = False
    reload_passed_on = False
    failure_noted = False
    child = crowd = started = first_ready = None

    def __init__(self, channel: Channel, pid: int, generation: int) -> None:
        self.channel = channel
        self.pid, self.generation = pid, generation
        self.failure: Optional[str] = None
        self.bindings: list[Any] = []
        self.adopted: set[int] = set()
        self.ready: set[int] = set()

    def __str__(self) -> str:
        return f"its leader (pid {self.pid})"

    def say(self, word: str, *_: object, **__: object) -> None:
        """What a successor would be told the leader's own successor is told by the leader."""

    def receive(self) -> list[Message]:
        """What it says is heard by `Membership`."""
        return []

    def begun(self, wait: bool = False) -> bool:
        return True

    def fail(self, reason: str, kill_after: float = 0.0) -> None:
        self.failure = reason

    def close(self) -> None:
        pass

    def leave_open(self) -> None:
        pass

    def in_forked_child(self) -> None:
        pass


class Membership(Part):
    """What this process is as a worker."""

    def __init__(
        self,
        process: ServerProcess,
        shared: Shared,
        board: Board,
        leader: Leader,
        row: int,
    ) -> None:
        """row is where on the board it says how it is."""
        super().__init__(process, shared, board, row)
        self._leader = leader
        self._channel = leader.channel
        self._since = time.time()
        self._served_before = board.served_before(row)
        self._counted_before = board.counted(row)
        self.leaderless = False
        self.serves_now = False  # its leader has said so

    def say(self, word: str, **fields: Any) -> None:
        self._channel.send({"type": word, **fields})

    def flush(self, seconds: float) -> None:
        """Send what waits to be sent, at the end of this process."""
        until = time.monotonic() + seconds
        while self._channel.sending and time.monotonic() < until:
            time.sleep(_LOOK)
            self._channel.flush()

    # -- driven -----------------------------------------------------------

    def step(self) -> None:
        if self.leaderless:
            return
        try:
            self._channel.flush()
            messages = self._channel.receive()
        except ChannelClosed:
            self._lost("it has ended")
            return
        except ChannelError as error:
            self._lost(f"protocol error: {error}")
            return
        known = words.FROM_LEADER
        hear(self._process, self._channel, messages, known, self._heard, "the leader")

    def _heard(self, message: Message) -> None:
        process, body = self._process, message.body
        word = body["type"]
        if word == "serve":
            process.inherit.leave_error_output()
            self.serves_now = True
            self.accept()
        elif word == "yield":
            self._drain(body["migrates"], "the next generation serves")
        elif word == "replaced":
            self._drain(list(self._shared.by_number()), "another process has its place")
        elif word == "resume":
            process.fire(Event.RESUME)
            if process.machine.at_peace:
                process.successor = None
                for listener in process.listeners.all:
                    listener.migrates_to = None
                    listener.owns_path = False
        elif word == "close":
            process.received.close()
            process.fire(Event.GONE_FOR_GOOD, "the listeners are closed")
        elif word == "give_up":
            process.received.close({body["listener"]})
            for number, listener in self._shared.by_number().items():
                if number == body["listener"]:
                    listener.give_up()
        elif word == "stop":
            self._leave_queue()
            process.received.close()
            process.fire(Event.STOP, "its leader stops")
        elif word == "force":
            process.fire(Event.FORCED, "its leader's order")
        elif word == "alone":
            process.predecessors.none_lives.set()
        elif word == "exclusive":
            self._shared.wake_one(body["on"])
        elif word == "look":
            self._shared.look()
        elif word == "count":
            self.write()
        elif word == "connections":
            migration.receive(self, message, self._shared.by_number(), process)
        else:
            process.migration.answered(body["ids"], word == "taken")

    def _drain(self, migrating: list[int], why: str) -> None:
        for number, listener in self._shared.by_number().items():
            listener.migrates_to = number if number in migrating else None
        self._process.successor = self._leader  # type: ignore[assignment]
        self._process.fire(Event.YIELD, why)

    def _leave_queue(self) -> None:
        """It ends: where it never was to accept, others have whoever waits to be let in."""
        for listener in self._process.listeners.all if not self.serves_now else ():
            listener.move("never served")

    def accept(self) -> None:
        """Accept, with all servers that there are by now."""
        for listener in self._process.listeners.all:
            listener.entered = listener.ready = True
            if self._process.machine.accepting:
                listener.move("ready")
            listener.wake()

    def _lost(self, why: str) -> None:
        """Nobody leads any more: what is active finishes, and the address is to be free."""
        process = self._process
        self.leaderless = True
        self._leave_queue()
        for listener in process.listeners.all:
            listener.migrates_to = None
        process.successor = None
        if process.machine.at_peace or process.machine.migrates:
            template = "its leader is gone: %(reason)s; this worker finishes and ends"
            process.log(log.WARNING, template, "leader_gone", reason=why)
        process.fire(Event.LEADERLESS, "its leader is gone")
        process.wake_all()

    def pending(self) -> bool:
        return bool(self._process.listeners.foreign())  # no loop of ours waits for its leader

    def watched(self) -> dict[int, int]:
        return {} if self.leaderless else self._channel.watched()

    def deadline(self) -> Optional[float]:
        return None if self.leaderless else self._channel.retry_at

    # -- what the process does --------------------------------------------

    def serves(self) -> None:
        """Its leader says so."""

    def drains(self) -> None:
        """It leads nobody."""

    def tell(self, word: str) -> None:
        """It leads nobody."""

    def refers(self, event: Event, name: str, number: int) -> bool:
        """A signal to this process is none to the generation; a call of reload() is."""
        if self.leaderless or event not in (Event.RELOAD, Event.STOP, Event.FORCE):
            return False
        if not number:
            self.say("order", what=event.name, name=name)
        return True

    def reached(self, why: str) -> None:
        self.say("limit", why=why)

    def share(self, listener: Listener, connection: MigratingConnection) -> None:
        migration.arrive(listener, connection)

    def give_up(self, listener: Listener) -> None:
        """It leads nobody."""

    def look(self) -> None:
        """Have all see whether a client waits."""
        self.say("look")

    def in_forked_child(self) -> None:
        self._channel.close()

    def ended(self) -> bool:
        """Whether all that was said has gone."""
        return self.leaderless or not self._channel.sending

    def on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        """In a signal handler. What a signal asks of the generation is for the leader to do."""
        process = self._process
        role = process.signals.roles.get(number)
        if number == getattr(signal, CALL) or role is None or self.leaderless:
            process.on_signal(number, frame)

    # -- what all of them do ----------------------------------------------

    def write(self) -> None:
        """Say how it is with this process."""
        active, idle, served = self._shared.counts()
        counted = self._process.counters.own()
        for name, value in self._counted_before.items():
            counted[name] += value
        counts = active, idle, self._served_before + served
        self._board.write(self._row, self._since, counts, counted)

    def counted(self) -> dict[str, int]:
        """Return what the other processes have counted, and those before with this number."""
        found = self._board.counted_beside(self._row)
        for name, value in self._counted_before.items():
            found[name] += value
        return found

    def ask_others(self) -> bool:
        if not self.leaderless:
            self.say("count")
        return not self.leaderless


def run(membership: Membership, process: ServerProcess, serve: Callable[[], bool]) -> NoReturn:
    """Be a worker until the end of its process; serve() is the server's loop.

    What the program does after its serve_forever(), and at its exit, is the leader's alone.
    """
    number, status = process.worker, 1
    try:
        atexit._clear()  # what the program has is the leader's
        process.hooks.run_worker_start(number)
        membership.write()
        if not membership.runs_main:
            membership.say("up", pid=os.getpid())
        if not serve() and not process.released:
            membership.say("shutdown")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        with suppress(Exception):
            traceback.print_exc()
    finally:
        try:
            if membership.runs_main:
                process.exit.end_driving()
            process.hooks.run_worker_exit(number)
            atexit._run_exitfuncs()  # what was begun here
            children: Any = sys.modules.get("multiprocessing.util")
            if children is not None:
                children._exit_function()
            membership.write()
            membership.flush(_FLUSH)
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    stream.flush()
        finally:
            os._exit(status)
