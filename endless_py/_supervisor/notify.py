"""Telling a service manager what this process does: sd_notify(3) and sd_watchdog_enabled(3)."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping
from contextlib import suppress

from endless_py._support.descriptors import keep_socket_off_standard_streams

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional, Union

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_MOST_UNSENT = 16


class Notifier:
    """The way to the manager that NOTIFY_SOCKET names; without it every method does nothing.

    watchdog is the number of seconds within which the manager expects each WATCHDOG=1, None where
    it expects none; problem is a sentence about variables that are not valid, or None.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Take the manager's variables out of `environ`, so that no child sees them."""
        name, period, pid = (environ.pop(variable, None) for variable in VARIABLES)
        self.problem: Optional[str] = None
        self.watchdog: Optional[float] = None
        self._name = name or ""
        self._address: Union[bytes, None] = None
        self._socket: Optional[socket.socket] = None
        self._unsent: deque[bytes] = deque()
        if not name:
            return
        if name[0] not in "/@" or len(name) < 2:
            self.problem = f"NOTIFY_SOCKET={name!r} is neither a path nor an abstract name"
            return
        self._address = os.fsencode("\0" + name[1:] if name[0] == "@" else name)
        if period and pid in (None, "", str(os.getpid())):
            if period.isascii() and period.isdigit() and 0 < int(period) < 1 << 63:
                self.watchdog = int(period) / 1e6
            else:
                self.problem = f"WATCHDOG_USEC={period!r} is not a number of microseconds"

    @property
    def enabled(self) -> bool:
        """Whether there is a manager that listens."""
        return self._address is not None

    @property
    def waits(self) -> bool:
        """Whether the manager's queue was full, so that `flush()` has something to do."""
        return bool(self._unsent)

    def environment(self) -> dict[str, str]:
        """Return the variables with which the successor finds the same manager.

        Without WATCHDOG_PID, which would have to be a pid that nobody knows yet.
        """
        if not self.enabled:
            return {}
        variables = {"NOTIFY_SOCKET": self._name}
        if self.watchdog is not None:
            variables["WATCHDOG_USEC"] = str(round(self.watchdog * 1e6))
        return variables

    def send(self, **states: Union[str, int]) -> None:
        """Send assignments such as READY=1 in one message. Never raises, never blocks."""
        if self.enabled:
            lines = [f"{name}={value!s}".replace("\n", " ") for name, value in states.items()]
            # A manager that never reads must not fill memory; the newest states are true.
            while len(self._unsent) >= _MOST_UNSENT:
                self._unsent.popleft()
            self._unsent.append("\n".join(lines).encode(errors="replace"))
            self.flush()

    def flush(self) -> None:
        """Send what had no room in the manager's queue."""
        try:
            if self._socket is None and self._unsent:
                # Kept open: the watchdog is told even when there is no descriptor left.
                self._socket = keep_socket_off_standard_streams(
                    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                )
                self._socket.setblocking(False)
            while self._unsent and self._socket is not None and self._address is not None:
                self._socket.sendto(
                    self._unsent[0], getattr(socket, "MSG_NOSIGNAL", 0), self._address
                )
                self._unsent.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._unsent.clear()  # nobody is there

    def close(self) -> None:
        """Send nothing from now on, as in a forked child."""
        self._address = None
        self._unsent.clear()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
            self._socket = None


def monotonic_usec() -> int:
    """Return the moment in the clock and the unit that RELOADING=1 has to give."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
