"""What the neighbours say, and what their ends mean.

A generation has its successor on one side and predecessors on the other, and talks to
nobody else. `_handoff/words.py` lists the words and checks their fields; here each becomes an
event, or a call of the step that it concerns.
"""

from __future__ import annotations

from functools import partial

from endless_py._handoff import words
from endless_py._reload import migration
from endless_py._reload.base import BaseProcess, Order
from endless_py._reload.bridge import Bridge
from endless_py._reload.machine import Event
from endless_py._reload.readiness import Readiness
from endless_py._reload.reexec import Reexec
from endless_py._reload.signals import RELOAD
from endless_py._reload.stop import Stop
from endless_py._reload.supervisor import Supervisor
from endless_py._support import log
from endless_py._support.sigmask import left_by
from endless_py.exceptions import ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Callable, Optional

    from endless_py._handoff.channel import Channel, Message
    from endless_py._handoff.predecessor import Predecessor
    from endless_py._handoff.successor import Successor
    from endless_py._reload.inherit import Inherit
    from endless_py._reload.migration import Migration


def hear_each(
    process: BaseProcess, channel: Channel, heard: list[Message], hear: Callable[[Message], None]
) -> None:
    """Hear messages one after the other; those left when this process fails to are heard soon.

    What has been taken of the first is no longer in it then. One that is not whole is dropped.
    """
    while heard:
        try:
            hear(heard[0])
        except Exception as error:
            wrong = isinstance(error, (LookupError, TypeError, ValueError))
            if wrong or process.retries.last_try():
                heard.pop(0).close()
            channel.unread(heard)
            raise
        heard.pop(0).close()


class HearSuccessor:
    """Listens to the successor."""

    def __init__(
        self,
        process: BaseProcess,
        readiness: Readiness,
        stop: Stop,
        reexec: Reexec,
        migration: Migration,
    ) -> None:
        self._process = process
        self._readiness = readiness
        self._stop = stop
        self._reexec = reexec
        self._migration = migration

    def step(self) -> None:
        """Hear what it has said since; at its end, or at a protocol error, it has failed."""
        successor = self._process.living_successor
        if successor is None:
            return
        hear = partial(self._hear, successor)
        hear_each(self._process, successor.channel, successor.receive(), hear)

    def _hear(self, successor: Successor, message: Message) -> None:
        if successor.failure is not None:
            return
        body = message.body
        wrong = words.problem(words.FROM_SUCCESSOR, body)
        word, index = body.get("type"), body.get("index")
        if not wrong and isinstance(index, int) and index >= len(successor.bindings):
            wrong = f"{word!r} of a listener that it was not handed"
        if wrong:
            successor.fail(f"protocol error on the handoff channel: {wrong}")
        elif word == "adopted":
            self._readiness.heard_adopted(successor, index)  # type: ignore[arg-type]
        elif word == "ready":
            self._readiness.heard_ready(successor, index)
            self._readiness.check_complete()  # before what it may have said after that
        elif word == "closed":
            self._readiness.heard_closed(body["indexes"])
        elif word == "stopping":
            if successor.bridge:
                self._stop.bridge_stops()
            self._process.fire(Event.GONE_FOR_GOOD, f"{successor} stops")
        elif word == "superseded":
            successor.superseded = True
            self._process.fire(Event.SUPERSEDED)
            self._crowded(successor, body.get("younger"), body.get("most"))
        elif word == "force":
            self._process.fire(Event.FORCED, f"a force stop of {successor}")
        elif word == "hand_back":
            self._reexec.heard_hand_back(message)
        elif word == "put_off":
            self._reexec.heard_put_off(body["reason"])
        elif word == "replaced_by":
            self._replaced(successor, int(body["pid"]), int(body["generation"]))
        else:
            self._migration.answered(body["ids"], word == "taken")

    def _crowded(self, successor: Successor, younger: Optional[int], most: Optional[int]) -> None:
        """So many younger generations drain by now; those before this one are told as well."""
        if younger is None:
            return
        successor.crowd = None if most is None else (younger, most)
        self._process.predecessors.superseded(younger + 1, most)

    def _replaced(self, successor: Successor, pid: int, generation: int) -> None:
        """It is about to end; at the other end of its channel its own successor is from now on."""
        if successor.child is not None:
            self._process.children.leave(successor.child)
        successor.pid, successor.generation = pid, generation
        if self._process.machine.awaits:  # it was ready, and has been replaced itself since
            self._process.fire(Event.READY, f"{successor} serves")
            if successor.superseded:
                self._process.fire(Event.SUPERSEDED)


class HearPredecessors:
    """Listens to the generations that still drain, and to the one that started this process."""

    def __init__(
        self,
        process: BaseProcess,
        inherit: Inherit,
        supervisor: Supervisor,
        bridge: Bridge,
        stop: Stop,
    ) -> None:
        self._process = process
        self._inherit = inherit
        self._supervisor = supervisor
        self._bridge = bridge
        self._stop = stop

    def step(self) -> None:
        """Hear what they have said since, and which of them have ended."""
        process = self._process
        for predecessor in list(process.predecessors.living):
            heard = predecessor.receive()
            if heard is None:
                self._ended(predecessor)
                continue
            hear_each(process, predecessor.channel, heard, partial(self._hear, predecessor))

    def _hear(self, predecessor: Predecessor, message: Message) -> None:
        try:
            self._heard(predecessor, message)
        except ChannelError as error:
            self._process.log(
                log.WARNING,
                "%(predecessor)s: protocol error on the handoff channel, the message is ignored: "
                "%(reason)s",
                "message_ignored",
                predecessor=predecessor,
                reason=str(error),
            )

    def _heard(self, predecessor: Predecessor, message: Message) -> None:
        process, body = self._process, message.body
        wrong = words.problem(words.FROM_PREDECESSOR, body)
        if wrong:
            raise ChannelError(wrong)
        word = body["type"]
        if word == "reload":
            process.leave(Order(Event.RELOAD, f"a reload passed on by {predecessor}"))
        elif word == "missing":
            process.received.close(set(body["indexes"]))
            predecessor.say("closed", indexes=body["indexes"])
        elif word == "reloaded":
            self._bridge.heard_reloaded(body["report"])
        elif word == "counted":
            process.counters.heard(body["numbers"])
        elif word == "in_charge":
            self._supervisor.take_charge(body["pid_file"], message.take())
            process.listeners.wake()
            self._supervisor.hand_over()
        elif word == "stop":
            now = bool(body.get("now"))
            process.leave(Order(None, call=partial(self._stop.passed_on, predecessor, now)))
        elif word == "force":
            process.leave(Order(Event.FORCE, f"a force stop passed on by {predecessor}"))
        elif word == "ancestor_ended":
            predecessor.ancestor = False
        elif word == "given_up":
            predecessor.gave_up = True
            process.listeners.leave_paths()
        elif word == "predecessor":
            process.predecessors.take_over(message, process.generation)
        elif word == "orphaned":
            self._bridge.serve_on(body["reason"])
        elif word == "wait_over":
            predecessor.waits = True
        elif word == "starting":
            successor = process.successor
            if successor is not None and successor.pid == predecessor.pid:
                process.fire(Event.STARTED)
        else:
            listeners = process.listeners.by_number(predecessor.numbers)
            take = migration.arrive if process.group is None else process.group.share
            migration.receive(predecessor, message, listeners, process, take)

    def _ended(self, predecessor: Predecessor) -> None:
        process = self._process
        process.predecessors.forget(predecessor)
        process.received.close()
        process.listeners.never_wait()
        self._inherit.restore_error_output()  # nobody reads it any more
        if predecessor.gave_up:
            return  # it lives, and is in charge
        successor = process.living_successor
        if successor is not None and successor.pid == predecessor.pid:
            return  # its program has ended, and the process starts it anew
        if predecessor.failure is None:
            template = "%(predecessor)s has ended"
            process.log(log.DEBUG, template, "predecessor_ended", predecessor=predecessor)
        else:
            process.log(
                log.ERROR,
                "%(predecessor)s: %(reason)s; the channel is closed",
                "channel_closed",
                predecessor=predecessor,
                reason=predecessor.failure,
            )
        if process.signals.ours(RELOAD) & left_by(predecessor.pid):
            name = f"a reload that {predecessor} was told at its very end"
            process.leave(Order(Event.RELOAD, name))
        if predecessor.kept:
            self._bridge.serve_on(f"pid {predecessor.pid} has ended instead of starting anew")
        successor = process.living_successor  # it may have been given up just now
        if successor is not None and not process.predecessors.living:
            successor.say("ancestor_ended")
        if predecessor is process.predecessors.parent:
            self._parent_ended()

    def _parent_ended(self) -> None:
        supervisor = self._supervisor
        if supervisor.was_in_charge or self._process.bridge:
            return
        supervisor.in_charge = True  # it was killed before it could hand over
        if supervisor.serves():
            self._inherit.say_unused()
        if self._process.machine.stops:
            supervisor.stopping()
        supervisor.hand_over()
