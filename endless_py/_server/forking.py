"""Handlers in processes of their own: forked, watched, reaped.

The end of each one is seen as the end of a pipe that only it holds open: no polling, no SIGCHLD.
"""

from __future__ import annotations

import os
import socket
import socketserver
import time

from endless_py._reload import process
from endless_py._sockets.connection import Child
from endless_py._sockets.traveller import Home

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any

_RETRY = 0.01  # seconds between looks at a child that let go of its pipe but lives
StdForkingMixIn: Any = getattr(socketserver, "ForkingMixIn", ())


def is_forking(server: Any) -> bool:
    return StdForkingMixIn != () and isinstance(server, StdForkingMixIn)


def fork(server: Any, request: Any, client_address: Any) -> None:
    """Fork the handler with a pipe whose end tells its end."""
    serving = server._serving
    children: set[int] = set(server.active_children or ())
    if serving.home is None and server.socket.type == socket.SOCK_STREAM:
        serving.home = Home()
        serving.settled = None  # it is to be watched
    alive, held = os.pipe()
    try:
        with process.current.servers.forking(serving):
            server.process_request(request, client_address)
    except BaseException:
        os.close(alive)
        raise
    finally:
        os.close(held)
    new = set(server.active_children or ()) - children
    for pid in new:
        serving.connections.children[pid] = Child(pid, alive, client_address)
    if len(new) == 1:
        serving.waiter.add(alive)
    else:
        os.close(alive)


def reap(server: Any, ready: set[int]) -> None:
    """Reap the handlers whose pipes are ready."""
    serving, now = server._serving, time.monotonic()
    children = serving.connections.children
    for child in list(children.values()):
        if child.alive not in ready and (child.retry_at is None or now < child.retry_at):
            continue
        try:
            if os.waitpid(child.pid, os.WNOHANG)[0] == 0:
                child.retry_at = now + _RETRY
                serving.settled = None
                continue
        except ChildProcessError:
            pass  # reaped by another part of the program
        _forget(server, child)


def collect(self: Any, *, blocking: bool = False) -> None:
    """ForkingMixIn.collect_children() that waits for this server's children only.

    Above max_children the loop does not accept, so there is nothing to wait for there.
    """
    children = self._serving.connections.children
    for pid in list(self.active_children or ()):
        try:
            if os.waitpid(pid, 0 if blocking else os.WNOHANG)[0] == 0:
                continue
        except ChildProcessError:
            pass
        child = children.get(pid)
        if child is not None:
            _forget(self, child)
        else:
            self.active_children.discard(pid)


def _forget(server: Any, child: Child) -> None:
    serving = server._serving
    if serving.waiter is not None:
        serving.waiter.discard(child.alive)
    os.close(child.alive)
    del serving.connections.children[child.pid]
    server.active_children.discard(child.pid)
    if not serving.accepting:
        process.current.wake()  # it may have been the last one of a drain
