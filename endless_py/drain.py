"""Ending what outlasts a drain, and what outlasts even that."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

from endless_py import faults, log
from endless_py.connections import Connection, let_threads_go
from endless_py.serving import Serving
from endless_py.signals import CALL

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    Say = Callable[[int, str], None]

_ABANDON_AFTER = 0.5  # seconds a handler has to end once its connection was cut
_NAME_AFTER = 5.0  # seconds a program has to end before what keeps it alive is named
_MAIN_STUCK_AFTER = 1.0


class HandlerCut(BaseException):
    """Raised in the main thread inside a handler that outlasted the hammer."""


def check(serving: Serving, say: Say) -> None:
    """Cut, then abandon, what is still active when its time is over."""
    now = time.monotonic()
    if serving.drain_deadline is not None and now >= serving.drain_deadline:
        _cut(serving, now, say)
        serving.drain_deadline = None
    if serving.abandon_at is not None and now >= serving.abandon_at:
        serving.abandon_at = None
        _abandon(serving, say)


def _cut(serving: Serving, now: float, say: Say) -> None:
    active = serving.connections.all()
    faults.at("hammer")
    for connection in active:
        say(
            log.WARNING,
            f"drain time is over: cuts {say_address(connection.client_address)} on {serving}, "
            f"active for {now - connection.since:.1f} s",
        )
        connection.cut()
    serving.queue_served = serving.cut = True
    if active or serving.in_accept:
        serving.abandon_at = now + _ABANDON_AFTER


def _abandon(serving: Serving, say: Say) -> None:
    """What was cut has not ended: stop waiting for it."""
    if serving.inline_thread is not None:
        if serving.inline_thread == threading.main_thread().ident:
            serving.inline_cut = True
            os.kill(os.getpid(), getattr(signal, CALL))
            return
        say(log.ERROR, f"a handler of {serving} does not end; the process ends at once")
        os._exit(1)
    left: list[Connection] = serving.connections.abandon()
    for connection in left:
        say(log.ERROR, f"the handler of {say_address(connection.client_address)} does not end")
    server = serving.server
    threads = vars(server).pop("_threads", ()) if server is not None else ()
    let_threads_go(threads)


def where(error: BaseException) -> str:
    """Return the place in the code at which an exception was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return "?"
    return f"{os.path.basename(traceback.tb_frame.f_code.co_filename)}:{traceback.tb_lineno}"


def say_address(address: Any) -> str:
    """Return a client's address as an operator wants to read it."""
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{address[0]}:{address[1]}"
    return str(address or "a local client")


class Ending:
    """Watches over the time from the end of the drain to the end of the program."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._name_at: Optional[float] = None
        self._main_at: Optional[float] = None
        self._main_was: tuple[str, ...] = ()
        self._number = signal.SIGTERM
        self.ends_main = False  # the next signal of ours raises SystemExit in the main thread

    def begin(self, stop_signal: Optional[int], loops: set[Optional[int]]) -> None:
        """Start watching; stop_signal is what ended the process, loops the threads of servers."""
        now = time.monotonic()
        self._name_at = now + _NAME_AFTER
        main = _main_frame()
        if stop_signal is not None and main and threading.main_thread().ident not in loops:
            self._number = signal.Signals(stop_signal)
            self._main_at, self._main_was = now + _MAIN_STUCK_AFTER, _where(main)

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which `check()` has something to do."""
        return min((t for t in (self._name_at, self._main_at) if t is not None), default=None)

    def check(self) -> None:
        """The program should end now; when it does not, say what keeps it alive."""
        now = time.monotonic()
        if self._main_at is not None and now >= self._main_at:
            self._main_at = None
            frame = _main_frame()
            if frame is not None and _where(frame) == self._main_was:
                # The main thread does not wait for the server's thread: without this
                # package the signal would have ended it on the spot.
                self.ends_main = self._number != signal.SIGINT
                os.kill(os.getpid(), self._number)
        if self._name_at is not None and now >= self._name_at:
            self._name_at = None
            frames = sys._current_frames()
            names = ", ".join(
                f"{thread.name} at {_where(frame)[-1] if frame else '?'}"
                for thread in threading.enumerate()
                for frame in [frames.get(thread.ident or 0)]
                if not thread.daemon
            )
            self._say(
                log.WARNING,
                f"drained {_NAME_AFTER:g} s ago, but the program has not ended; alive: {names}",
            )


def _main_frame() -> Optional[FrameType]:
    return sys._current_frames().get(threading.main_thread().ident or 0)


def _where(frame: FrameType) -> tuple[str, ...]:
    places = []
    current: Optional[FrameType] = frame
    while current is not None:
        places.append(f"{current.f_code.co_filename}:{current.f_lineno}")
        current = current.f_back
    return tuple(reversed(places))
