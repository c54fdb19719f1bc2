"""Idle connections on their way to the successor: sending them, and receiving them there.

The sender keeps each one until the receiver says that it has it, and serves it again
when the receiver refuses it or is gone. A forked handler sends its connection home to
the serving process first (see `traveller.Home`), which then does the same.
"""

from __future__ import annotations

import os
from collections import deque

from endless_py._handoff.channel import Channel, Message
from endless_py._handoff.handoff import Predecessor, is_number
from endless_py._reload.serving import Serving
from endless_py._sockets.traveller import Traveller
from endless_py._support import faults
from endless_py.exceptions import ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Iterable, Optional

_BATCH = 16
_BATCH_BYTES = 131072
# Linux counts descriptors under way against the limit of open ones.
_UNDER_WAY = 128


class Migration:
    """The sender's side. Handlers add, whoever drives the generation does the rest."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Serving, Traveller]] = deque()
        self._under_way: dict[int, tuple[Serving, Traveller]] = {}
        self._left: dict[int, Traveller] = {}  # waited for no longer
        self._number = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way)

    def add(self, serving: Serving, traveller: Traveller) -> None:
        """Take over a connection whose handler has ended."""
        self._waiting.append((serving, traveller))

    def step(self, channel: Optional[Channel]) -> None:
        """Send what waits; without a channel nobody receives any more, and it stays."""
        if not len(self):
            return
        if channel is not None:
            self._send(channel)
        else:
            self._give_back()

    def _send(self, channel: Channel) -> None:
        """Send what waits, as far as the window allows."""
        while self._waiting and len(self._under_way) < _UNDER_WAY:
            items: list[dict[str, Any]] = []
            batch: dict[int, tuple[Serving, Traveller]] = {}
            size = 0
            while self._waiting and len(items) < _BATCH and size < _BATCH_BYTES:
                serving, traveller = self._waiting.popleft()
                if serving.migrates_to is None:
                    _stay(serving, traveller)
                    continue
                self._number += 1
                batch[self._number] = serving, traveller
                size += len(traveller.state) * 4 // 3
                items.append(
                    {**traveller.to_json(), "id": self._number, "listener": serving.migrates_to}
                )
            if not items:
                continue
            try:
                faults.at("migrating")
                descriptors = tuple(traveller.socket.fileno() for _, traveller in batch.values())
                channel.send({"type": "connections", "items": items}, descriptors)
            except BaseException:
                self._waiting.extendleft(reversed(list(batch.values())))
                raise
            self._under_way.update(batch)

    def answered(self, numbers: Iterable[Any], taken: bool) -> None:
        """The receiver has these, or has refused them."""
        for number in numbers:
            left = self._left.pop(number, None)
            if left is not None:
                left.socket.close()
            serving, traveller = self._under_way.pop(number, (None, None))
            if serving is None or traveller is None:
                continue
            if taken:
                traveller.socket.close()
            else:
                _stay(serving, traveller)

    def let_go(self) -> int:
        """The drain's time is over: return how many were on their way.

        A receiver that is merely busy has what was sent, and serves it in its own time. What it
        has not said that it has may still wait in the channel, so it stays open here.
        """
        count = len(self)
        self._left.update((number, t) for number, (_, t) in self._under_way.items())
        self._under_way.clear()
        for _, traveller in self._waiting:
            traveller.socket.close()
        self._waiting.clear()
        return count

    def end(self) -> None:
        """The process ends."""
        while self._left:
            self._left.popitem()[1].socket.close()

    def _give_back(self) -> None:
        """Nobody receives any more: everything that was not taken is served here."""
        everything = [*self._under_way.values(), *self._waiting]
        self._under_way.clear()
        self._waiting.clear()
        for serving, traveller in everything:
            _stay(serving, traveller)


def _stay(serving: Serving, traveller: Traveller) -> None:
    beacon = serving.beacon
    traveller.refused_for = beacon if beacon is not None and beacon.lit() else None
    serving.arrivals.append(traveller)
    serving.wake()


def receive(predecessor: Predecessor, message: Message, servers: dict[int, Serving]) -> None:
    """Take connections over, and tell their sender which ones.

    servers are ours by the numbers of the predecessor. Raises ChannelError, once all the rest
    is taken, when something in the message is not right.
    """
    faults.at("connections received")
    answers: dict[str, list[int]] = {"taken": [], "refused": []}
    items = message.body.get("items")
    problem = None if isinstance(items, list) else "no list of connections"
    for position, item in enumerate(items if isinstance(items, list) else ()):
        if not (isinstance(item, dict) and is_number(item.get("id"))):
            problem = "a connection without a number"
            continue
        number = item.get("listener")
        serving = servers.get(number) if is_number(number) else None
        taken = False
        if serving is not None and serving.entered and not serving.cut:
            descriptor = message.take(position)  # None: this process has none left
            if descriptor is not None:
                try:
                    serving.arrivals.append(Traveller.from_json(item, descriptor))
                    serving.wake()
                    taken = True
                except (KeyError, OSError, TypeError, ValueError) as error:
                    os.close(descriptor)
                    problem = f"a connection that is none ({error!r})"
        answers["taken" if taken else "refused"].append(item["id"])
    message.close()  # what is refused belongs to its sender alone, before that hears so
    for word, numbers in answers.items():
        if numbers:
            predecessor.say(word, ids=numbers)
    if problem is not None:
        raise ChannelError(problem)
