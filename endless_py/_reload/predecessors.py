"""The generations before this one that still live, and the channels to them."""

from __future__ import annotations

import os
import threading

from endless_py._handoff import predecessor as handoff
from endless_py._handoff.child import Child, Children
from endless_py._handoff.predecessor import Predecessor

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._handoff.channel import Channel, Message
    from endless_py._handoff.greeting import Greeting
    from endless_py._handoff.successor import Successor
    from endless_py._reload.listeners import Listeners


class Predecessors:
    """Their list. The parent started this process; the others it has handed on to us."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self.living: list[Predecessor] = []
        self.parent: Optional[Predecessor] = None
        self.older: set[int] = set()  # pids of all generations before, dead or alive
        self.none_lives = threading.Event()
        self.none_lives.set()
        self._handed_on: list[Predecessor] = []  # to our successor; our end stays open

    def greet(self, greeting: Greeting) -> None:
        """This process is a successor."""
        self.parent = greeting.predecessor
        self.living = [greeting.predecessor]
        self.older = greeting.older | {greeting.predecessor.pid}
        self.none_lives.clear()

    def living_parent(self) -> Optional[Predecessor]:
        return self.parent if self.parent in self.living else None

    def waiting(self) -> Optional[Predecessor]:
        """Return the one that waits for everything to be handed back."""
        return next((predecessor for predecessor in self.living if predecessor.waits), None)

    def pids(self) -> set[int]:
        return {predecessor.pid for predecessor in self.living}

    def say(self, word: str, **fields: Any) -> None:
        """Say it to each."""
        for predecessor in self.living:
            predecessor.say(word, **fields)

    def superseded(self, younger: int, most: Optional[int]) -> None:
        """Tell each that its successor has been replaced, and how many younger ones drain.

        younger is how many do so before the newest of ours; most how many may drain in all.
        """
        newest_first = sorted(self.living, key=lambda other: other.generation, reverse=True)
        for position, predecessor in enumerate(newest_first):
            predecessor.say("superseded", younger=younger + position, most=most)

    def take_over(self, message: Message, generation: int) -> None:
        """Become the neighbour of one of our predecessor's; raises ChannelError."""
        found = handoff.handed_on(message)
        self.living = [*self.living, found]
        found.say("replaced_by", pid=os.getpid(), generation=generation)

    def hand_on(self, successor: Successor, listeners: Listeners) -> None:
        """From now on the successor is the neighbour of those who still drain."""
        for predecessor in self.living:
            numbers = {
                theirs: listener.migrates_to
                for theirs, listener in listeners.by_number(predecessor.numbers).items()
                if listener.migrates_to is not None
            }
            self._handed_on.append(predecessor)
            successor.channel.send(
                {
                    **predecessor.to_json(),
                    "type": "predecessor",
                    "numbers": list(numbers.items()),
                },
                (predecessor.channel.fileno(),),
            )
        self.living = []
        self._note_alone()

    def forget(self, predecessor: Predecessor) -> None:
        """It has ended."""
        predecessor.channel.close()
        self.living = [other for other in self.living if other is not predecessor]
        self._note_alone()
        self._children.soon()
        if os.getpid() == 1:
            self._children.orphans.append(Child(predecessor.pid))

    def _note_alone(self) -> None:
        if not self.living:
            self.none_lives.set()

    def at_exit(self) -> None:
        """This process ends: the end of a channel is to tell of that, not of anything earlier."""
        for channel in self._channels():
            channel.leave_open()
        self.living = []

    def in_forked_child(self) -> None:
        """A forked child is nobody's neighbour."""
        for channel in self._channels():
            channel.close()
        self.living, self.parent, self._handed_on = [], None, []

    def _channels(self) -> list[Channel]:
        return [predecessor.channel for predecessor in self.living + self._handed_on]
