"""The listeners of this process, taken together: what is done to all of them at once."""

from __future__ import annotations

import socket
import threading
import time

from endless_py._reload import settings
from endless_py._reload.listener import ForeignListener, Listener
from endless_py._sockets.connection import say_address
from endless_py._sockets.drain_signal import DrainSignal

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._sockets.listener import Binding


_MOST_CLIENTS, _LONGEST_LINE = 200, 200  # that one answer has, and characters of each's request


class Listeners:
    """Their list, which is replaced and never changed."""

    def __init__(self) -> None:
        self.all: tuple[Listener, ...] = ()
        self._lock = threading.Lock()

    def add(self, listener: Listener) -> None:
        """Know one more; those whose server is gone are forgotten."""
        with self._lock:
            known = [other for other in self.all if other.server is not None]
            self.all = (*known, *(() if listener in known else (listener,)))

    def remove(self, listener: Listener) -> None:
        with self._lock:
            self.all = tuple(other for other in self.all if other is not listener)
        if listener.drain_signal is not None:  # its handlers may still wait, and be waited for
            listener.drain_signal.tell_all()

    def enter(self, listener: Listener) -> bool:
        """Its loop begins; whether no other is served."""
        with self._lock:
            alone = not any(other.entered for other in self.all)
            listener.entered = True
        return alone

    def never_wait(self) -> None:
        """Another process, which may have changed the flags of what it shared, has ended."""
        for listener in self.all:
            listener.never_wait()

    def wake(self) -> None:
        """Wake every loop."""
        for listener in self.all:
            listener.wake()

    def foreign(self) -> list[ForeignListener]:
        """Return those that no loop of ours serves."""
        return [listener for listener in self.all if isinstance(listener, ForeignListener)]

    def any_ready(self) -> bool:
        return any(listener.ready for listener in self.all)

    def any_entered(self) -> bool:
        """Whether one is served, or is just about to be."""
        return any(listener.entered or listener.ready for listener in self.all)

    def slow(self) -> list[Any]:
        """Return who is to look for slow handlers while such a one may hold its server's loop."""
        return [
            listener.slow
            for listener in self.all
            if listener.inline_thread is not None
            and listener.slow is not None
            and listener.slow.look_at is not None
        ]

    # -- settings ---------------------------------------------------------

    def ready_timeout(self) -> float:
        """Return how many seconds a successor has to be ready."""
        return max((s.setting("ready_timeout") for s in self.all), default=60.0)

    def longest_drain(self) -> float:
        """Return how many seconds a drain may take."""
        return max((s.setting("drain_timeout") for s in self.all), default=0.0)

    def stop_delay(self) -> float:
        """Return how many seconds this process goes on accepting after an order to stop."""
        return max((s.setting("stop_delay") for s in self.all), default=0.0)

    def max_draining(self) -> Optional[int]:
        """Return how many generations may drain at a time; None: there is no limit."""
        found = [getattr(settings.of(s.server), "max_draining", None) for s in self.all]
        limits = [most for most in found if isinstance(most, int) and most > 0]
        return min(limits, default=None)

    def exit_grace(self, supervised: bool) -> float:
        """Return how many seconds the program has to end in, once all have drained."""
        auto = 30.0 if supervised else settings.NO_LIMIT
        return max(
            (
                auto
                if getattr(settings.of(s.server), "exit_grace", "auto") == "auto"
                else s.setting("exit_grace")
                for s in self.all
            ),
            default=auto,
        )

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which the drain of one has a next step."""
        times = [t for s in self.all for t in (s.drain_deadline, s.abandon_at)]
        times += [signal.due for signal in self._drain_signals()]
        return min((t for t in times if t is not None), default=None)

    def _drain_signals(self) -> list[DrainSignal]:
        return [s.drain_signal for s in self.all if s.drain_signal is not None]

    # -- what an operator asks for ----------------------------------------

    def until(self) -> Optional[float]:
        """Return when the drains are over at the latest (time.time); None where nothing says so."""
        now = time.monotonic()
        times = [s.drain_deadline for s in self.all if s.drain_deadline is not None]
        latest = max(times, default=None)
        if latest is None or latest - now >= settings.NO_LIMIT / 2:
            return None
        return time.time() + latest - now

    def clients(self) -> list[dict[str, Any]]:
        """Return the active connections: those with a request first, the oldest of them first."""
        now, found = time.monotonic(), []
        for listener in self.all:
            for connection in listener.connections.all():
                line = getattr(getattr(connection, "count", None), "line", b"")
                text = line.decode("latin-1") if isinstance(line, bytes) else str(line)
                request = "" if connection.idle else text.strip()[:_LONGEST_LINE]
                found.append(
                    {
                        "client": say_address(connection.client_address),
                        "listener": str(listener),
                        "seconds": round(now - connection.since, 3),
                        "idle": bool(connection.idle),
                        "request": request,
                    }
                )
        found.sort(key=lambda one: (one["idle"], -one["seconds"]))
        return found[:_MOST_CLIENTS]

    # -- their sockets ----------------------------------------------------

    def bound(self) -> list[tuple[Listener, Binding, int]]:
        """Return those with an open socket, each with its binding and descriptor."""
        found = []
        for listener in self.all:
            descriptor = listener.fileno()
            if listener.binding is not None and descriptor >= 0:
                found.append((listener, listener.binding, descriptor))
        return found

    def by_number(self, numbers: Optional[dict[int, int]]) -> dict[int, Listener]:
        """Return the listeners by the numbers that a predecessor knows them by.

        numbers are those numbers to ours; None: they are the same.
        """
        own = {
            listener.binding.index: listener
            for listener in self.all
            if listener.binding is not None and listener.binding.index is not None
        }
        if numbers is None:
            return own
        return {theirs: own[ours] for theirs, ours in numbers.items() if ours in own}

    def unlink(self) -> None:
        """Remove the Unix paths that are still theirs."""
        for listener in self.all:
            if listener.owns_path and listener.binding is not None:
                listener.binding.unlink()

    def leave_paths(self) -> None:
        """The predecessor serves on: the Unix paths that came from it are its own."""
        for listener in self.all:
            if listener.binding is not None and listener.binding.index is not None:
                listener.owns_path = False

    def close(self) -> None:
        """Have each serve its accept queue and close its socket."""
        for listener in self.all:
            listener.give_up()

    # -- a drain, and back ------------------------------------------------

    def drain(self, hurry: bool = False) -> tuple[int, float]:
        """Begin the drain; return how many handlers are active, and the longest time (s).

        hurry says that idle connections have no grace.
        """
        now = time.monotonic()
        counts = [s.connections.counts() for s in self.all]
        active = sum(total - idle for total, idle in counts)
        longest = 0.0
        for listener in self.all:
            listener.move("drain")
            timeout = listener.setting("drain_timeout")
            longest = max(longest, timeout)
            listener.drain_deadline = now + timeout
        for listener in self.all:
            if listener.drain_signal is not None:
                listener.drain_signal.send(listener.migrates_to is not None, hurry)
        return active, longest

    def tell_handlers(self) -> None:
        """Tell of the drain whom it is time to tell."""
        now = time.monotonic()
        for drain_signal in self._drain_signals():
            if drain_signal.due is not None and now >= drain_signal.due:
                drain_signal.tell()

    def end_drain_time(self) -> None:
        """The time of every drain is over."""
        now = time.monotonic()
        for listener in self.all:
            if listener.drain_deadline is not None and listener.abandon_at is None:
                listener.drain_deadline = now
        self.wake()

    def drained(self) -> bool:
        return all(listener.drained for listener in self.all)

    def cut(self) -> bool:
        """Whether the time of every drain has been over."""
        return all(listener.cut for listener in self.all)

    def cutting_inline(self) -> bool:
        """Whether this thread runs a handler that outlasted the force stop."""
        ident = threading.get_ident()
        return any(s.inline_cut and s.inline_thread == ident for s in self.all)

    def resume(self) -> None:
        """Nobody drains any more, and whoever looks at the next drain signal sees none."""
        for listener in self.all:
            if listener.drain_signal is not None:
                listener.drain_signal.tell_all()
                listener.drain_signal = DrainSignal()
            listener.drain_deadline = listener.abandon_at = None
            listener.missing = False

    def accept_again(self) -> None:
        """Take back what a successor had taken over."""
        for listener in self.all:
            listener.move("resume")
            if listener.closing:
                continue
            listener.owns_path = True
            listener.settle()  # the successor may have set its own backlog and options

    # -- forks ------------------------------------------------------------

    def in_forked_child(self, served: Optional[Listener]) -> None:
        """In a forked child, which may be the process of a handler of `served`."""
        for other in self.all:
            other.in_forked_child()
            if other.drain_signal is not None:
                other.drain_signal.in_forked_child()
            if other.poller is not None:
                other.poller.close()
                other.poller = None
            if other.parking is not None:
                other.parking.in_forked_child()
                other.parking = None
            if served is not None and not other.datagrams:
                sock: Any = getattr(other.server, "socket", None)
                try:
                    if isinstance(sock, socket.socket):
                        socket.socket.close(sock)  # nobody here has to know that it was closed
                    else:
                        sock.close()
                except (OSError, AttributeError):
                    pass
        self.all = ()
        self._lock = threading.Lock()

    def at_exit(self) -> None:
        """The process ends: nothing wakes their loops any more."""
        for listener in self.all:
            if listener.poller is not None:
                listener.poller.close()
                listener.poller = None
