"""What the steps of a reload know of workers: a generation may be several processes.

The code behind it is in `_workers`, and is not there for a generation of one process.
"""

from __future__ import annotations

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional, Protocol

    from endless_py._reload.listener import Listener
    from endless_py._reload.states import Event
    from endless_py._sockets.connection import MigratingConnection
    from endless_py._sockets.poller import Poller

    class Group(Protocol):
        """The other processes of this generation: of the leader its workers, or the other way."""

        @property
        def listener(self) -> Optional[Listener]:
            """The one that all of them serve, where it is one."""

        @property
        def runs_main(self) -> bool:
            """Whether each process runs the program's own function, and all of its servers."""

        def begin(self) -> None:
            """What is to be served is bound; any thread may call this, and more than once.

            Returns when the others could serve as well, and raises what keeps them from it.
            """

        def entered(self) -> None:
            """A server of this process is served; any thread may call this."""

        def poller(self, descriptor: int) -> Poller:
            """Return what waits for this listener, beside the other processes."""

        def say_load(self) -> int:
            """Let the others know how many connections this process has, and return that."""

        def is_ahead(self) -> bool:
            """The same; whether it has more than another one, which should have the next."""

        def give_up(self, listener: Listener) -> None:
            """Nobody will accept on this one again."""

        def step(self) -> None:
            """Hear what they have said since, and do what is due. By whoever drives."""

        def pending(self) -> bool:
            """Whether there is, or may soon be, something to do."""

        def watched(self) -> dict[int, int]:
            """Return the descriptors that lead to `step()`."""

        def deadline(self) -> Optional[float]:
            """Return the moment (time.monotonic) at which `step()` has something to do."""

        def serves(self) -> None:
            """This process has said ready; any thread may call this."""

        def drains(self) -> None:
            """This process begins to drain."""

        def tell(self, word: str) -> None:
            """Say a word of the leader's to each worker; a worker says it to nobody."""

        def refers(self, event: Event, name: str, number: int) -> bool:
            """Whether an order is the leader's to carry out, which has heard of it now.

            number is that of the signal that gave it, 0 without one.
            """

        def reached(self, why: str) -> None:
            """This process, a worker, has served enough: have the leader replace it."""

        def share(self, listener: Listener, connection: MigratingConnection) -> None:
            """Have a connection that came from the predecessor served by one of the processes."""

        def left_waiting(self) -> None:
            """A client is left to the others by this process, which may have been woken alone.

            Any thread may call this, and sees to a step.
            """

        def in_forked_child(self) -> None:
            """It is no forked child's."""

        def ended(self) -> bool:
            """Whether none of the processes that this one answers for lives."""

        def report(self) -> list[dict[str, Any]]:
            """Return what `endless_py.state()` says of the workers; any thread may call this."""
