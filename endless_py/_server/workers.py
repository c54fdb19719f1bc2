"""serve_forever() of a server with workers: forks them, then serves as they do."""

from __future__ import annotations

import os
from contextlib import suppress

from endless_py._handoff.channel import Channel
from endless_py._reload import process
from endless_py._reload.settings import has_limits, of
from endless_py._server import forking
from endless_py._server.accept_loop import AcceptLoop
from endless_py._server.beside import beside_it
from endless_py._support.sigmask import restore as restore_mask
from endless_py._workers.board import Board
from endless_py._workers.count import refuse_other_threads, wanted
from endless_py._workers.forkserver import ForkServer
from endless_py._workers.shared import Shared
from endless_py._workers.team import Team
from endless_py._workers.worker import Leader, Membership, run

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    import socket
    from typing import Any, NoReturn


def serve(base: type, server: Any, poll_interval: float) -> None:
    """As AcceptLoop.run(), in as many processes as the server has set; returns in the leader."""
    current = process.current
    count = wanted(of(server).workers)
    if current.worker:
        raise RuntimeError("a worker serves already: a server of its own belongs to the leader")
    current.dry_start.end_here()
    loop = AcceptLoop(server, poll_interval)
    if count == 1:
        try:
            current.hooks.run_worker_start(0)
            # "auto" on one processor: `serve_beside()` has left that to whoever knows the number.
            beside_it(base, server, loop.run)
        finally:
            current.hooks.run_worker_exit(0, ends=current.released)
        return
    _check(server, count)
    team = _make_team(server, poll_interval, count)
    try:
        team.start()
        current.group = team
        current.counters.beside = team.counted
        current.hooks.run_worker_start(0)
        beside_it(base, server, loop.run)
    finally:
        try:
            team.end()
        finally:
            current.group = None
            current.counters.end_beside()
            current.hooks.run_worker_exit(0)


def _check(server: Any, count: int) -> None:
    """Raise RuntimeError or ValueError where workers cannot be forked."""
    if forking.is_forking(server):
        raise ValueError(f"workers = {count}: a forking server has processes already, max_children")
    if process.current.group is not None:
        raise RuntimeError(
            "another server of this process has workers: only one can; endless_py.run_workers() is "
            "for several"
        )
    refuse_other_threads(count)


def _make_team(server: Any, poll_interval: float, count: int) -> Team:
    current, listener = process.current, server._listener
    leader_pid, board, shared = os.getpid(), Board(count), Shared(lambda: {0: listener})
    others = [other for other in current.listeners.all if other is not listener]

    def work(row: int, sock: socket.socket, blocked: set[int]) -> NoReturn:
        number = board.number(row)
        try:
            leader = Leader(Channel(sock), leader_pid, current.generation)
            membership = Membership(current, shared, board, leader, row)
            current.begin_as_worker(number, membership, membership.on_signal)
            listener.begin_again()
            current.add(listener)
            current.counters.beside = membership.counted
            listener.poller = membership.poller(server.fileno())
            restore_mask(blocked)
        except BaseException as error:
            os.write(2, f"worker {number} cannot begin: {error!r}\n".encode())
            os._exit(1)
        run(membership, current, AcceptLoop(server, poll_interval).run)

    def restore() -> None:
        current.inherit.leave_error_output()

    def begin_fork_server() -> None:
        """What only the leader serves is closed in the others."""
        for other in others:
            with suppress(OSError, AttributeError):
                other.server.socket.close()
        current.received.close()
        gone, current.received.waiting = current.received.waiting, []
        for _, descriptor in gone:
            os.close(descriptor)

    fork_server = ForkServer(work, restore, begin_fork_server)
    if listener.poller is not None:
        listener.poller.close()
    kind: type[Team] = Team
    if has_limits(server):
        kind = current.load("endless_py._workers.replacing").ReplacingTeam
    team = kind(current, shared, board, fork_server)
    listener.poller = team.poller(server.fileno())
    return team
