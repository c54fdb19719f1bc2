"""Telling the HUP of a terminal that went away from one that an operator sent."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

from endless_py._support.descriptors import keep_off_standard_streams

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

# Seconds in which the HUP follows. A broken terminal's may be passed on by the shell; the
# kernel sends that of a leader's end just before it.
_AFTER_BREAK = 2.0
_AFTER_END = 0.25


class Terminal:
    """The controlling terminal this process was started from, if there is one.

    It goes away in two ways: its other end is closed (a connection breaks, a window is
    closed), or the first process of the session ends and leaves the others without it. That
    process, a shell, may end in peace and send its background jobs nothing; a HUP long after
    that is an operator's. So the moment is noted at which one of `watched()` is ready; where the
    system has no pidfd, the second way is not seen.
    """

    def __init__(self) -> None:
        self.leader = 0  # of the session
        self.broken = False  # it went in the first of the two ways
        self._descriptor = self._leader_end = -1
        self._gone_at: Optional[float] = None
        try:
            flags = os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
            self._descriptor = keep_off_standard_streams(os.open("/dev/tty", flags))
        except OSError:
            return
        self.leader = os.getsid(0)
        with suppress(OSError, AttributeError):
            end: int = os.pidfd_open(self.leader)  # type: ignore[attr-defined,unused-ignore]
            self._leader_end = keep_off_standard_streams(end)

    def watched(self) -> dict[int, int]:
        """Return the descriptors that are ready when the terminal has gone."""
        # The end of the first is told whatever is asked for; what is typed is not for us.
        found = {self._descriptor: 0, self._leader_end: select.POLLIN}
        found.pop(-1, None)
        return found

    def look(self) -> None:
        """Note whether the terminal is gone."""
        watched = self.watched()
        if watched:
            poll = select.poll()
            for descriptor, events in watched.items():
                poll.register(descriptor, events)
            gone = {descriptor for descriptor, _ in poll.poll(0)}
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
        if self._descriptor >= 0 or self._leader_end >= 0:
            for descriptor in self.watched():
                os.close(descriptor)
        self._descriptor = self._leader_end = -1
