"""Handlers in processes of their own: forked, watched, reaped.

Each has one end of a socket pair that only it holds open, and the server the other: a connection
that migrates comes over it, in a message of the handoff's channel, and its end tells the
handler's end. No polling, no SIGCHLD.
"""

from __future__ import annotations

import os
import select
import socket
import socketserver

from endless_py._handoff.channel import Channel
from endless_py._reload import process
from endless_py._sockets.connection import ForkedHandler, MigratingConnection
from endless_py.exceptions import ChannelClosed, ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any

AGAIN = 0.01  # seconds between looks at a child that has closed its end but lives, at most
StdForkingMixIn: Any = getattr(socketserver, "ForkingMixIn", ())


def is_forking(server: Any) -> bool:
    return StdForkingMixIn != () and isinstance(server, StdForkingMixIn)


def fork(server: Any, request: Any, client_address: Any) -> None:
    """Fork the handler with an end of a socket pair."""
    listener = server._listener
    children: set[int] = set(server.active_children or ())
    # The connection, which is accepted, may have taken the last descriptor.
    ours, its = process.current.make(socket.socketpair)
    listener.handler_end = its
    try:
        process.current.forked_child.fork(listener, server.process_request, request, client_address)
    except BaseException:
        ours.close()
        raise
    finally:
        listener.handler_end = None
        its.close()
    new = set(server.active_children or ()) - children
    if len(new) != 1:
        ours.close()  # it was not forked, or more than once: nobody can tell whose end that is
    for pid in new:
        listener.connections.forked[pid] = ForkedHandler(pid, ours, client_address)
    if len(new) == 1:
        listener.poller.add(ours.fileno())


def send_home(listener: Any, connection: MigratingConnection) -> None:
    """In a forked handler: send its connection to the serving process."""
    channel = Channel(listener.handler_end)
    channel.send({"type": "connection", **connection.to_json()}, (connection.socket.fileno(),))
    poll = select.poll()
    poll.register(channel, select.POLLOUT)
    while channel.sending:  # more than there is room for at once
        poll.poll()
        channel.flush()


def look(server: Any, ready: set[int]) -> set[int]:
    """Take the connections that came home, and reap the handlers whose ends are closed.

    Returns what of these descriptors is not a handler's. The kernel closes what an exiting process
    has before it can be reaped: on several cores one in four is still there then. It is looked at
    again in the next turn, within AGAIN.
    """
    listener, rest = server._listener, set(ready)
    connections = listener.connections
    for handler in list(connections.forked.values()):
        descriptor = handler.channel.fileno()
        if descriptor in ready:
            rest.discard(descriptor)
            _receive(server, handler)  # before it is reaped: a connection is counted all the time
        elif handler.pid not in connections.exiting:
            continue
        try:
            if os.waitpid(handler.pid, os.WNOHANG)[0] == 0:
                connections.exiting.add(handler.pid)
                listener.poller.discard(descriptor)
                continue
        except ChildProcessError:
            pass  # reaped by another part of the program
        _forget(server, handler)
    return rest


def _receive(server: Any, handler: ForkedHandler) -> None:
    """Take the connections that one has sent home."""
    if handler.receiver is None:
        try:
            if not handler.channel.recv(1, socket.MSG_PEEK):
                return  # its end, and nothing before it: so it is nearly always
        except OSError:
            pass
    try:
        handler.receiver = handler.receiver or Channel(handler.channel)
        messages = handler.receiver.receive()
    except (ChannelClosed, ChannelError):
        return
    for message in messages:
        descriptor = message.take()
        if descriptor is not None:
            found = MigratingConnection.from_json(message.body, descriptor)
            process.current.migration.add(server._listener, found)
        message.close()


def collect(self: Any, *, blocking: bool = False) -> None:
    """ForkingMixIn.collect_children() that waits for this server's children only.

    Above max_children the loop does not accept, so there is nothing to wait for there.
    """
    forked = self._listener.connections.forked
    for pid in list(self.active_children or ()):
        try:
            if os.waitpid(pid, 0 if blocking else os.WNOHANG)[0] == 0:
                continue
        except ChildProcessError:
            pass
        handler = forked.get(pid)
        if handler is not None:
            _receive(self, handler)
            _forget(self, handler)
        else:
            self.active_children.discard(pid)


def collect_own(kind: Any) -> None:
    """Have a class of ours wait for its own children only.

    A ForkingMixIn to the left of our mix-in (whole files swapped have that) would wait for any
    child at max_children, block the loop, and reap the successor.
    """
    std = getattr(StdForkingMixIn, "collect_children", None)
    if std is not None and getattr(kind, "collect_children", None) is std:
        kind.collect_children = collect


def _forget(server: Any, handler: ForkedHandler) -> None:
    listener = server._listener
    if listener.poller is not None:
        listener.poller.discard(handler.channel.fileno())
    handler.channel.close()
    del listener.connections.forked[handler.pid]
    listener.connections.exiting.discard(handler.pid)
    server.active_children.discard(handler.pid)
    if not listener.accepting:
        process.current.wake()  # it may have been the last one of a drain
