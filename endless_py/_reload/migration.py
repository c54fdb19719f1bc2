"""Idle connections on their way to the successor: sending them, and receiving them there.

The sender keeps each one until the receiver says that it has it, and serves it again
when the receiver refuses it or is gone. A forked handler sends its connection home to
the serving process first (see `_server/forking.py`), which then does the same.
"""

from __future__ import annotations

import os
from collections import deque

from endless_py._handoff.words import is_number
from endless_py._reload.base import BaseProcess
from endless_py._reload.listener import Listener
from endless_py._sockets.connection import MigratingConnection
from endless_py._support import faults
from endless_py.exceptions import ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Protocol

    from endless_py._handoff.channel import Channel, Message

    class Sender(Protocol):
        """A predecessor, a worker or a leader."""

        def say(self, word: str, **fields: Any) -> None: ...


_BATCH = 16
_BATCH_BYTES = 131072
# Linux counts descriptors under way against the limit of open ones.
_UNDER_WAY = 128


class Migration:
    """The sender's side. Handlers add, whoever drives the process does the rest."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        self._waiting: deque[tuple[Listener, MigratingConnection]] = deque()
        self._under_way: dict[int, tuple[Listener, MigratingConnection]] = {}
        self._left: dict[int, MigratingConnection] = {}  # waited for no longer
        self._number = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way)

    def add(self, listener: Listener, connection: MigratingConnection) -> None:
        """Take over a connection whose handler has ended."""
        self._waiting.append((listener, connection))

    def step(self) -> None:
        """Send what waits; where nobody receives any more, it is served here."""
        if not len(self):
            return
        successor = self._process.living_successor
        if self._process.machine.migrates and successor is not None:
            self._send(successor.channel)
        else:
            self._serve_here()

    def _send(self, channel: Channel) -> None:
        """Send what waits, as far as the window allows."""
        while self._waiting and len(self._under_way) < _UNDER_WAY:
            items: list[dict[str, Any]] = []
            batch: dict[int, tuple[Listener, MigratingConnection]] = {}
            size = 0
            while self._waiting and len(items) < _BATCH and size < _BATCH_BYTES:
                listener, connection = self._waiting.popleft()
                if listener.migrates_to is None:
                    stay(listener, connection)
                    continue
                self._number += 1
                batch[self._number] = listener, connection
                size += len(connection.carried or b"") * 4 // 3
                items.append(
                    {**connection.to_json(), "id": self._number, "listener": listener.migrates_to}
                )
            if not items:
                continue
            try:
                faults.at("migrating")
                descriptors = tuple(connection.socket.fileno() for _, connection in batch.values())
                channel.send({"type": "connections", "items": items}, descriptors)
            except BaseException:
                self._waiting.extendleft(reversed(list(batch.values())))
                raise
            for _, connection in batch.values():
                connection.move("sent")
            self._under_way.update(batch)

    def answered(self, numbers: Iterable[Any], taken: bool) -> None:
        """The receiver has these, or has refused them."""
        for number in numbers:
            left = self._left.pop(number, None)
            if left is not None:
                left.socket.close()
                self._process.counters.add("connections_migrated_out", int(taken))
            listener, connection = self._under_way.pop(number, (None, None))
            if listener is None or connection is None:
                continue
            settle(listener, connection, taken)
            self._process.counters.add("connections_migrated_out", int(taken))

    def leave_to_successor(self) -> int:
        """The drain's time is over: return how many were on their way.

        A receiver that is merely busy has what was sent, and serves it in its own time. What it
        has not said that it has may still wait in the channel, so it stays open here.
        """
        count = len(self)
        self._left.update((number, sent) for number, (_, sent) in self._under_way.items())
        self._under_way.clear()
        while self._waiting:  # a handler may add one meanwhile, which is not forgotten
            self._waiting.popleft()[1].socket.close()
        return count

    def at_exit(self) -> None:
        """The process ends."""
        while self._left:
            self._left.popitem()[1].socket.close()

    def _serve_here(self) -> None:
        """Nobody receives any more: everything that was not taken is served here."""
        everything = [*self._under_way.values()]
        self._under_way.clear()
        while self._waiting:  # handlers may add meanwhile
            everything.append(self._waiting.popleft())
        for listener, connection in everything:
            stay(listener, connection)


def stay(listener: Listener, connection: MigratingConnection) -> None:
    """It is served here, be it that nobody else has taken it, or that this process drains."""
    connection.move("stays")
    drain_signal = listener.drain_signal
    if drain_signal is not None and drain_signal.was_sent():
        connection.refused_for = drain_signal.drain
    else:
        connection.refused_for = None
    listener.arrivals.append(connection)
    listener.wake()


def settle(listener: Listener, connection: MigratingConnection, taken: bool) -> None:
    """Whom it was sent to has taken it, or has refused it."""
    if taken:
        connection.move("taken")
        connection.socket.close()
    else:
        stay(listener, connection)


def arrive(listener: Listener, connection: MigratingConnection) -> None:
    """Have the loop of a listener serve a connection that came without an accept."""
    listener.arrivals.append(connection)
    listener.wake()


def receive(
    sender: Sender,
    message: Message,
    listeners: dict[int, Listener],
    process: BaseProcess,
    take: Callable[[Listener, MigratingConnection], None] = arrive,
) -> None:
    """Take connections over, as many as there is room for, and tell their sender which ones.

    listeners are ours by the numbers of the sender; take() is what is done with each. Raises
    ChannelError, once all the rest is taken, when something in the message is not right.
    """
    faults.at("connections received")
    for position in reversed(range(len(message.descriptors))):
        if process.reserve.has_room():
            break
        descriptor = message.take(position)
        if descriptor is not None:
            os.close(descriptor)
    answers: dict[str, list[int]] = {"taken": [], "refused": []}
    problem = None
    for position, item in enumerate(message.body["items"]):
        if not (isinstance(item, dict) and is_number(item.get("id"))):
            problem = "a connection without a number"
            continue
        number = item.get("listener")
        listener = listeners.get(number) if is_number(number) else None
        taken = False
        if listener is not None and listener.entered and not listener.cut:
            descriptor = message.take(position)  # None: there is no room for it
            if descriptor is not None:
                try:
                    found = MigratingConnection.from_json(item, descriptor)
                    take(listener, found)
                    taken = True
                except (KeyError, OSError, TypeError, ValueError) as error:
                    os.close(descriptor)
                    problem = f"a connection that cannot be taken over ({error!r})"
        answers["taken" if taken else "refused"].append(item["id"])
    message.close()  # what is refused belongs to its sender alone, before that hears so
    process.counters.add("connections_migrated_in", len(answers["taken"]))
    for word, numbers in answers.items():
        if numbers:
            sender.say(word, ids=numbers)
    if problem is not None:
        raise ChannelError(problem)
