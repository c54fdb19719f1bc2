"""A kept pid: when its program has ended, this process becomes the new code in place.

The bridge has everything by then, and hands it back over a channel of its own (`way_back`)
to what this process becomes.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from endless_py._handoff.channel import Message
from endless_py._handoff.child import Children
from endless_py._handoff.command_line import CommandLine
from endless_py._handoff.handoff import VARIABLE, Successor, replacement_word
from endless_py._reload.inherit import Estate
from endless_py._reload.life import Life
from endless_py._reload.manager import Manager
from endless_py._reload.predecessors import Predecessors
from endless_py._reload.servers import Servers
from endless_py._sockets.listener import Binding
from endless_py._supervisor import detect as keep_pid
from endless_py._support import faults, log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional


class Replacement:
    """Whether this process is to be replaced, and by what means."""

    def __init__(
        self,
        life: Life,
        servers: Servers,
        children: Children,
        predecessors: Predecessors,
        estate: Estate,
        manager: Manager,
    ) -> None:
        self._life = life
        self._servers = servers
        self._children = children
        self._predecessors = predecessors
        self._estate = estate
        self._manager = manager
        self.due = False  # as soon as the interpreter ends
        self._way_back: Optional[int] = None  # the bridge's channel to what this process becomes
        self._spare: list[tuple[Binding, int]] = []  # the listeners, should the bridge die
        self._said: Optional[bool] = None

    def keeps_pid(self) -> bool:
        """Whether the next reload keeps the pid; logged when it is first known."""
        settings = [getattr(s.server, "keep_pid", "auto") for s in self._servers.all]
        keeps, why = keep_pid.decide(settings, self._manager.notifier.enabled)
        said, self._said = self._said, keeps
        if keeps is not said and (said is not None or self._predecessors.parent is None):
            kept = "keeps the pid" if keeps else "gives the new process a pid of its own"
            self._life.log(log.INFO, f"a reload {kept}: {why}")
        return keeps

    def announce(self) -> None:
        """In the first generation: say at once what a reload will do."""
        if self._predecessors.parent is None and self._said is None:
            self.keeps_pid()

    def is_by(self, successor: Optional[Successor]) -> bool:
        """Whether this successor is the bridge of ours."""
        return successor is not None and successor.bridge and not self._life.bridge

    def hear_way_back(self, message: Message) -> None:
        """The bridge hands back."""
        if self.due and self._way_back is None:
            self._way_back = message.take()

    @property
    def handed_back(self) -> bool:
        return self._way_back is not None

    def keep_spare(self) -> None:
        """Keep the listeners beyond the end of the servers."""
        with suppress(OSError):  # no descriptor left: they are with the bridge alone
            for binding, descriptor in self._estate.listeners(self._servers.bound()):
                self._spare.append((binding, os.dup(descriptor)))

    def drop_spare(self) -> None:
        while self._spare:
            os.close(self._spare.pop()[1])

    def start_anew(self, bridge: Optional[Successor]) -> None:
        """Start the program anew in this process, as the interpreter's last act."""
        environment = self._estate.environment(bridge=False)
        way_back, peer = self._way_back, os.getpid()
        if bridge is not None and way_back is not None:
            peer = bridge.pid
        elif self._spare:
            self._life.log(log.ERROR, "the bridge has died; the listeners are kept without it")
            greeting = self._estate.greeting(False, False)
            way_back = Successor(
                self._life.number + 1, greeting, self._spare, self._estate.files
            ).take_end()
        if way_back is not None:
            children = [*self._children.orphans, *self._children.leaving]
            if bridge is not None and bridge.child is not None:
                children.append(bridge.child)
            environment[VARIABLE] = replacement_word(
                way_back, peer, {c.pid for c in children if c.status is None}
            )
        try:
            LastAct(self._estate.command, environment, [] if way_back is None else [way_back])
        except OSError as error:
            self._life.log(log.ERROR, f"cannot start anew in place: {error}; this process ends")
            return
        self._life.log(
            log.INFO, f"this process, pid {os.getpid()}, starts its program anew in place"
        )
        self._manager.pid_file = None  # stays as it is
        if bridge is not None and bridge.failure is None:
            bridge.channel.send({"type": "replacing"})
        faults.at("exec")


class LastAct:
    """Starts a command line in place of this process when the interpreter has finished.

    The dictionary of sys is what finalization empties last: every atexit function has run
    by then, whenever it was registered, and the standard streams are flushed.
    """

    _NAME = "_endless_py_last_act"

    def __init__(
        self, command: CommandLine, environment: dict[str, str], descriptors: list[int]
    ) -> None:
        # Nothing can be imported any more by then, and modules are empty.
        self._executable, self._directory = command.locate(environment)
        self._arguments = [self._executable, *command.arguments[1:]]
        self._environment = environment
        self._keep = sorted({0, 1, 2, *descriptors})
        self._calls = os.chdir, os.set_inheritable, os.closerange, os.execve, os.write
        self._pid, self._getpid = os.getpid(), os.getpid
        vars(sys)[self._NAME] = self

    def __del__(self) -> None:
        if self._getpid() == self._pid:
            self._go()

    def _go(self) -> None:
        chdir, set_inheritable, closerange, execve, write = self._calls
        try:
            chdir(self._directory)
            for descriptor in self._keep[3:]:
                set_inheritable(descriptor, True)
            for low, high in zip(self._keep, [*self._keep[1:], self._keep[-1] + 65536]):
                closerange(low + 1, high)
            execve(self._executable, self._arguments, self._environment)
        except BaseException as error:
            write(2, f"endless_py[{self._pid}]: cannot start anew: {error}\n".encode())
