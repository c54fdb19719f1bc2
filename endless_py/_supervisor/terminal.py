"""Telling the HUP of a terminal that went away from one that an operator sent."""

from __future__ import annotations

import os
import select
import time

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

# Seconds in which the HUP follows. A broken terminal's may be passed on by the shell; the
# kernel sends that of a leader's end just before it.
_AFTER_BREAK = 2.0
_AFTER_END = 0.25


class Terminal:
    """The controlling terminal this process was started from, if there is one.

    It goes away in two ways: its other end is closed (a connection breaks, a window is
    closed), or the first process of the session ends and leaves the others without it. That
    process, a shell, may end in peace and send its background jobs nothing; a HUP long after
    that is an operator's. So the moment is noted: where the system has epoll and pidfd, a
    descriptor becomes readable then. Elsewhere only the first way is seen.
    """

    def __init__(self) -> None:
        self.leader = 0  # of the session
        self.broken = False  # it went in the first of the two ways
        self._descriptor = self._leader_end = -1
        self._epoll: Any = None
        self._gone_at: Optional[float] = None
        try:
            flags = os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
            self._descriptor = os.open("/dev/tty", flags)
        except OSError:
            return
        self.leader = os.getsid(0)
        try:
            self._leader_end = os.pidfd_open(self.leader)  # type: ignore[attr-defined,unused-ignore]
            self._epoll = select.epoll()
            self._epoll.register(self._descriptor, 0)  # its end is always reported
            self._epoll.register(self._leader_end, select.EPOLLIN)
        except (OSError, AttributeError):
            pass

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the terminal goes, or -1."""
        return int(self._epoll.fileno()) if self._epoll is not None else -1

    def look(self) -> None:
        """Note whether the terminal is gone."""
        if self._descriptor < 0:
            return
        poll = select.poll()  # epoll may tell a little later
        poll.register(self._descriptor, 0)
        if self._leader_end >= 0:
            poll.register(self._leader_end, select.POLLIN)
        gone = {number for number, _ in poll.poll(0)}
        if gone:
            self._note(self._descriptor in gone)

    def has_just_gone(self) -> bool:
        """Whether a HUP that came now is the terminal's."""
        self.look()
        if self._leader_end >= 0:
            try:
                os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
            except OSError:  # the kernel takes it away a moment before the leader has ended
                self._note(broken=False)
        after = _AFTER_BREAK if self.broken else _AFTER_END
        return self._gone_at is not None and time.monotonic() < self._gone_at + after

    def _note(self, broken: bool) -> None:
        self._gone_at, self.broken = time.monotonic(), broken
        self.close()

    def close(self) -> None:
        """Watch no longer."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        for descriptor in (self._descriptor, self._leader_end):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._leader_end = -1
