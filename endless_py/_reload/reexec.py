"""Step 7 with a kept pid: when its program has ended, this process becomes the new code in place.

The bridge has everything by then, and hands it back over a channel of its own (`_way_back`)
to what this process becomes.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from endless_py._handoff.greeting import VARIABLE, variable_in_place
from endless_py._handoff.starter import keep_off
from endless_py._handoff.successor import Successor
from endless_py._reload.answers import Answers
from endless_py._reload.base import BaseProcess
from endless_py._reload.report import Report
from endless_py._reload.spawn import Spawn
from endless_py._reload.supervisor import Supervisor
from endless_py._support import faults, log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Callable, Optional

    from endless_py._handoff.channel import Message
    from endless_py._sockets.listener import Binding


class Reexec:
    """Whether this process is to be replaced, and by what means."""

    def __init__(
        self,
        process: BaseProcess,
        spawn: Spawn,
        supervisor: Supervisor,
        report: Report,
        answers: Answers,
    ) -> None:
        self._process = process
        self._spawn = spawn
        self._supervisor = supervisor
        self._report = report
        self._answers = answers
        self.due = False  # as soon as the interpreter ends
        self._way_back: Optional[int] = None  # the bridge's channel to what this process becomes
        self._spare: list[tuple[Binding, int]] = []  # the listeners, should the bridge die

    def heard_hand_back(self, message: Message) -> None:
        """The bridge hands back."""
        if self.due and self._way_back is None:
            self._way_back = message.take()

    def heard_put_off(self, reason: str) -> None:
        """The bridge does not hand back just now, and goes on serving."""
        self._report.put_off(reason)

    @property
    def handed_back(self) -> bool:
        return self._way_back is not None

    def keep_spare(self) -> None:
        """Keep the listeners beyond the end of the servers."""
        with suppress(OSError):  # no descriptor left: they are with the bridge alone
            for binding, descriptor in self._spawn.sockets():
                self._spare.append((binding, os.dup(descriptor)))

    # -- actions ----------------------------------------------------------

    def forget_spare(self, *_: object) -> None:
        """Nobody starts anew here: the address is to be free."""
        while self._spare:
            os.close(self._spare.pop()[1])

    def replace(self, *_: object) -> None:
        """Start the program anew in this process, as the interpreter's last act."""
        process, bridge = self._process, self._process.successor
        environment = self._spawn.environment(bridge=False)
        same, closed = process.started.descriptors()
        way_back, peer = self._way_back, os.getpid()
        keep: list[int] = []
        if bridge is not None and way_back is not None:
            peer = bridge.pid
        elif self._spare:
            template = "the bridge has died; the listeners are kept without it"
            process.log(log.ERROR, template, "bridge_died")
            told = self._spawn.greeting(process.generation + 1, False, False, False)
            way_back = Successor(told, self._spare, process.files).take_end()
        if way_back is not None:
            children = [*process.children.orphans, *process.children.leaving]
            if bridge is not None and bridge.child is not None:
                children.append(bridge.child)
            living = {p for c in children if c.status is None for p in (c.pid, c.watcher) if p}
            # Who asks this pid meanwhile waits in the socket's queue until the new code answers.
            control = self._answers.control.keep_for_exec()
            keep = [keep_off(n, closed) for n in (way_back, control) if n is not None]
            environment[VARIABLE] = variable_in_place(keep, peer, living)
        try:
            located = self._spawn.command.locate(environment)
            back = process.started.go_back(process.signals.roles)
            ExecAtExit(located, environment, back, (same.union(keep), closed))
        except OSError as error:
            template = "cannot start anew in place: %(reason)s; this process ends"
            process.log(log.ERROR, template, "not_in_place", reason=str(error))
            return
        template = "this process, pid %(pid)d, starts its program anew in place"
        process.log(log.DEBUG, template, "in_place", pid=os.getpid())
        self._supervisor.pid_file = None  # stays as it is
        if bridge is not None:
            bridge.say("starting")
        faults.at("exec")


class ExecAtExit:
    """Starts a command line in place of this process when the interpreter has finished.

    The dictionary of sys is what finalization empties last: every atexit function has run
    by then, whenever it was registered, and the standard streams are flushed. So an object
    that only this dictionary holds is deleted as the very last act, and its `__del__` does the
    exec. Nothing can be imported any more by then, and modules are empty: all that it needs it
    has in attributes.
    """

    _NAME = "_endless_py_exec_at_exit"

    def __init__(
        self,
        located: tuple[str, str, list[str]],
        environment: dict[str, str],
        back: list[Callable[[], object]],
        numbers: tuple[set[int], set[int]],
    ) -> None:
        """located is what and where to start, back what is to be done before.

        numbers are those of descriptors that are passed on, and those that lead to nowhere.
        """
        self._executable, self._directory, self._arguments = located
        self._environment = environment
        self._back = back
        self._keep, self._nowhere = sorted({0, 1, 2, *numbers[0]}), numbers[1]
        self._calls = os.chdir, os.set_inheritable, os.closerange, os.execve, os.write
        self._open, self._dup2, self._null = os.open, os.dup2, (os.devnull, os.O_RDWR)
        self._pid, self._getpid, self._error = os.getpid(), os.getpid, Exception
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
            if self._nowhere:
                null = self._open(*self._null)
                for descriptor in self._nowhere:
                    self._dup2(null, descriptor)
                if null in self._nowhere:
                    set_inheritable(null, True)
            for step in self._back:
                try:  # noqa: SIM105  the name of suppress() is gone by now
                    step()
                except self._error:
                    pass
            execve(self._executable, self._arguments, self._environment)
        except BaseException as error:
            write(2, f"endless_py[{self._pid}]: cannot start anew: {error}\n".encode())
