"""Workers that have served enough are replaced, one at a time: `max_requests` and `max_rss`.

The fork server forks another one first. Once that could accept, and serves, the older one is told
to drain: its idle connections come to the leader, who shares them out, and it ends when nothing of
it is active any more. The leader itself is replaced by a reload, of which it knows how to lose
nothing; so is all of it where the fork server is gone.
"""

from __future__ import annotations

import itertools
import time

from endless_py._reload import migration
from endless_py._reload.base import Order
from endless_py._reload.machine import Event
from endless_py._reload.settings import NO_LIMIT
from endless_py._support import log
from endless_py._workers.members import Member
from endless_py._workers.team import Team

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._handoff.channel import Message

_FIRST_PAUSE, _LAST_PAUSE = 1.0, 60.0  # seconds until a replacement that failed is tried again
_LAST_WORDS = 10.0  # seconds that a worker has to end in, once it has drained


class ReplacingTeam(Team):
    """A team with a limit for what one of its processes serves."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pause = 0.0
        self._again_at = 0.0  # time.monotonic(): before that none is replaced

    # -- driven -----------------------------------------------------------

    def step(self) -> None:
        if self._process.machine.drains:
            self._forget_times()
        super().step()
        newer, older = self._pair()
        if newer is not None and newer.up and self.accepts():
            self._swap(newer, older)
        elif self._next() is not None and time.monotonic() >= self._again_at:
            self._begin()

    def pending(self) -> bool:
        return super().pending() or any(member.due or member.leaves for member in self._members)

    def deadline(self) -> Optional[float]:
        found = super().deadline()
        if self._next() is None:
            return found
        return self._again_at if found is None else min(found, self._again_at)

    def _forget_times(self) -> None:
        """The drain of all of them says how long those may take that were replaced before it."""
        soon = time.monotonic() + _LAST_WORDS / 2
        for member in self._members:
            if member.leaves and member.kill_at is not None and member.kill_at > soon:
                member.kill_at = None

    def _pair(self) -> tuple[Optional[Member], Optional[Member]]:
        """Return the one that is being started, and the one that it is to replace."""
        for member in self._members:
            if member.comes:
                others = (other for other in self._members if other.number == member.number)
                return member, next((other for other in others if other is not member), None)
        return None, None

    def _next(self) -> Optional[Member]:
        """Return the worker that is to be replaced, where one may be: all the others serve."""
        settled = not self._status_by and all(
            m.up and m.lives and not m.leaves and not m.lost for m in self._members
        )
        if not (settled and self._process.machine.at_peace and self.accepts()):
            return None
        return None if self._ends else next((m for m in self._members if m.due), None)

    def _begin(self) -> None:
        """Have a process started for the place of the next one."""
        older = self._next()
        assert older is not None
        if not self._fork_server.lives:
            self._put_off()
            self._process.leave(Order(Event.RELOAD, f"{older} {older.due}"))
            return
        newer = Member(older.number, self._board.other(older.row))
        newer.comes = True
        try:
            newer.begin(self._fork_server.fork(newer.row))
        except OSError as error:
            self._failed(older, str(error))
            return
        newer.kill_at = time.monotonic() + self._process.listeners.ready_timeout()
        self._know([*self._members, newer])

    def _swap(self, newer: Member, older: Optional[Member]) -> None:
        """It serves as all the others do: the one that it replaces is to end."""
        newer.comes = False
        self._pause = 0.0
        if older is not None:
            drain = self._process.listeners.longest_drain()
            older.say("replaced")
            older.leaves = True
            if drain < NO_LIMIT:
                older.kill_at = time.monotonic() + drain + _LAST_WORDS
            template = "%(worker)s %(reason)s: pid %(newer)d takes its place"
            self._process.log(
                log.INFO,
                template,
                "worker_replaced",
                worker=older,
                reason=older.due,
                newer=newer.pid,
            )
        self._know(self._members)

    def _know(self, members: list[Member]) -> None:
        """These are there; connections are for those that neither come nor leave."""
        self._members = sorted(members, key=lambda member: member.number)
        serve = (member for member in members if not (member.comes or member.leaves))
        self._turn = itertools.cycle([None, *serve])

    # -- what they say ----------------------------------------------------

    def _heard(self, member: Member, message: Message) -> None:
        word, process = message.body["type"], self._process
        if word == "up":
            member.kill_at = None
        if word == "limit":
            member.due = message.body["why"]
        elif word == "connections" and member.leaves and process.machine.accepting:
            migration.receive(member, message, self._shared.by_number(), process, self.share)
        else:
            super()._heard(member, message)

    # -- their ends -------------------------------------------------------

    def _ended(self, member: Member) -> None:
        newer, older = self._pair()
        if member is older and newer is not None:
            newer.comes = False  # the place is its own now
        if member.leaves or member in (newer, older):
            self._know([other for other in self._members if other is not member])
        super()._ended(member)

    def _plan(self, member: Member, how: str) -> None:
        if member.comes:
            number = member.number
            older = next((m for m in self._members if m.number == number and m.lives), None)
            if older is not None:
                self._failed(older, how)
        elif not member.leaves:
            super()._plan(member, how)
        elif how != "exited with status 0":
            template = "lost %(worker)s, %(status)s, which was replaced and had not finished"
            self._process.log(log.ERROR, template, "replaced_ended", worker=member, status=how)

    def _put_off(self) -> float:
        """Return the seconds until it is tried again."""
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LAST_PAUSE)
        self._again_at = time.monotonic() + self._pause
        return self._pause

    def _failed(self, older: Member, why: str) -> None:
        self._process.log(
            log.ERROR,
            "%(worker)s %(reason)s, but cannot be replaced: %(status)s; tried again in "
            "%(seconds)g s",
            "worker_not_replaced",
            worker=older,
            reason=older.due,
            status=why,
            seconds=self._put_off(),
        )
