"""The leader's side: it has its workers started, hears them, and replaces those that die.

A worker is to the leader what a forked handler is to its server, but that it accepts: its idle
connections come over its channel and migrate from here, and its end is told by that of the channel.
"""

from __future__ import annotations

import itertools
import select
import time
from functools import partial

from endless_py._handoff import words
from endless_py._handoff.child import describe
from endless_py._reload import migration
from endless_py._reload.base import Order
from endless_py._reload.listener import Listener
from endless_py._reload.machine import Event
from endless_py._reload.process import ServerProcess
from endless_py._reload.settings import NO_LIMIT
from endless_py._sockets.connection import MigratingConnection
from endless_py._support import log
from endless_py._workers.board import Board
from endless_py._workers.forkserver import ForkServer
from endless_py._workers.hearing import hear
from endless_py._workers.members import Member, WorkerFailed
from endless_py._workers.shared import Part, Shared

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._handoff.channel import Message

_END_GRACE = 2.0  # seconds that a worker has to end in when the drain's time is over
_STATUS = 0.2  # seconds in which the fork server says how a worker has ended


class Team(Part):
    """The workers of this process, which leads them."""

    def __init__(
        self, process: ServerProcess, shared: Shared, board: Board, fork_server: ForkServer
    ) -> None:
        super().__init__(process, shared, board, 0)
        self._fork_server = fork_server
        self._members = [Member(number, number) for number in range(1, board.count)]
        self._turn = itertools.cycle([None, *self._members])
        self._since = time.time()
        self._serves = False
        self._ends = False  # no more are to be started
        self._alone = False  # they know that no older generation drains
        self._status_by: dict[int, tuple[Member, float]] = {}  # by pid: its status is due

    # -- the beginning and the end ----------------------------------------

    def start(self, seconds: float = NO_LIMIT) -> None:
        """Start all of them, and wait until each could accept. Raises OSError, WorkerFailed."""
        until = time.monotonic() + seconds
        for member in self._members:
            member.begin(self._fork_server.fork(member.row))
        poll = select.poll()
        while not all(member.up for member in self._members):
            for descriptor, events in self._descriptors().items():
                poll.register(descriptor, events)
            poll.poll(max(0.0, until - time.monotonic()) * 1000 if seconds < NO_LIMIT else None)
            self._hear()
            for member in self._members if time.monotonic() >= until else ():
                if not member.up:
                    member.fail(f"did not say ready within {seconds:g} s and was killed")
            for member in self._members:
                if member.lost is not None:
                    raise WorkerFailed(f"{member} {member.lost}, before it could serve")
            if not self._fork_server.lives:
                raise WorkerFailed("the fork server has ended before all workers could serve")
        self._board.write(0, self._since, (0, 0, 0), self._process.counters.own())

    def end(self) -> None:
        """The server's loop has ended: they are to end as well."""
        self._ends = True
        self.tell("stop")
        self._fork_server.end()
        self._fork_server.reap(wait=True)
        for member in self._members:
            if member.channel is not None:
                member.channel.close()  # it finishes what it does
                member.channel = None

    # -- driven -----------------------------------------------------------

    def step(self) -> None:
        self._hear()
        if not self._alone and not self._process.predecessors.living:
            self._alone = True
            self.tell("alone")
            self._wake_one(True)
        for member in self._members:
            if member.lost is not None and member.lives:
                self._ended(member)
        self._name_the_dead()
        process = self._process
        if process.machine.over or process.machine.stops:
            self._fork_server.end()
        if not self._fork_server.lives:
            self._fork_server.reap()
        if process.machine.drains and process.listeners.cut():
            for member in self._members:
                if member.lives and member.kill_at is None and not member.lost:
                    member.kill_at = time.monotonic() + _END_GRACE
        for member in self._members:
            member.kill_late()
        self._start_again()

    def pending(self) -> bool:
        if self._process.listeners.foreign():
            return True  # no loop of ours waits for what they say
        return any(member.lost or member.start_at or not member.up for member in self._members)

    def watched(self) -> dict[int, int]:
        return self._descriptors()

    def _descriptors(self) -> dict[int, int]:
        found = self._fork_server.watched()
        for member in self._members:
            found.update(member.watched())
        return found

    def deadline(self) -> Optional[float]:
        times = [
            self._fork_server.deadline(),
            *(member.deadline() for member in self._members),
            *(due for _, due in self._status_by.values()),
        ]
        if not self._fork_server.lives and self._fork_server.pid:
            times.append(time.monotonic() + 0.01)
        return min((t for t in times if t is not None), default=None)

    def _hear(self) -> None:
        for member in self._members:
            self._hear_member(member)
        for body in self._fork_server.receive():  # of a channel that ends it has said why before
            self._heard_fork_server(body)

    def _hear_member(self, member: Member) -> bool:
        """Hear what it has said; whether that was anything."""
        messages, channel = member.receive(), member.channel
        if not messages or channel is None:
            return False
        heard = partial(self._heard, member)
        hear(self._process, channel, messages, words.FROM_WORKER, heard, member)
        return True

    def _heard(self, member: Member, message: Message) -> None:
        process, body = self._process, message.body
        word = body["type"]
        if word == "up":
            # The fork server, which says it as well, may come later.
            member.up, member.pid = True, body["pid"]
            self._greet(member)
        elif word == "connections":
            take = process.migration.add
            migration.receive(member, message, self._shared.by_number(), process, take)
        elif word == "shutdown":
            self._ends = True
            for listener in self._shared.all():
                listener.shutdown_requested = True
                listener.wake()
        elif word == "order":
            process.leave(Order(Event[body["what"]], f"{body['name']} in {member}"))
        elif word == "look":
            self.look()
        elif word == "count":
            self.write()
            self.tell("count")
        elif word in ("taken", "refused"):
            member.answered(body["ids"], word == "taken")

    def _greet(self, member: Member) -> None:
        """It has come while others serve: let it know what they do."""
        machine = self._process.machine
        if self._serves:
            member.say("serve")
        if self._alone:
            member.say("alone")
        member.say("exclusive", on=self._shared.exclusive)
        if machine.migrates:
            member.say("yield", migrates=self._shared.migrating())
        elif machine.stops or machine.over:
            member.say("stop")

    def _heard_fork_server(self, body: dict[str, Any]) -> None:
        word = body["type"]
        if word == "ended":
            self._status(body["pid"], body["status"])
            return
        for member in self._members:
            if member.row != body["number"] or not member.lives:
                continue
            if word == "forked":
                member.pid = body["pid"]
            else:
                member.lost = f"could not be forked: {body['reason']}"

    # -- their ends -------------------------------------------------------

    def _ended(self, member: Member) -> None:
        member.ended()
        self._board.clear(member.row)
        self.look()  # a client may have woken it alone
        if self._ends or not self._process.machine.accepting:
            return
        if member.pid and self._fork_server.lives:
            self._status_by[member.pid] = member, time.monotonic() + _STATUS
        else:
            self._plan(member, member.lost or "which has ended")

    def _status(self, pid: int, status: int) -> None:
        """The fork server says how one has ended; that may come before the end of its channel."""
        for member in self._members:
            if member.pid == pid and member.lives:
                while self._hear_member(member):
                    continue  # all that it has said is there
                member.lost = member.lost or "has ended"
                self._ended(member)
        member_and_due = self._status_by.pop(pid, None)
        if member_and_due is not None:
            self._plan(member_and_due[0], describe(status))

    def _name_the_dead(self) -> None:
        for pid, (member, due) in list(self._status_by.items()):
            if time.monotonic() >= due or not self._fork_server.lives:
                del self._status_by[pid]
                self._plan(member, "which has ended")

    def _plan(self, member: Member, how: str) -> None:
        process = self._process
        if self._fork_server.lives:
            pause = member.plan()
            when = f"in {pause:g} s" if pause else "now"
            template = "lost %(worker)s, %(status)s; another one is started %(when)s"
            process.log(log.ERROR, template, "worker_ended", worker=member, status=how, when=when)
        else:
            template = "lost %(worker)s, %(status)s, and the fork server; a reload replaces all"
            process.log(log.ERROR, template, "fork_server_ended", worker=member, status=how)
            process.leave(Order(Event.RELOAD, f"the end of {member}"))

    def _start_again(self) -> None:
        process = self._process
        able = self._fork_server.lives and self.accepts() and not self._ends
        if not able or not process.machine.accepting:
            return
        now = time.monotonic()
        for member in self._members:
            if member.lives or member.pid in self._status_by or (member.start_at or 0.0) > now:
                continue
            try:
                member.begin(self._fork_server.fork(member.row))
            except OSError as why:
                pause = max(member.plan(), 1.0)
                member.start_at = now + pause
                text = "cannot start %(worker)s: %(reason)s; tried again in %(seconds)g s"
                process.log(
                    log.ERROR, text, "worker_not_started", worker=member, reason=why, seconds=pause
                )

    # -- what the process does --------------------------------------------

    def serves(self) -> None:
        if not self._serves and all(listener.ready for listener in self._shared.all()):
            self._serves = True
            self._fork_server.say("serve")
            self.tell("serve")

    def drains(self) -> None:
        if self._process.machine.migrates:
            for member in self._members:
                member.say("yield", migrates=self._shared.migrating())
        else:
            self.tell("stop")

    def tell(self, word: str) -> None:
        if word == "close":
            self._fork_server.end()  # it has the listener, too
        elif word == "resume":
            self._wake_one(False)  # workers of the one that died may still wait for clients
        for member in self._members:
            member.say(word)

    def refers(self, event: Event, name: str, number: int) -> bool:
        return False

    def reached(self, why: str) -> None:
        """The leader is replaced by a reload, as the one process of a generation."""

    def share(self, listener: Listener, connection: MigratingConnection) -> None:
        number = self._shared.number(listener)
        for _ in range(len(self._members) + 1):
            member = next(self._turn)
            if member is None or number < 0:
                break
            if member.up and member.lost is None:
                member.pass_on(number, listener, connection)
                return
        migration.arrive(listener, connection)

    def look(self) -> None:
        """Have all of them see whether a client waits."""
        self.tell("look")
        self._shared.look()

    def _wake_one(self, exclusive: bool) -> None:
        for member in self._members:
            member.say("exclusive", on=exclusive)
        self._shared.wake_one(exclusive)

    def give_up(self, listener: Listener) -> None:
        number = self._shared.number(listener)
        self._fork_server.end()  # it has the listener, too
        for member in self._members if number >= 0 else ():
            member.say("give_up", listener=number)

    def in_forked_child(self) -> None:
        for member in self._members:
            if member.channel is not None:
                member.channel.close()
        self._fork_server.in_forked_child()

    def ended(self) -> bool:
        return not any(member.lives for member in self._members)

    # -- what all of them do ----------------------------------------------

    def write(self) -> None:
        """Say how it is with this process."""
        counts = self._shared.counts()
        self._board.write(0, self._since, counts, self._process.counters.own())

    def counted(self) -> dict[str, int]:
        """Return what the workers have counted, by what they last said."""
        return self._board.counted_beside(0)

    def ask_others(self) -> bool:
        self.tell("count")
        return True
