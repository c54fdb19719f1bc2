"""The signals of a generation: taking them over, giving them back."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # see `sigmask`
import _thread
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from endless_py._sockets.poller import SelfPipe
from endless_py._support import log, sigmask
from endless_py._support.sigmask import block, unblock

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from endless_py._handoff.started import Started

    Handler = Callable[[int, Optional[FrameType]], None]

_HANDLER_TIME = 0.05  # seconds after a signal in which its handler should have run
_MAIN_TIME = 0.2  # seconds that a server's thread waits for the main one to install handlers
RELOAD, STOP, FORCE = "reload", "stop", "hammer"  # as set_signals() calls them
_ROLES = {"SIGHUP": RELOAD, "SIGTERM": STOP, "SIGINT": STOP, "SIGUSR2": FORCE}
# It does nothing to a process that has no use for it. Here it wakes one whose only loop is
# busy, so that it looks who asks for what, and ends a handler that outlasts the force stop.
CALL = "SIGURG"


class _Late:
    """A signal whose number was read before its handler has run.

    Whoever takes the token acts on the signal: the handler, or a loop in its place.
    """

    def __init__(self, due: float) -> None:
        self.due = due  # the moment (time.monotonic) at which the handler is overdue
        self._token = [None]

    @property
    def taken(self) -> bool:
        return not self._token

    def take(self) -> bool:
        """Whether it is the caller's; one alone gets it, in whatever thread."""
        try:
            self._token.pop()
        except IndexError:
            return False
        return True


class Signals:
    """Installs one handler where the program has none of its own.

    CPython runs a handler in the main thread only, and one that is about to wait for a
    lock (as in Thread.join()) may sleep over a signal that came just before. So every
    signal also writes its number to a pipe, which the serving loops read: when the handler
    has not run shortly after, they take the signal in its place.
    """

    def __init__(self, handler: Handler, say: Callable[..., None], started: Started) -> None:
        self.handler = handler
        self._say = say
        self._started = started
        self.roles: dict[int, str] = {
            int(getattr(signal, name)): role
            for name, role in _ROLES.items()
            if hasattr(signal, name)
        }
        self.ignored_hup = False  # when this process was started, as nohup does
        self.hint = "call endless_py.reload() from it"  # said where the program handles HUP
        self._hooked: set[int] = set()
        self._installed = False
        self._previous: dict[int, Any] = {}
        self._pipe: Optional[SelfPipe] = None
        self._ran: set[int] = set()  # its handler ran, its number was not read yet
        self.late: dict[int, _Late] = {}  # its number was read; the handler may be overdue
        self.for_main: set[int] = set()  # only the handler may take these, however late it runs
        self._forking: dict[int, set[int]] = {}  # by thread: what it held back before the fork
        self._asked = False  # the main thread, to install them for a server of another one
        self._call = int(getattr(signal, CALL, 0))
        main = threading.current_thread() is threading.main_thread()
        if self._call and main and signal.getsignal(self._call) is signal.SIG_DFL:
            # It does nothing by default, and can wake a main thread that waits for another one.
            with suppress(ValueError):  # in a sub-interpreter, where no server can be made
                signal.signal(self._call, self._run)

    def first(self, role: str) -> str:
        """Return the name of a signal with this role, without SIG; "" when there is none."""
        names = (signal.Signals(n).name[3:] for n, found in self.roles.items() if found == role)
        return next(names, "")

    def ordered_by(self, role: str) -> str:
        """As `first()`, of those that are not the program's own."""
        names = (signal.Signals(n).name[3:] for n in self.roles if n in self.ours(role))
        return next(names, "")

    def ours(self, role: str) -> set[int]:
        """Return the signals with this role that are not the program's own."""
        return {number for number in self._previous if self.roles.get(number) == role}

    def set_roles(self, roles: dict[int, str]) -> None:
        """Change which signals do what, and let them in."""
        self.roles = roles
        if self._installed and self._update():
            self._say_foreign()
        unblock(roles)

    def hook(self, number: int) -> None:
        """Have the handler called for this signal too; ValueError when that cannot be."""
        self._hooked.add(number)
        if self._installed:
            self._update()

    def install(self, first: bool = False) -> None:
        """Take over what nobody handles, and say when the program handles a reload signal itself.

        Does nothing a second time, but for the first server. In a thread other than the main one
        it has that one do it, which may take a moment.
        """
        if self._installed and not first:
            return
        if threading.current_thread() is not threading.main_thread():
            if not self._installed:
                self._ask_main_thread()
            return
        if self._installed:
            self._renew()
            return
        self._installed = True
        foreign = self._update()
        pipe = SelfPipe()
        before = signal.set_wakeup_fd(pipe.sender(), warn_on_full_buffer=False)
        if before == -1:
            self._pipe = pipe
        else:  # another library's stays
            signal.set_wakeup_fd(before)
            pipe.close()
        if foreign:
            self._say_foreign()

    def _ask_main_thread(self) -> None:
        ident = threading.main_thread().ident
        if not self._call or ident is None or signal.getsignal(self._call) != self._run:
            return
        self._asked = True
        signal.pthread_kill(ident, self._call)
        until = time.monotonic() + _MAIN_TIME
        while not self._installed and time.monotonic() < until:
            time.sleep(0.001)

    def _renew(self) -> None:
        """What the program has set to nothing before its first server is taken over.

        In a successor the handlers are installed earlier, when this package is imported.
        """
        ours = {n: was for n, was in self._previous.items() if signal.getsignal(n) == self._run}
        if len(ours) < len(self._previous):
            self._previous = ours
            if self._update():
                self._say_foreign()

    def _say_foreign(self) -> None:
        self._say(
            log.WARNING,
            "the program has a %(signal)s handler of its own, which stays; %(hint)s",
            "handler_stays",
            signal=f"SIG{self.first(RELOAD)}",
            hint=self.hint,
        )

    def _update(self) -> bool:
        """Install what is missing; whether the program has a handler where one should reload."""
        wanted = {*self.roles, *self._hooked, int(getattr(signal, CALL))}
        for number in self._previous.keys() - wanted:
            self._give_back(number, self._previous.pop(number))
        foreign = False
        caught = sigmask.caught()
        for number in sorted(wanted - self._previous.keys()):
            before = signal.getsignal(number)
            if before is signal.SIG_DFL and number in caught:
                before = None  # by a handler of C code, such as faulthandler's
            elif number == self._call and before == self._run:
                before = signal.SIG_DFL
            unused = [signal.SIG_DFL, signal.default_int_handler]
            if number == signal.SIGHUP:
                self.ignored_hup = self.ignored_hup or before is signal.SIG_IGN
            if self.roles.get(number) == RELOAD:
                unused.append(signal.SIG_IGN)  # nohup: there HUP only ever means reload
            if before in unused:
                self._previous[number] = before
                signal.signal(number, self._run)
                # Held back by who started this process, and not by the program for its sigwait().
                unblock({number} & self._started.blocked)
            elif self.roles.get(number) == RELOAD:
                foreign = True
        return foreign

    def _give_back(self, number: int, before: Any) -> None:
        # == and not "is": each look at a bound method makes a new one
        if signal.getsignal(number) == self._run:
            block({number} & self._started.blocked)
            signal.signal(number, before)

    def _run(self, number: int, frame: Optional[FrameType]) -> None:
        if self._asked and number == self._call:
            self._asked = False
            self.install()
        # Before the look: who reads the number after that sees that the handler has run.
        self._ran.add(number)
        late = self.late.get(number)
        if late is not None:  # the number was read already, so nobody will look for this run
            mine = late.take()
            self._ran.discard(number)
            if self.late.get(number) is late:
                self.late.pop(number, None)
            if not mine and number not in self.for_main:
                return  # a loop has acted on it
        self.handler(number, frame)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable at a signal, -1 when there is none."""
        return self._pipe.fileno() if self._pipe is not None else -1

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which `overdue()` may have something."""
        return min((late.due for late in list(self.late.values()) if not late.taken), default=None)

    def overdue(self, last: bool = False) -> list[int]:
        """Return the signals whose handler has not run in time. One thread at a time calls it.

        last says that no time is left.
        """
        now = time.monotonic()
        if self._pipe is not None:
            for number in set(self._pipe.clear()) & self._previous.keys() - self.for_main:
                before = self.late.get(number)
                if number in self._ran:
                    self._ran.discard(number)
                elif (before is None or before.taken) and signal.getsignal(number) == self._run:
                    # Else the program has set one of its own since, which runs.
                    self.late[number] = _Late(now + _HANDLER_TIME)
        found = []
        for number, late in list(self.late.items()):
            if late.taken:
                continue  # the handler, which runs now or is still to run, takes it away
            if number not in self._ran:
                if now < late.due and not last:
                    continue
                if late.take():
                    found.append(number)
                    continue
            self._ran.discard(number)
            self.late.pop(number, None)
        return found

    def restore(self) -> None:
        """Give back what was there, but not what the program has set since."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, before in self._previous.items():
            if number != self._call:
                self._give_back(number, before)
        self._previous = {}
        self._installed = False
        self.close_pipe()

    def before_fork(self) -> None:
        """Hold back what a child would write to this process's pipe until it lets go of that.

        A signal to the whole group, as of a terminal or of systemd, would count twice here.
        """
        if self._pipe is not None:
            # Not by `sigmask`: each fork of a handler pays for a function more.
            before = _signal.pthread_sigmask(signal.SIG_BLOCK, self._previous)
            self._forking[_thread.get_ident()] = before

    def after_fork(self) -> None:
        """Let them in again, in the parent and in the child."""
        before = self._forking.pop(_thread.get_ident(), None)
        if before is not None:
            _signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def in_handler_process(self) -> None:
        """In a forked handler of requests signals mean something else from now on.

        The handlers stay: each signal() would cost it pages of memory, and SIG_IGN would be
        inherited by a program that it starts. The pipe is to be given up as well.
        """
        self.handler = self.end_handler
        self.late.clear()

    def take_over(self, handler: Handler) -> None:
        """In a process that was forked to serve: what the parent's meant is this handler's."""
        self.handler = handler
        self._ran, self.late, self._asked = set(), {}, False
        self.for_main = set()
        self.install()

    def end_handler(self, number: int, frame: Optional[FrameType]) -> None:
        """It finishes its response; a second order to end, or to force that, ends it."""
        role = self.roles.get(number)
        if role == FORCE:
            os._exit(1)
        if role == STOP:
            signal.signal(number, signal.SIG_DFL)

    def descriptors(self) -> list[int]:
        """Return those of the pipe, which a forked child has to give up."""
        return [] if self._pipe is None else self._pipe.descriptors()

    def close_pipe(self) -> None:
        if self._pipe is not None:
            now = signal.set_wakeup_fd(-1)
            if now not in (-1, self._pipe.sender()):
                signal.set_wakeup_fd(now)
            self._pipe.close()
            self._pipe = None


def as_if_not_there(number: int, frame: Optional[FrameType]) -> None:
    """Do what the signal would have done without this package."""
    if number == signal.SIGINT:
        interrupt(number, frame)
        return
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def interrupt(number: int, frame: Optional[FrameType]) -> None:
    """In a signal handler: raise KeyboardInterrupt, as SIGINT does without this package.

    asyncio.run() cancels its task instead, from Python 3.11 on, where it finds Python's own handler
    installed, and that was not the case. So it is told in the way of that handler.
    """
    runner: Any = getattr(sys.modules.get("asyncio"), "Runner", None)
    current = frame
    while hasattr(runner, "_on_sigint") and current is not None:
        if current.f_code is runner.run.__code__ and "task" in current.f_locals:
            current.f_locals["self"]._on_sigint(number, frame, current.f_locals["task"])
            return
        current = current.f_back
    signal.default_int_handler(number, frame)
