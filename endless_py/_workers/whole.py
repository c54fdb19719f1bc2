"""run_workers(): the program's own function in several processes, with all that it serves.

The fork server is forked before that function runs, so the program may start threads and event
loops in it. The leader binds, and has what it has bound given to the others before it is served.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from endless_py._handoff.channel import Channel
from endless_py._reload import process, settings
from endless_py._reload.base import Order
from endless_py._reload.listener import Listener
from endless_py._sockets.listener import Binding
from endless_py._support import platform
from endless_py._workers.board import Board
from endless_py._workers.count import refuse_other_threads, wanted
from endless_py._workers.forkserver import ForkServer
from endless_py._workers.members import WorkerFailed
from endless_py._workers.replacing import ReplacingTeam
from endless_py._workers.shared import Shared
from endless_py._workers.worker import Leader, Membership, run

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    import socket
    from typing import Any, Callable, Literal, NoReturn, Optional, TypeVar, Union

    from endless_py._handoff.channel import Message

    _Returned = TypeVar("_Returned")

_LOOK = 0.02  # seconds
_BATCH = 32  # listeners in a message


class WholeTeam(ReplacingTeam):
    """Workers that run the program's function. They begin once the leader has bound."""

    runs_main = True
    _begun = False
    _problem: Optional[BaseException] = None

    def know(self, listeners: dict[int, Listener]) -> None:
        """The leader has these; a dict that is filled when they begin."""
        self._listeners = listeners
        self._beginning = threading.Lock()

    def begin(self) -> None:
        with self._beginning:  # servers may begin in several threads
            if self._problem is not None:
                raise WorkerFailed(str(self._problem))
            if self._begun:
                return
            bound = self._process.listeners.bound()
            found = [each for each in bound if not each[0].beside]
            for number, (listener, _, _) in enumerate(found):
                self._listeners[number] = listener
            try:
                for first in range(0, len(found), _BATCH):
                    batch = found[first : first + _BATCH]
                    self._fork_server.give([(each.to_json(), fileno) for _, each, fileno in batch])
                self.start(self._process.listeners.ready_timeout())
            except BaseException as error:
                self._problem = error
                raise
            self._begun = True

    def step(self) -> None:
        if self._begun:  # before that who begins hears them
            super().step()

    def watched(self) -> dict[int, int]:
        return super().watched() if self._begun else {}

    def serves(self) -> None:
        if self._begun:
            super().serves()

    def deadline(self) -> Optional[float]:
        return super().deadline() if self._begun else None

    def wait_for_end(self) -> None:
        """The leader's own function has ended in a drain: the others have the time that is left."""
        current = self._process
        if current.machine.drains:
            current.drained()
        while current.machine.drains and self._begun and not self.ended():
            current.driver.advance()
            time.sleep(_LOOK)


class WholeMembership(Membership):
    """A worker that runs the program's function: it could accept when that says so."""

    runs_main = True
    _up = False

    def entered(self) -> None:
        self._process.post(Order(None, call=self._served))

    def _served(self) -> None:
        if not self._up:
            self._up = True
            self.say("up", pid=os.getpid())
        elif self.serves_now:  # one more server of it
            self.accept()


def run_workers(
    main: Callable[[], _Returned], workers: Union[int, Literal["auto"]] = "auto"
) -> _Returned:
    """Call main() in as many processes, which serve together; return what it does in the leader.

    For servers that are not socketserver's, and for several servers in one program: what main()
    binds (`listen()`, `serve_asyncio()`, the classes) is bound by the leader, and served by all.
    This process is the leader. The others are called *workers*; each is forked when main() has
    bound everything in the leader and begins to serve, from a process that was forked before main()
    was called. So main() may start threads and event loops, and no other thread of the program may
    run by now. What the program has loaded by then is shared memory.

    One reload replaces all; a worker that dies, or whose main() returns, is replaced. In a worker
    nothing of the program's runs after main(). See docs/workers.md.

    workers is a number, or "auto": as many as there are processors that this process may use. With
    one, main() is called, and that is all. Raises RuntimeError beside other threads or servers,
    ValueError for what cannot be a number of workers, OSError; what main() raises comes out of it,
    and where a worker cannot begin, in the leader's call that begins to serve, a RuntimeError.
    """
    platform.require()
    settings.check_workers(workers)
    current, count = process.current, wanted(workers)
    if current.worker or current.group is not None:
        raise RuntimeError(
            "this program has workers already: call run_workers() once, in the leader"
        )
    if count == 1:
        current.hooks.run_worker_start(0)
        try:
            return main()
        finally:
            current.hooks.run_worker_exit(0)
    if current.listeners.all:
        bound = ", ".join(map(str, current.listeners.all))
        raise RuntimeError(f"workers = {count}: make the servers in main(), not before ({bound})")
    refuse_other_threads(count)
    current.dry_start.end_here()
    team = _make_team(main, count)
    current.group = team
    try:
        current.counters.beside = team.counted
        current.hooks.run_worker_start(0)
        return main()
    finally:
        try:
            team.wait_for_end()
            with current.driver.stepping:  # another thread may hear them just now
                team.end()
        finally:
            current.group = None
            current.counters.end_beside()
            current.hooks.run_worker_exit(0)


def _make_team(main: Callable[[], object], count: int) -> WholeTeam:
    current = process.current
    current.forks.watch()
    leader_pid, board = os.getpid(), Board(count)
    found: dict[int, Listener] = {}

    def work(row: int, sock: socket.socket, blocked: set[int]) -> NoReturn:
        number = board.number(row)
        try:
            leader = Leader(Channel(sock), leader_pid, current.generation)
            shared = Shared(lambda: current.listeners.by_number(None))
            membership = WholeMembership(current, shared, board, leader, row)
            current.begin_as_worker(number, membership, membership.on_signal)
            current.counters.beside = membership.counted
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        except BaseException as error:
            os.write(2, f"worker {number} cannot begin: {error!r}\n".encode())
            os._exit(1)

        def serve() -> bool:
            main()
            return True

        run(membership, current, serve)

    def begin_fork_server() -> None:
        """What its leader was handed is not for those that it forks."""
        current.received.close()
        gone, current.received.waiting = current.received.waiting, []
        for _, descriptor in gone:
            os.close(descriptor)

    def keep(bindings: list[Any], message: Message) -> None:
        waiting = current.received.waiting
        for position, body in enumerate(bindings):
            descriptor = message.take(position)
            if descriptor is None:
                raise OSError("no descriptor is left for a listener")
            waiting.append((Binding.from_json(body, len(waiting)), descriptor))

    fork_server = ForkServer(work, current.inherit.leave_error_output, begin_fork_server, keep)
    team = WholeTeam(current, Shared(lambda: found), board, fork_server)
    team.know(found)
    return team
