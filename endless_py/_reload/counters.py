"""What this process has counted since its start, and what the generations before it have.

Nothing here is on the way of a request: a handler counts in its own connection's record, a loop in
its own server's, and whoever drives in here. They are added up when somebody asks. A successor is
handed the sums, and at the end of its predecessor what has come since, so no number ever falls in
a reload.
"""

from __future__ import annotations

import threading
import weakref

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from endless_py._handoff.successor import Successor
    from endless_py._reload.listener import Listener
    from endless_py._sockets.connection import Connections

_PATIENCE = 8.0  # seconds; who scrapes waits for 10 by default
NAMES = (
    "requests",
    "connections_accepted",
    "connections_migrated_in",
    "connections_migrated_out",
    "connections_cut",
    "reloads_done",
    "reloads_failed",
)


class Counters:
    """The sums. `add()` and what talks to neighbours is for whoever drives, the rest for all."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(NAMES, 0)  # of what is not counted anywhere else any more
        self._servers: list[tuple[weakref.ref[Listener], Connections]] = []
        self._said: dict[str, int] = {}
        self._said_to: object = None
        self._heard = threading.Event()  # of what the predecessor has counted
        # Returns what the other processes of this generation have counted, by what they last said.
        self.beside: Optional[Callable[[], dict[str, int]]] = None
        self.in_forked_child()

    def in_forked_child(self) -> None:
        """Another thread may have held it."""
        self._lock = threading.Lock()

    def begin_again(self) -> None:
        """In a worker: what was counted before it was forked its leader tells."""
        self._sums, self._servers = dict.fromkeys(NAMES, 0), []
        self._said, self._said_to = {}, None

    def end_beside(self) -> None:
        """The others have ended: what they have counted is kept here from now on."""
        if self.beside is not None:
            for name, number in self.beside().items():
                self.add(name, number)
            self.beside = None

    def know(self, listener: Listener) -> None:
        """Count what this server does; of those that are gone only the sums are kept."""
        with self._lock:
            living = []
            for found, connections in self._servers:
                if found() is None:
                    self._fold(connections)
                    self._sums["connections_accepted"] += connections.accepted
                elif found() is not listener:
                    living.append((found, connections))
            self._servers = [*living, (weakref.ref(listener), listener.connections)]

    def add(self, name: str, number: int = 1) -> None:
        """Count something that happens in a step."""
        with self._lock:
            self._sums[name] += number

    def fold(self, connections: Connections) -> None:
        """Add up the connections of a server that have ended, of which it keeps a list."""
        with self._lock:
            self._fold(connections)

    def _fold(self, connections: Connections) -> None:
        ended, total = connections.ended, 0
        while ended:
            count = ended.popleft()
            if not count.folded:  # two threads may have ended it at once
                count.folded = True
                total += count.requests or count.alone
        self._sums["requests"] += total

    def totals(self) -> dict[str, int]:
        """Return every number of this generation and those before, as `state()` shows it."""
        found = self.own()
        for name, number in (self.beside() if self.beside is not None else {}).items():
            found[name] += number
        return found

    def own(self) -> dict[str, int]:
        """Return what this process has counted, and been handed by its predecessor."""
        with self._lock:
            found, live = dict(self._sums), 0
            for _, connections in self._servers:
                found["connections_accepted"] += connections.accepted
                # Before those that have ended: one that ends right now is in both lists.
                active = [connection.count for connection in list(connections.active.values())]
                self._fold(connections)
                live += sum(count.requests for count in active if not count.folded)
            found["requests"] = self._sums["requests"] + live
            return found

    def scraped(self, drains: bool, has_parent: bool) -> dict[str, int]:
        """Return the numbers for somebody who asks whichever generation answers, and must see none
        fall: one that drains tells no more than the next one knows of it, and that one waits a
        moment until it does.
        """
        if drains and self._said:
            return dict(self._said)
        if has_parent:
            self._heard.wait(_PATIENCE)
        return self.totals()

    # -- from one generation to the next ----------------------------------

    def hand_on(self, successor: Successor) -> None:
        """Tell the successor what it has not been told yet."""
        said = self._said if self._said_to is successor else {}
        totals = self.totals()
        new = {name: totals[name] - said.get(name, 0) for name in NAMES}
        if any(new.values()) or self._said_to is not successor:
            successor.say("counted", numbers=new)
            self._said, self._said_to = totals, successor

    def heard(self, numbers: dict[str, Any]) -> None:
        """A predecessor has counted so much more."""
        self._heard.set()
        for name in NAMES:
            self.add(name, numbers.get(name, 0))
