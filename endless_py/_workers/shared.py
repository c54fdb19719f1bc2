"""The listeners that all processes of a generation accept on, and who is woken for a client."""

from __future__ import annotations

from endless_py._reload.base import Order
from endless_py._reload.listener import Listener
from endless_py._sockets.exclusive import poller_for
from endless_py._workers.board import Board

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from endless_py._reload.process import ServerProcess
    from endless_py._sockets.poller import Poller

_AHEAD = 2  # connections that one process may have more than another, before it gives way
_ANSWER = 0.25  # seconds that `state()` waits for the others


class Shared:
    """Them, as one of the processes knows them; the number of each is the same in all."""

    def __init__(self, known: Callable[[], dict[int, Listener]]) -> None:
        """known() returns the listeners by their numbers."""
        self._known = known
        self._exclusive = False

    def by_number(self) -> dict[int, Listener]:
        return self._known()

    def all(self) -> list[Listener]:
        return list(self._known().values())

    def number(self, listener: Listener) -> int:
        """Return its number, -1 for one that is not shared."""
        return next((n for n, other in self._known().items() if other is listener), -1)

    def migrating(self) -> list[int]:
        """Return the numbers of those whose idle connections go to the next generation."""
        return [n for n, each in self._known().items() if each.migrates_to is not None]

    # -- who waits --------------------------------------------------------

    def poller(self, descriptor: int, left_waiting: Callable[[], None]) -> Poller:
        """Return what waits for one of them as it is to be now."""
        found = poller_for(descriptor, left_waiting)
        found.wake_one(self._exclusive)
        return found

    def wake_one(self, exclusive: bool) -> None:
        """Whether a client is to wake one of the processes, or all."""
        self._exclusive = exclusive
        for listener in self.all():
            if listener.poller is not None:
                listener.poller.wake_one(exclusive)

    @property
    def exclusive(self) -> bool:
        return self._exclusive

    def look(self) -> None:
        """See whether a client waits."""
        for listener in self.all():
            if listener.poller is not None:
                listener.poller.look_again()

    # -- what is told of them ---------------------------------------------

    def counts(self) -> tuple[int, int, int]:
        """Return how many connections are active, how many idle, and how many were served."""
        active = idle = served = 0
        for listener in self.all():
            total, waiting = listener.connections.counts()
            active, idle = active + total - waiting, idle + waiting
            served += listener.connections.served
        return active, idle, served


class Part:
    """This process's part in that, as its leader or as a worker."""

    runs_main = False

    def __init__(self, process: ServerProcess, shared: Shared, board: Board, row: int) -> None:
        """row is where on the board this process says how it is."""
        self._process = process
        self._shared = shared
        self._board = board
        self._row = row
        self._gave_way_to: list[int] = []

    @property
    def listener(self) -> Optional[Listener]:
        """The one that all of them serve, where it is one."""
        found = self._shared.all()
        return found[0] if len(found) == 1 else None

    def accepts(self) -> bool:
        return any(listener.accepting for listener in self._shared.all())

    def begin(self) -> None:
        """The workers were started before this is asked for."""

    def entered(self) -> None:
        """Nobody waits for it."""

    def poller(self, descriptor: int) -> Poller:
        return self._shared.poller(descriptor, self.left_waiting)

    def say_load(self) -> int:
        found = sum(len(listener.connections) for listener in self._shared.all())
        self._board.say_load(self._row, found)
        return found

    def is_ahead(self) -> bool:
        others = self._board.loads_beside(self._row)
        if self.say_load() <= min(others, default=0) + _AHEAD or others == self._gave_way_to:
            return False  # or those that it has given way to are at work, and take none
        self._gave_way_to = others
        return True

    def left_waiting(self) -> None:
        self._process.leave(Order(None, call=self.look))

    def report(self) -> list[dict[str, Any]]:
        before = self._board.written()
        self.write()
        others = [row for row in self._board.living() if row != self._row]
        if self.ask_others():
            self._board.wait(before, others, _ANSWER)
        return self._board.report()

    # -- supplied by the one and the other --------------------------------

    def look(self) -> None:
        """Have all see whether a client waits."""
        raise NotImplementedError

    def write(self) -> None:
        """Say how it is with this process."""
        raise NotImplementedError

    def ask_others(self) -> bool:
        """Have the others say how it is with them; whether anybody can."""
        raise NotImplementedError
