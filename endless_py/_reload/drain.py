"""The drain: no more is accepted, what is active ends, and what outlasts it is ended."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from endless_py._reload import hooks
from endless_py._reload.hooks import Hooks
from endless_py._reload.life import Life
from endless_py._reload.servers import Servers
from endless_py._reload.serving import Serving
from endless_py._reload.signals import CALL
from endless_py._sockets.connection import Connection, let_threads_go
from endless_py._support import faults, log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

_ABANDON_AFTER = 0.5  # seconds a handler has to end once its connection was cut
_TURNS = 10_000  # a second; how often waiting threads may ask for their turn
_LONGEST_TURN = 0.2  # seconds


class HandlerCut(BaseException):
    """Raised in the main thread inside a handler that outlasted the hammer."""


class Turns:
    """Has the threads of a big crowd ask less often for their turn.

    Each that waits for the interpreter asks every sys.getswitchinterval() seconds. A drain wakes
    all idle handlers at once, and a thousand of them spend most of their time on asking.
    """

    def __init__(self) -> None:
        self._own = self._set = 0.0  # the program's interval, and what it was made

    def share(self, threads: int) -> None:
        """So many threads may be waiting; with 0 the interval is the program's again."""
        now = sys.getswitchinterval()
        if now != self._set:
            self._own = now
        wanted = max(self._own, min(threads / _TURNS, _LONGEST_TURN))
        if wanted != now:
            sys.setswitchinterval(wanted)
        self._set = sys.getswitchinterval()


class Drain:
    """The drain of all servers of this process."""

    def __init__(self, life: Life, servers: Servers, hooks: Hooks) -> None:
        self._life = life
        self._servers = servers
        self._hooks = hooks
        self._due: Optional[str] = None  # why, until it has begun
        self._turns = Turns()

    def start(self, why: str) -> None:
        """Stop accepting, and tell everybody."""
        self._due = why
        faults.at("stop accepting")
        self._share_turns()
        active, longest = self._servers.stop_accepting()
        self._life.log(
            log.INFO,
            f"{why}; this one accepts no more and drains {active} active (at most {longest:g} s)",
        )
        self._due = None
        self._servers.wake()
        self._hooks.step(hooks.DRAINING)
        for listening in self._servers.listenings():
            self._hooks.run([listening.drain], f"on_drain of {listening}")
        faults.at("draining")

    def start_due(self) -> None:
        """Start once more when something kept it from being begun."""
        if self._due is not None:
            self.start(self._due)

    def undo(self) -> None:
        """Nobody drains any more."""
        self._servers.undo_drain()
        self._turns.share(0)

    def _share_turns(self) -> None:
        self._turns.share(sum(len(serving.connections.active) for serving in self._servers.all))

    def check(self) -> None:
        """Cut, then abandon, what is still active when its time is over."""
        self._share_turns()
        for serving in self._servers.all:
            _check(serving, self._life)


def _check(serving: Serving, life: Life) -> None:
    now = time.monotonic()
    if serving.drain_deadline is not None and now >= serving.drain_deadline:
        _cut(serving, now, life)
        serving.drain_deadline = None
    if serving.abandon_at is not None and now >= serving.abandon_at:
        serving.abandon_at = None
        _abandon(serving, life)


def _cut(serving: Serving, now: float, life: Life) -> None:
    active = serving.connections.all()
    faults.at("hammer")
    for connection in active:
        life.log(
            log.WARNING,
            f"drain time is over: cuts {say_address(connection.client_address)} on {serving}, "
            f"active for {now - connection.since:.1f} s",
        )
        connection.cut()
    serving.queue_served = serving.cut = True
    if active or serving.in_accept:
        serving.abandon_at = now + _ABANDON_AFTER


def _abandon(serving: Serving, life: Life) -> None:
    """What was cut has not ended: stop waiting for it."""
    if serving.inline_thread is not None:
        if serving.inline_thread == threading.main_thread().ident:
            serving.inline_cut = True
            os.kill(os.getpid(), getattr(signal, CALL))
            return
        life.log(log.ERROR, f"a handler of {serving} does not end; the process ends at once")
        os._exit(1)
    left: list[Connection] = serving.connections.abandon()
    for connection in left:
        life.log(log.ERROR, f"the handler of {say_address(connection.client_address)} does not end")
    server = serving.server
    threads = vars(server).pop("_threads", ()) if server is not None else ()
    let_threads_go(threads)


def say_address(address: Any) -> str:
    """Return a client's address as an operator wants to read it."""
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{address[0]}:{address[1]}"
    return str(address or "a local client")
