"""`max_requests` and `max_rss`: a process that has served enough is replaced.

A worker tells its leader, any other process reloads. Nothing waits for that: requests are counted
as they begin, by the record of their connection, and what the process has in memory is looked at
then, and as a connection ends, no more than once a second.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import threading
import time
from collections import deque
from functools import partial

from endless_py._reload import process
from endless_py._reload.base import Order
from endless_py._reload.machine import Event
from endless_py._reload.settings import of
from endless_py._server import forking
from endless_py._sockets.connection import Count
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable

    from endless_py._reload.listener import Listener
    from endless_py._server.requests import Requests

MEGABYTE = 1 << 20
_LOOK = 1.0  # seconds between two looks at the memory
# Seconds in which the memory is not looked at: who loads what it needs with its first requests
# would be replaced again and again.
_BEGINS = 10.0
_FIRST_PAUSE, _LAST_PAUSE = 10.0, 600.0  # seconds until a reload that failed is tried again
_AGAIN = 1.0  # seconds until it is seen again whether an older generation has ended


class Limits:
    """What one process may serve of one server. Any thread may call."""

    def __init__(self, listener: Listener, server: Any) -> None:
        self._listener = listener
        settings = of(server)
        most, jitter = settings.max_requests or math.inf, settings.max_requests_jitter
        if jitter:  # forked processes have one state of `random`, or would have to import it
            most += int.from_bytes(os.urandom(4), "big") % (jitter + 1)
        self._most = most
        self._most_memory = (settings.max_rss or math.inf) * MEGABYTE
        self._requests = itertools.count(1)
        self._lock = threading.Lock()
        self._look_at = time.monotonic() + _BEGINS if settings.max_rss else math.inf
        self._say_at = 0.0  # time.monotonic(); what was said is said again only after that
        self._pause = _FIRST_PAUSE
        self._begun = False

    def begin(self) -> None:
        """A loop begins, and the program has done what it does before its first request."""
        begun, self._begun = self._begun, True
        found = memory() if self._look_at < math.inf and not begun else 0
        if found > self._most_memory:
            self._look_at = math.inf
            if not process.current.worker:
                process.current.log(
                    log.WARNING,
                    "max_rss is ignored: this process has %(memory)d MB before its first request",
                    "max_rss_ignored",
                    memory=found // MEGABYTE,
                )

    # -- what is counted --------------------------------------------------

    def before(self, handle: Callable[[Any, Any, Any], None]) -> Callable[[Any, Any, Any], None]:
        """Return what has a request handled, and counts what comes of it."""

        def begin(server: Any, request: Any, client_address: Any) -> None:
            connection = self._listener.connections.get(request)
            if connection is not None:
                connection.count = _Counted(self, connection.count.alone)
            handle(server, request, client_address)

        return begin

    def before_fork(
        self, handle: Callable[[Any, Any, Any], None]
    ) -> Callable[[Any, Any, Any], None]:
        """As `before()`; what is counted in a process of its own is not seen here."""

        def begin(server: Any, request: Any, client_address: Any) -> None:
            self.begins()
            handle(server, request, client_address)

        return begin

    def begins(self) -> None:
        """A request begins."""
        number = next(self._requests)
        if number >= self._most:
            self._reached(f"has handled {number} requests (max_requests)")
        if time.monotonic() >= self._look_at:
            self.look()

    def ended(self, count: Count) -> None:
        """A connection has ended, or a datagram was handled."""
        if self._listener.in_child:
            return
        if count.alone and not count.requests:
            self.begins()
        elif time.monotonic() >= self._look_at:
            self.look()

    def look(self) -> None:
        """See how much memory this process has."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._look_at = time.monotonic() + _LOOK
            found = memory()
        finally:
            self._lock.release()
        if found > self._most_memory:
            self._reached(f"has {found // MEGABYTE} MB in memory (max_rss)")

    # -- what follows -----------------------------------------------------

    def _reached(self, why: str) -> None:
        if time.monotonic() >= self._say_at and not self._listener.in_child:
            self._say_at = math.inf
            process.current.post(Order(None, call=partial(self._replace, why)))

    def _replace(self, why: str) -> None:
        """Whoever drives has this process replaced."""
        current = process.current
        if current.worker and current.group is not None:
            current.group.reached(why)  # once: the leader sees to it
            return
        one_at_a_time = bool(current.predecessors.living)
        self._say_at = time.monotonic() + (_AGAIN if one_at_a_time else self._pause)
        if current.machine.at_peace and not one_at_a_time:  # else it is being replaced, or ends
            self._pause = min(2 * self._pause, _LAST_PAUSE)
            current.leave(Order(Event.RELOAD, f"this process {why}"))


class _Counted(Count):
    """The count of one connection, which tells of each request."""

    _number = 0

    def __init__(self, limits: Limits, alone: int) -> None:
        self._limits = limits
        self.alone = alone

    @property
    def requests(self) -> int:
        return self._number

    @requests.setter
    def requests(self, number: int) -> None:
        self._number = number
        if number and not self._limits._listener.in_child:
            self._limits.begins()


class _Ended(deque[Count]):
    """The counts of connections that have ended, which tells of each."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits

    def append(self, count: Count) -> None:
        super().append(count)
        self._limits.ended(count)


def memory() -> int:
    """Return how many bytes of this process are in memory (RSS), what it shares included.

    Where the system does not say, it is the most that they have been.
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        if sys.platform.startswith("linux"):
            return 0  # no descriptor is left, or there is no /proc: nothing is known
    import resource  # late: few systems need it

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def watch(requests: Requests, server: Any) -> None:
    """Count what this server handles in this process; also over several handle_request()."""
    listener: Listener = server._listener
    forks = forking.is_forking(server)
    if listener.limits is None:
        listener.limits = limits = Limits(listener, server)
        if not forks:
            listener.connections.ended = _Ended(limits)
    found: Limits = listener.limits
    requests.process = (found.before_fork if forks else found.before)(requests.process)
