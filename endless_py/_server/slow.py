"""Handlers that run for longer than `handler_warn_after`: each is named once, with its stack.

Nothing waits for that while no handler runs. The first message that one begins with sets the
moment of the next look; a look that finds every client silent sets none. Its server's loop looks,
and where the handler itself holds that loop, whoever drives the process.
"""

from __future__ import annotations

import threading
import time

from endless_py._reload import process, stacks
from endless_py._reload.settings import NO_LIMIT
from endless_py._server import forking
from endless_py._server.methods import handles_inline, starts_threads
from endless_py._sockets.connection import Connection, say_address
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from endless_py._reload.listener import Listener
    from endless_py._server.requests import Requests


class SlowHandlers:
    """Those of one server. Any thread may say that a handler begins; one at a time looks."""

    def __init__(self, listener: Listener, after: float, server: Any) -> None:
        """after is in seconds."""
        self._listener = listener
        self._after = after
        self._holds_loop = not starts_threads(server)  # or may do so
        self._inline = handles_inline(server)
        self._lock = threading.Lock()
        self.look_at: Optional[float] = None  # time.monotonic()

    def before(self, handle: Callable[[Any, Any, Any], None]) -> Callable[[Any, Any, Any], None]:
        """Return what has a request handled, and notes before that it begins."""

        def begin(server: Any, request: Any, client_address: Any) -> None:
            connection = self._listener.connections.get(request)
            if connection is not None:
                connection.thread = self._listener.loop_thread if self._inline else None
                self.begins(connection)
            if self._holds_loop:
                process.current.driver.changes = object()  # another thread is to look meanwhile
            handle(server, request, client_address)

        return begin

    def in_thread(self, request: Any) -> None:
        """This thread is the one that handles it."""
        connection = self._listener.connections.get(request)
        if connection is not None:
            connection.thread = threading.get_ident()

    def begins(self, connection: Connection) -> None:
        """Its client has sent a message, or has just connected."""
        connection.busy_since, connection.named = time.monotonic(), False
        # Looked at after that: a look that forgets the moment finds the connection.
        if self.look_at is None:
            self.look_at = connection.busy_since + self._after
            if threading.get_ident() != self._listener.loop_thread:
                self._listener.wake()
            elif self._holds_loop:  # with another message of a connection that was idle
                process.current.driver.wake()

    def shorten(self, wait: Optional[float]) -> Optional[float]:
        """Return how many seconds the loop may wait."""
        look_at = self.look_at
        if look_at is None:
            return wait
        left = max(0.0, look_at - time.monotonic())
        return left if wait is None else min(wait, left)

    def look(self) -> None:
        """Name who has run for too long, if it is time to look."""
        look_at = self.look_at
        if look_at is None or time.monotonic() < look_at or not self._lock.acquire(blocking=False):
            return
        try:
            self.look_at, now = None, time.monotonic()
            for connection in list(self._listener.connections.active.values()):
                since = connection.busy_since
                if since is None or connection.named or connection.idle:
                    continue
                if now >= since + self._after:
                    connection.named = True
                    self._name(connection)
                else:
                    self.look_at = min(since + self._after, self.look_at or NO_LIMIT + now)
        finally:
            self._lock.release()

    def _name(self, connection: Connection) -> None:
        template = (
            "the handler of %(client)s on %(listener)s has run for %(seconds)g s "
            "(handler_warn_after): %(stack)s"
        )
        process.current.log(
            log.WARNING,
            template,
            "handler_slow",
            client=say_address(connection.client_address),
            listener=self._listener,
            seconds=self._after,
            stack=stacks.of(connection.thread),
        )


def watch(requests: Requests, server: Any) -> Optional[SlowHandlers]:
    """Watch over what this server handles, if it says so; its forked handlers cannot be seen."""
    listener: Listener = server._listener
    after = listener.setting("handler_warn_after")
    if after >= NO_LIMIT or forking.is_forking(server):
        return None
    slow = SlowHandlers(listener, after, server)
    requests.process = slow.before(requests.process)
    return slow
