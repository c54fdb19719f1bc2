"""Step 4: what this process is handed when it starts, by a predecessor or a service manager."""

from __future__ import annotations

import os

from endless_py._handoff import error_output, greeting
from endless_py._handoff.child import Child
from endless_py._handoff.greeting import Greeting
from endless_py._reload import stacks
from endless_py._reload.base import BaseProcess
from endless_py._reload.supervisor import Supervisor
from endless_py._sockets import activation
from endless_py._sockets.listener import Binding
from endless_py._support import log, platform
from endless_py._support.sigmask import unblock
from endless_py.exceptions import ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional


class Inherit:
    """Takes what is there, and gives the captured error output back in time."""

    def __init__(self, process: BaseProcess, supervisor: Supervisor) -> None:
        self._process = process
        self._supervisor = supervisor
        self._error_output: Optional[error_output.ErrorOutput] = None
        self.offers_stacks = False  # to the predecessor, until all is served
        self.control: Optional[int] = None  # the socket for commands that this pid had before
        process.received.claim = self.claim

    def begin(self) -> bool:
        """Be the successor of whoever started this process for that; whether there is one."""
        process = self._process
        if os.environ.get(greeting.VARIABLE) is None or platform.is_subinterpreter():
            return False  # it is for the main interpreter
        variable = os.environ.pop(greeting.VARIABLE, None)
        if variable is None:
            return False
        try:
            if platform.missing():
                raise ChannelError(f"this platform has no {platform.missing()}")
            found = Greeting(variable)
        except ChannelError as error:
            process.log(
                log.WARNING,
                "%(variable)s is ignored and removed: %(reason)s; this process starts fresh",
                "starts_fresh",
                variable=greeting.VARIABLE,
                reason=str(error),
            )
            unblock(process.signals.roles)
            return False
        self._take(found)
        self.offers_stacks = stacks.offer()
        return True

    def claim(self, family: int, kind: int, address: Any) -> bool:
        """Be the successor of a process that has lost the pid of this program's last start, and
        has this address; whether there is one.
        """
        process = self._process
        if process.predecessors.parent is not None or not process.machine.starting:
            return False
        from endless_py._control import claim  # an address in use is rare

        found = claim.ask(Binding(family, kind, address, address))
        if found is not None:
            template = "the address is in use by %(predecessor)s, which hands over"
            process.log(log.INFO, template, "claimed", predecessor=found.predecessor)
            self._take(found)
        return found is not None

    def _take(self, found: Greeting) -> None:
        process = self._process
        self._error_output = error_output.taken_back(found.files)
        if self._error_output is not None:
            self._error_output.guard(found.predecessor.channel.fileno())
        process.generation, process.bridge = found.generation, found.bridge
        process.orphaned = found.orphaned and not found.in_place
        self.control = found.control
        if self.control is not None:
            os.set_inheritable(self.control, False)  # it is this pid's alone
        process.predecessors.greet(found)
        process.files = found.files
        process.received.waiting = found.listeners
        process.children.orphans = [Child(pid) for pid in found.children]
        process.signals.ignored_hup = found.ignores_terminal
        process.started.blocked = found.blocked
        self._supervisor.in_charge = found.in_place
        self._supervisor.ours |= process.predecessors.older

    def take_lent(self) -> None:
        """Take what a service manager passes; a successor gets it from its predecessor."""
        listeners, problems = activation.take(os.environ)
        for problem in problems:
            template = "socket activation: %(reason)s; it is ignored"
            self._process.log(log.WARNING, template, "activation_ignored", reason=problem)
        self._process.received.waiting += listeners
        self._process.started.note_descriptors()  # those that are left are for the program

    def say_unused(self) -> None:
        """All servers serve: what a service manager has passed for none of them is named."""
        unused = self._process.received.lent()
        if unused:
            names = ", ".join(f"{b} ({b.lent})" if b.lent else str(b) for b, _ in unused)
            template = "socket activation: no server uses %(listener)s; kept open"
            self._process.log(log.WARNING, template, "activation_unused", listener=names)

    def before_fork(self) -> None:
        """No thread of ours is to run beside a fork, as a program that starts may make one."""
        if self._error_output is not None:
            self._error_output.leave_unguarded()

    def restore_error_output(self) -> None:
        """Nobody reads what a successor says before it is ready any more."""
        if self._error_output is not None and not self._error_output.restored:
            self._error_output.restore()

    def leave_error_output(self) -> None:
        """In a process forked for this one: the same, but its leader alone reads what comes."""
        self.restore_error_output()
        if self._error_output is not None:
            self._error_output.close()

    def watched(self) -> dict[int, int]:
        """Return the descriptors that lead to `step()`."""
        return {} if self._error_output is None else self._error_output.watched()

    def step(self) -> None:
        """Pass on what came into the captured error output after it was given back."""
        if self._error_output is not None and self._error_output.restored:
            self._error_output.pass_on()
