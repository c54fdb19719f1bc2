"""What a process is left by its predecessor, and leaves to its successor in turn."""

from __future__ import annotations

import os

from endless_py._handoff import command_line, error_output, handoff
from endless_py._reload.life import Life
from endless_py._reload.manager import Manager
from endless_py._reload.predecessors import Predecessors
from endless_py._reload.serving import Serving
from endless_py._reload.signals import RELOAD, Signals
from endless_py._sockets import activation
from endless_py._sockets.listener import Binding, Inheritance
from endless_py._sockets.poller import READ
from endless_py._support import faults, log
from endless_py._support import platform as needs
from endless_py._support.sigmask import unblock
from endless_py.exceptions import ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional


class Estate:
    """The command line, the listeners that nobody has adopted yet, the files that go along."""

    def __init__(
        self, life: Life, predecessors: Predecessors, signals: Signals, manager: Manager
    ) -> None:
        self._life = life
        self._predecessors = predecessors
        self._signals = signals
        self._manager = manager
        self.command = command_line.capture()
        self.inheritance = Inheritance()
        self.files: dict[str, int] = {}  # what else goes along, by name
        self._error_output: Optional[error_output.ErrorOutput] = None

    # -- what was left to this process ------------------------------------

    def inherit(self) -> Optional[handoff.Inherited]:
        """Take what a predecessor has left; None without one."""
        word = os.environ.pop(handoff.VARIABLE, None)
        if word is None:
            return None
        try:
            if needs.missing():
                raise ChannelError(f"this platform has no {needs.missing()}")
            inherited = handoff.receive_inheritance(word)
        except ChannelError as error:
            self._life.log(
                log.WARNING,
                f"{handoff.VARIABLE} is ignored and removed: {error}; this process starts fresh",
            )
            unblock(self._signals.roles)
            return None
        self._error_output = error_output.taken_back(inherited.files)
        if self._error_output is not None:
            self._error_output.guard(inherited.predecessor.channel.fileno())
        self.files = inherited.files
        self.inheritance.waiting = inherited.listeners
        return inherited

    def take_lent(self) -> None:
        """Take what a service manager passes; a successor gets it from its predecessor."""
        listeners, problems = activation.take(os.environ)
        for problem in problems:
            self._life.log(log.WARNING, f"socket activation: {problem}; it is ignored")
        self.inheritance.waiting += listeners

    def say_unused(self) -> None:
        """All servers serve: what a service manager has passed for none of them is named."""
        unused = self.inheritance.lent()
        if unused:
            names = ", ".join(f"{b} ({b.lent})" if b.lent else str(b) for b, _ in unused)
            self._life.log(log.WARNING, f"socket activation: no server uses {names}; kept open")

    def restore_error_output(self) -> None:
        """Nobody reads what a successor says before it is ready any more."""
        if self._error_output is not None and not self._error_output.restored:
            self._error_output.restore()

    def watched(self) -> dict[int, int]:
        """Return the descriptors that lead to `step()`."""
        return {} if self._error_output is None else {self._error_output.fileno(): READ}

    def step(self) -> None:
        """Pass on what came into the captured error output after it was given back."""
        if self._error_output is not None and self._error_output.restored:
            self._error_output.pass_on()

    # -- what it leaves ---------------------------------------------------

    def pass_file(self, name: str, descriptor: Optional[int]) -> None:
        """Keep a duplicate of this descriptor for the generations to come; None: no longer."""
        new = None if descriptor is None else os.dup(descriptor)
        old = self.files.pop(name, None)
        if new is not None:
            self.files[name] = new
        if old is not None:
            os.close(old)

    def greeting(self, kept: bool, ancestor: bool) -> dict[str, Any]:
        """Return what a successor is told first.

        kept says that this process will be replaced in place, ancestor that it has a living
        predecessor.
        """
        predecessors = self._predecessors
        return {
            "own": self._life.number,
            "kept": kept,
            "ancestor": ancestor,
            "ignores_terminal": self._signals.ignored_hup,
            "older": sorted(predecessors.older & {os.getsid(0)} | predecessors.pids()),
        }

    def listeners(self, bound: list[tuple[Serving, Binding, int]]) -> list[tuple[Binding, int]]:
        """Return what a successor is handed: first those of servers, in their order."""
        own = [(binding, descriptor) for _, binding, descriptor in bound]
        return own + self.inheritance.lent()

    def environment(self, bridge: bool) -> dict[str, str]:
        """Return a successor's, with all that this process took out of its own.

        A bridge is nobody's main process: it has nothing to tell a manager.
        """
        taken = {} if bridge else self._manager.environment()
        return {**os.environ, **faults.environment(), **taken}

    def start(self, successor: handoff.Successor, stderr: Optional[int]) -> None:
        """Start its process with our command line; raises OSError when that cannot be."""
        hold = [number for number, role in self._signals.roles.items() if role == RELOAD]
        successor.start(self.command, self.environment(successor.bridge), hold, stderr)
