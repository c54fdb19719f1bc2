"""A worker as its leader sees it, and what is on its way to it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from endless_py._handoff.channel import Channel, Message
from endless_py._reload.listener import Listener
from endless_py._reload.migration import settle, stay
from endless_py._reload.signals import CALL
from endless_py._sockets.connection import MigratingConnection
from endless_py.exceptions import ChannelClosed, ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Iterable, Optional

_FIRST_PAUSE, _LAST_PAUSE = 1.0, 30.0  # seconds until one that dies young is replaced
_YOUNG = 10.0  # seconds


class WorkerFailed(RuntimeError):
    """A worker has ended before it could accept."""


class Member:
    """One worker's place: the process that has it now, if one has."""

    due = ""  # why it is to be replaced
    comes = False  # to replace one that serves until it is up
    leaves = False  # it was replaced, and finishes what it does

    def __init__(self, number: int, row: int) -> None:
        self.number = number
        self.row = row  # where it says how it is
        self.pid = 0
        self.channel: Optional[Channel] = None  # None: nobody has it
        self.up = False  # it could accept
        self.lost: Optional[str] = None  # why it is not listened to any more
        self.kill_at: Optional[float] = None
        self.start_at: Optional[float] = None  # when the place is to be taken again
        self._begun = 0.0
        self._pause = 0.0
        self._under_way: dict[int, tuple[Listener, MigratingConnection]] = {}
        self._last = 0

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.pid})" if self.pid else f"worker {self.number}"

    def begin(self, channel: Channel) -> None:
        """A process is to have this place; it has the other end."""
        self.channel, self.pid, self.up = channel, 0, False
        self.lost = self.kill_at = self.start_at = None
        self._begun = time.monotonic()

    @property
    def lives(self) -> bool:
        return self.channel is not None

    def watched(self) -> dict[int, int]:
        return {} if self.channel is None else self.channel.watched()

    def deadline(self) -> Optional[float]:
        retry = None if self.channel is None else self.channel.retry_at
        times = (retry, self.kill_at, self.start_at)
        return min((t for t in times if t is not None), default=None)

    def say(self, word: str, **fields: Any) -> None:
        """Say a word of the leader's; one whose loop is busy is called, so that it listens."""
        if self.leaves and word in ("resume", "stop"):
            return  # it does neither any more: it finishes, and ends
        if self.channel is not None:
            self.channel.send({"type": word, **fields})
            self.call()

    def call(self) -> None:
        if self.pid and self.channel is not None:
            with suppress(OSError):
                os.kill(self.pid, getattr(signal, CALL))

    def receive(self) -> list[Message]:
        """Return what it said since; at its end or at a protocol error `lost` says so."""
        if self.channel is None:
            return []
        try:
            self.channel.flush()
            return self.channel.receive()
        except ChannelClosed:
            self.lost = self.lost or "has ended"
        except ChannelError as error:
            self.fail(f"protocol error: {error}")
        return []

    def fail(self, why: str) -> None:
        """Give it up; it is killed."""
        self.lost = why
        self._kill()

    def kill_late(self) -> None:
        """Kill it when its time to end is over."""
        if self.kill_at is not None and time.monotonic() >= self.kill_at:
            self.kill_at = None
            self._kill()

    def _kill(self) -> None:
        if self.pid and self.channel is not None:  # that is open, so the number is its own
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> None:
        """Its process has ended: what it has not said that it has is served here."""
        if self.channel is not None:
            self.channel.close()
        self.channel, self.up = None, False
        for listener, connection in self._under_way.values():
            stay(listener, connection)
        self._under_way = {}

    def plan(self) -> float:
        """Plan when the place is to be taken again; return the pause until then (s)."""
        now = time.monotonic()
        if now - self._begun >= _YOUNG:
            self._pause = 0.0
        pause = self._pause
        self._pause = min(max(2 * pause, _FIRST_PAUSE), _LAST_PAUSE)
        self.start_at = now + pause
        return pause

    # -- connections ------------------------------------------------------

    def pass_on(self, number: int, listener: Listener, connection: MigratingConnection) -> None:
        """Have it serve this one; until it says that it does the connection is kept here.

        number is the listener's.
        """
        assert self.channel is not None
        self._last += 1
        connection.move("sent")
        self._under_way[self._last] = listener, connection
        item = {**connection.to_json(), "id": self._last, "listener": number}
        body = {"type": "connections", "items": [item]}
        self.channel.send(body, (connection.socket.fileno(),))

    def answered(self, numbers: Iterable[int], taken: bool) -> None:
        """It has these, or has refused them."""
        for number in numbers:
            listener, connection = self._under_way.pop(number, (None, None))
            if listener is not None and connection is not None:
                settle(listener, connection, taken)
