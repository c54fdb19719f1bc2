"""What a supervisor is told: by notifications and a pid file.

One generation is in charge at a time, and only that one speaks and owns the file: the
first from its start, a successor from when the incumbent says so or has ended.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import MutableMapping

from endless_py._reload import settings
from endless_py._reload.base import BaseProcess
from endless_py._supervisor.notify import Notifier, monotonic_usec
from endless_py._supervisor.pidfile import PID_FILE_VARIABLE, PidFile
from endless_py._support import log
from endless_py.exceptions import PidFileError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._supervisor.pidrecord import Record

_EXTENSION = 5.0  # seconds of more time that one EXTEND_TIMEOUT_USEC asks for
_RENEWAL = 2.0
_HELD = "endless_py: pid file"
_RETRY = 0.05  # seconds until a full queue of the supervisor is tried again
_WRITE_AGAIN = 1.0  # seconds until a pid file that could not be written is tried again


class Supervisor:
    """The outside, as the process sees it. Called by whoever drives, but where it says so."""

    def __init__(self, process: BaseProcess, environ: MutableMapping[str, str]) -> None:
        """Takes its variables out of `environ`, so that no child sees them."""
        self._process = process
        self.notifier = notifier = Notifier(environ)
        self._default_pid_file = environ.pop(PID_FILE_VARIABLE, None)
        self.in_charge = True
        self.was_in_charge = False  # and has handed over
        self.pid_file: Optional[PidFile] = None
        self.ours: set[int] = set()  # pids of other generations that the pid file may have
        self._claimed = False  # the pid file is written
        self._lock = threading.Lock()  # for what any thread may do with the pid file
        self._told = False
        self._write_at: Optional[float] = None
        self._ping_at: Optional[float] = None
        self._extend_at: Optional[float] = None
        self._extend_until = 0.0
        if notifier.problem:
            template = "%(reason)s; it is ignored"
            process.log(log.WARNING, template, "notify_ignored", reason=notifier.problem)

    def environment(self, bridge: bool) -> dict[str, str]:
        """Return the variables that were taken, for a successor.

        A bridge is nobody's main process: it has nothing to notify a supervisor of.
        """
        found = {} if bridge else self.notifier.environment()
        if self._default_pid_file is not None:
            found[PID_FILE_VARIABLE] = self._default_pid_file
        return found

    def know(self, server: Any) -> None:
        """Take a new server's pid_file; raises PidFileError when it could not be written."""
        path = getattr(settings.of(server), "pid_file", None) or self._default_pid_file
        if path is None:
            return
        with self._lock:  # another thread may make a server with the same one
            pid_file = PidFile(path, self._process.files.get(_HELD))
            if self.pid_file is not None and self.pid_file.path != pid_file.path:
                raise PidFileError(f"{pid_file.path}: this process has {self.pid_file.path}")
            if self.pid_file is None:
                pid_file.check(self.ours, self._why_not_its)
                pid_file.hold(self.ours)
                self.pid_file = pid_file
                self._hand_on()

    def owns(self, file: object) -> dict[str, Any]:
        """Return whether the pid file with this device and inode is this process's, and more."""
        own = self.pid_file
        if own is None:
            return {"owns": False, "pid_file": None, "since": None}
        return {"owns": own.is_owned(file), "pid_file": own.path, "since": own.since}

    def _why_not_its(self, record: Record) -> str:
        """Return why the process that a pid file names does not own it, "" if it does."""
        from endless_py._control import owner  # a file that names another process is rare

        return owner.why_not_its(record)

    def claim_pid_file(self) -> None:
        """Write it once all servers are ready; in any thread. Raises PidFileError."""
        ready = all(listener.ready for listener in self._process.listeners.all)
        with self._lock:  # who says ready as well goes on when it is written
            if ready and self.in_charge and not self._claimed and self.pid_file is not None:
                self._claimed = True
                self._write_now(self.pid_file, os.getpid())

    def _held(self) -> Optional[int]:
        return None if self.pid_file is None else self.pid_file.held

    def _hand_on(self) -> None:
        """Every generation is handed the open file: it has the file's lock by that, and may not be
        able to open it itself. Called whenever this process has another one, or none.
        """
        with self._process.files_lock:
            files = self._process.files
            held = self._held()
            former = files.get(_HELD)
            if former == held:
                return
            rest = {name: number for name, number in files.items() if name != _HELD}
            self._process.files = rest if held is None else {**rest, _HELD: held}
            if former is not None and (self.pid_file is None or former != self.pid_file.lost):
                os.close(former)

    def serves(self) -> bool:
        """Say so once all servers do; whether it was said now."""
        listeners = self._process.listeners.all
        if not self.in_charge or self._told or not listeners:
            return False
        missing = [str(listener) for listener in listeners if not listener.ready]
        if missing:
            self.notifier.send(STATUS=f"waits until {', '.join(missing)} is served")
            return False
        if not self._claimed:
            self._write(os.getpid())
        self._told = True
        where = ", ".join(map(str, listeners))
        self.notifier.send(READY=1, MAINPID=os.getpid(), STATUS=f"serves {where}")
        self._ping()
        return True

    def reloading(self) -> None:
        """A reload begins; the successor has its time to be ready."""
        if self.in_charge:
            seconds = self._process.listeners.ready_timeout()
            self.notifier.send(
                RELOADING=1,
                MONOTONIC_USEC=monotonic_usec(),
                EXTEND_TIMEOUT_USEC=_usec(seconds + _EXTENSION),
                STATUS="reloads",
            )

    def reload_failed(self, why: str) -> None:
        """This generation goes on as if nothing had happened."""
        if self.in_charge:
            self.notifier.send(READY=1, STATUS=why)

    def hand_over(self, *_: object) -> None:
        """Let the successor be in charge from now on, if this process drains and was.

        With a kept pid this one is, until it starts anew and after.
        """
        successor = self._process.successor
        if successor is None or successor.bridge or not self.in_charge:
            return
        machine = self._process.machine
        if machine.migrates or (machine.over and not machine.leaves):
            path = self._let_take(successor.generation, successor.pid)
            held = self._held()
            successor.say("in_charge", () if held is None else (held,), pid_file=path)

    def _let_take(self, generation: int, pid: int) -> Optional[str]:
        """Tell the supervisor; return the path of the pid file, which is the successor's now.

        Written here, since one that follows the file looks there when this process ends.
        """
        self.in_charge = False
        self.was_in_charge = True
        self.ours.add(pid)
        self._write(pid)
        self.notifier.send(MAINPID=pid, READY=1, STATUS=f"generation {generation} serves")
        return self.pid_file.path if self.pid_file is not None else None

    def take_charge(self, path: Optional[str], held: Optional[int] = None) -> None:
        """The incumbent has handed over, with its pid file at `path`, which `held` is."""
        self.in_charge = self._told = True
        own = self.pid_file
        if own is not None and own.path == path:
            if not own.take(held):
                self._write(os.getpid())
        else:
            self._write(os.getpid())
            if path is not None:  # the new code has another one, or none
                former = PidFile(path)
                former.take(held)
                former.remove()
                former.close()
            elif held is not None:
                os.close(held)
        self._hand_on()
        self._ping()
        if self._process.machine.stops:  # told to stop before it was told this
            self.stopping()

    def speak_for_itself(self) -> None:
        """The kept pid is lost: this process is what the pid file is to name from now on."""
        self.in_charge = True
        if not self.serves():
            self._write(os.getpid())

    def resumed(self, why: str) -> None:
        """The successor that was in charge has died; this process is again."""
        if self.was_in_charge:
            self.in_charge, self.was_in_charge = True, False
            self._write(os.getpid())
            self.notifier.send(MAINPID=os.getpid(), READY=1, STATUS=why)
            self._ping()

    def stopping(self, *_: object) -> None:
        """This process stops, and has its time to drain."""
        if self.in_charge:
            listeners, machine = self._process.listeners, self._process.machine
            longest = listeners.longest_drain()
            if machine.delays or not machine.stops:  # not yet, or where this is passed on
                longest += listeners.stop_delay()
            self._extend_until = time.monotonic() + longest
            self.notifier.send(
                STOPPING=1, STATUS="stops soon" if machine.delays else "drains and stops"
            )
            self._extend()

    def ended(self) -> None:
        """The process ends now."""
        if self.pid_file is not None:
            self.pid_file.remove()

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which `check()` has something to do."""
        times = [self._write_at if self.in_charge else None]
        if self.notifier.waits:
            times.append(time.monotonic() + _RETRY)
        elif self.notifier.enabled:
            times += [self._ping_at if self.in_charge else None, self._extend_at]
        return min((t for t in times if t is not None), default=None)

    def check(self) -> None:
        """Say what is due."""
        now = time.monotonic()
        if self.notifier.waits:
            self.notifier.flush()
        if self.in_charge and self._write_at is not None and now >= self._write_at:
            self._write(os.getpid())
        if self.in_charge and self._ping_at is not None and now >= self._ping_at:
            self._ping()
        if self._extend_at is not None and now >= self._extend_at:
            self._extend()

    @property
    def holds(self) -> bool:
        """Whether it has what a forked child must not keep."""
        return self.pid_file is not None or self.notifier.enabled

    def in_forked_child(self) -> None:
        """A forked child speaks to nobody and owns nothing."""
        self.in_charge = False
        self._lock = threading.Lock()
        # Kept open here, it would be locked for as long as the child lives.
        if self.pid_file is not None:
            self.pid_file = None
            self._hand_on()
        if self.notifier.enabled:
            self.notifier.close()

    def _ping(self) -> None:
        if self.notifier.watchdog is not None:
            self.notifier.send(WATCHDOG=1)
            self._ping_at = time.monotonic() + self.notifier.watchdog / 2

    def _extend(self) -> None:
        now = time.monotonic()
        self._extend_at = None
        if self.notifier.enabled and now < self._extend_until:
            self.notifier.send(EXTEND_TIMEOUT_USEC=_usec(_EXTENSION))
            self._extend_at = now + _RENEWAL

    def _write(self, pid: int, strict: bool = False) -> None:
        if self.pid_file is None:
            return
        failed_before, self._write_at = self._write_at is not None, None
        try:
            self._write_now(self.pid_file, pid)
        except PidFileError as error:
            if strict:
                raise
            self._write_at = time.monotonic() + _WRITE_AGAIN
            if not failed_before:
                template = "%(reason)s; serving goes on, and it is tried again"
                self._process.log(log.ERROR, template, "pid_file_not_written", reason=str(error))

    def _write_now(self, pid_file: PidFile, pid: int) -> None:
        stale = pid_file.write(pid, self.ours, self._why_not_its)
        self._hand_on()
        if stale:
            self._process.log(
                log.WARNING,
                "the pid file %(path)s was stale: %(reason)s; it is taken over",
                "pid_file_stale",
                path=pid_file.path,
                reason=stale,
            )


def _usec(seconds: float) -> int:
    return round(seconds * 1e6)
