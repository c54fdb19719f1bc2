"""The incumbent's end of a handoff; the mirror image is `predecessor`.

With a kept pid the successor is a bridge: it hands everything on once more, to the new image
of the process that it came from. That is the same handoff, but the channel is made first and
sent to the process, which keeps it open across the exec.
"""

from __future__ import annotations

import socket
import time

from endless_py._handoff import greeting, starter
from endless_py._handoff.channel import Channel, Message
from endless_py._handoff.child import Child
from endless_py._sockets.listener import Binding
from endless_py._support import faults
from endless_py.exceptions import ChannelClosed, ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._handoff.command_line import CommandLine
    from endless_py._handoff.started import Started

# A process closes its descriptors a little before it can be reaped.
_EXIT_GRACE = 1.0


class Successor:
    """The generation after this one."""

    def __init__(
        self,
        told: dict[str, Any],
        listeners: list[tuple[Binding, int]],
        files: dict[str, int],
    ) -> None:
        """told is its greeting, with its "generation" and whether it is a "bridge"."""
        self.generation: int = told["generation"]
        self.bridge: bool = told["bridge"]
        self.bindings = [binding for binding, _ in listeners]
        self.pid = 0
        self.child: Optional[Child] = None  # None: it has the kept pid, and another parent
        self.adopted: set[int] = set()
        self.ready: set[int] = set()
        self.started: Optional[float] = time.monotonic()
        self.first_ready: Optional[float] = None
        self.superseded = False  # its own successor serves
        # How many generations drain that are younger than this process, and how many may in all.
        self.crowd: Optional[tuple[int, int]] = None
        self.reload_passed_on = False
        self.failure: Optional[str] = None
        self.failure_noted = False
        mine, self._its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._carrier: Optional[Channel] = None
        self.channel = Channel(mine)
        try:
            faults.at("channel opened")
            greeting.send(self.channel, told, listeners, files)
            faults.at("listeners sent")
        except BaseException:
            self.close()
            raise

    def start(
        self,
        command: CommandLine,
        environment: dict[str, str],
        started: Started,
        hold: set[int],
        stderr: Optional[int] = None,
    ) -> None:
        """Start its process, as this one was started. Raises OSError when that cannot be.

        hold are signals that wait until it has its handlers, stderr a descriptor to be its
        standard error (None: the same as ours).
        """
        try:
            closed = started.descriptors()[1]
            self._its = socket.socket(fileno=starter.keep_off(self._its.detach(), closed))
            channel = self._its.fileno()
            environment[greeting.VARIABLE] = greeting.variable(channel)
            start = command, environment, channel, started, hold, self.bridge
            child = starter.start(*start, stderr)
        except BaseException:
            self.close()
            raise
        self._its.close()
        self.pid, self.child = child.pid, child
        child.generation = self.generation
        faults.at("spawn")

    def begun(self, wait: bool = False) -> bool:
        """Whether its own pid is known; until then it is that of who starts it."""
        if self.child is None or self.child.begun:
            return True
        begun = self.child.begin(wait)
        self.pid = self.child.pid
        return begun

    def become(self, pid: int, carrier: Channel, body: dict[str, Any]) -> None:
        """Let that process become it: `body`, and its end of the channel, go over the carrier."""
        self.pid = pid
        self.started = None  # its time begins when its program does
        self._carrier = carrier
        carrier.send(body, (self._its.fileno(),))
        self._close_its_end()

    def leave_open(self) -> None:
        """This process ends: the end of the channel is to tell of that; the watcher goes before."""
        self.channel.leave_open()
        if self.child is not None:
            self.child.let_go()

    def in_forked_child(self) -> None:
        """It is no forked child's."""
        self.channel.close()
        if self.child is not None:
            self.child.let_go()

    def take_end(self) -> int:
        """Return the descriptor of its end, for a process that is to become it by an exec."""
        return self._its.detach()

    def _close_its_end(self) -> None:
        """Its end is under way to it: open here as well, its closing would never be seen."""
        if self._carrier is not None and not self._carrier.sending:
            self._its.close()
            self._carrier = None

    def close(self) -> None:
        self.channel.close()
        self._its.close()

    def __str__(self) -> str:
        return f"generation {self.generation} ({'bridge, ' * self.bridge}pid {self.pid})"

    def say(self, word: str, descriptors: tuple[int, ...] = (), **fields: Any) -> None:
        """Say a word of `words`; the caller keeps the descriptors open until it is sent."""
        if self.failure is None:
            self.channel.send({"type": word, **fields}, descriptors)

    def receive(self) -> list[Message]:
        """Return what it said since; at its end or at a protocol error, `failure` is set."""
        if self.failure is not None:
            return []
        self._close_its_end()
        try:
            self.channel.flush()
            return self.channel.receive()
        except ChannelClosed:
            self.fail("it closed the channel", kill_after=_EXIT_GRACE)
        except ChannelError as error:
            self.fail(f"protocol error on the handoff channel: {error}")
        return []

    def fail(self, reason: str, kill_after: float = 0.0) -> None:
        """Give it up: close the channel, kill it unless it ends by itself in that time (s)."""
        if self.failure is not None:
            return
        self.failure = reason
        self.close()
        if self.child is not None:
            self.child.kill_after(kill_after)
