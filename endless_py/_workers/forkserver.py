"""The fork server: a process without threads or connections, from which all workers are forked.

The leader itself has both as soon as it serves, and locks that a thread holds at a fork stay held
in the child. So it forks this process before, which does nothing but fork further ones, when it is
told to, and say when one of them has ended. It has the leader's channel, and ends with it.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import time
import warnings
from contextlib import suppress

from endless_py._handoff import words
from endless_py._handoff.channel import Channel, Message
from endless_py._sockets.poller import READ, SelfPipe
from endless_py._support import faults
from endless_py._support.sigmask import block
from endless_py._support.sigmask import restore as restore_mask
from endless_py.exceptions import ChannelClosed, ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn, Optional

    Work = Callable[[int, socket.socket, set[int]], NoReturn]

_PATIENCE = 1.0  # seconds that it has to end
_LOOK = 0.002
# What ends a process that has a fault is not held back, nor what tells of the end of another.
_LET_IN = {
    int(getattr(signal, f"SIG{name}"))
    for name in ("CHLD", "SEGV", "BUS", "FPE", "ILL", "ABRT", "TRAP", "SYS")
    if hasattr(signal, f"SIG{name}")
}


class ForkServer:
    """It, as the leader sees it."""

    def __init__(
        self,
        work: Work,
        restore: Callable[[], None],
        begin: Callable[[], None],
        keep: Callable[[list[Any], Message], None] = lambda bindings, message: None,
    ) -> None:
        """Fork it. In each process that it forks, work() is called with its number, its end of
        a channel, and the signals that it is to hold back. In the fork server begin() is called
        first, restore() gives it its own standard error back, and keep() takes the listeners out
        of a message. Raises OSError when it cannot be forked.
        """
        ours, its = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # what waits there would be written by each process
                stream.flush()
        # Held back there for good, so that a signal to all of them ends none of them.
        before = block(signal.valid_signals() - _LET_IN)
        try:
            faults.at("fork server")
            with warnings.catch_warnings():
                # Of a thread of ours, which waits: those of the program are refused before.
                warnings.simplefilter("ignore", DeprecationWarning)
                self.pid = os.fork()
            if not self.pid:
                status = 1
                try:
                    ours.close()
                    begin()
                    _Run(Channel(its), work, restore, keep, before).run()
                    status = 0
                finally:
                    os._exit(status)
        except BaseException:
            ours.close()
            its.close()
            raise
        finally:
            restore_mask(before)
        its.close()
        self._channel: Optional[Channel] = Channel(ours)

    @property
    def lives(self) -> bool:
        return self._channel is not None

    def watched(self) -> dict[int, int]:
        return {} if self._channel is None else self._channel.watched()

    def deadline(self) -> Optional[float]:
        return None if self._channel is None else self._channel.retry_at

    def fork(self, number: int) -> Channel:
        """Ask for a worker; return this process's end of its channel. Raises OSError."""
        assert self._channel is not None
        ours, its = socket.socketpair()
        try:
            faults.at("fork worker")
            self._channel.send({"type": "fork", "number": number}, (its.fileno(),))
            while self._channel.sending:
                time.sleep(_LOOK)
                self._channel.flush()
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
        return Channel(ours)

    def say(self, word: str) -> None:
        if self._channel is not None:
            self._channel.send({"type": word})

    def give(self, listeners: list[tuple[dict[str, Any], int]]) -> None:
        """Have those that are forked from now on adopt these; each as Binding.to_json(), and its
        descriptor.
        """
        assert self._channel is not None
        bindings = [binding for binding, _ in listeners]
        descriptors = tuple(descriptor for _, descriptor in listeners)
        self._channel.send({"type": "listeners", "bindings": bindings}, descriptors)

    def receive(self) -> list[dict[str, Any]]:
        """Return what it said since; at its end `lives` says so."""
        if self._channel is None:
            return []
        found: list[Message] = []
        try:
            self._channel.flush()
            found = self._channel.receive()
        except (ChannelClosed, ChannelError):
            self.end()
        bodies = []
        for message in found:
            message.close()
            if words.problem(words.FROM_FORK_SERVER, message.body):
                self.end()
            else:
                bodies.append(message.body)
        return bodies

    def end(self) -> None:
        """It is needed no more: it ends with the channel."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def reap(self, wait: bool = False) -> bool:
        """Once it is to end: whether it has. With wait, kill it if it does not."""
        until = time.monotonic() + _PATIENCE
        while self.pid:
            try:
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    self.pid = 0
                elif not wait:
                    return False
                elif time.monotonic() >= until:
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
                    self.pid = 0
                else:
                    time.sleep(_LOOK)
            except OSError:  # reaped by another part of the program
                self.pid = 0
        return True

    def in_forked_child(self) -> None:
        self.end()
        self.pid = 0


class _Run:
    """It, as it sees itself."""

    def __init__(
        self,
        channel: Channel,
        work: Work,
        restore: Callable[[], None],
        keep: Callable[[list[Any], Message], None],
        blocked: set[int],
    ) -> None:
        self._channel = channel
        self._work = work
        self._restore = restore
        self._keep = keep
        self._blocked = blocked
        self._living: set[int] = set()
        self._pipe = SelfPipe()

    def run(self) -> None:
        gc.freeze()  # what is there is not looked through again, so it stays shared
        before = signal.getsignal(signal.SIGCHLD)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._pipe.sender(), warn_on_full_buffer=False)
        try:
            self._listen(before)
        finally:
            signal.set_wakeup_fd(-1)  # its end is not to be told to a pipe that goes first

    def _listen(self, before: Any) -> None:
        poll = select.poll()
        poll.register(self._pipe.fileno(), READ)
        while True:
            for descriptor, events in self._channel.watched().items():
                poll.register(descriptor, events)
            retry = self._channel.retry_at
            poll.poll(None if retry is None else max(0.0, retry - time.monotonic()) * 1000)
            self._channel.flush()
            self._pipe.clear()
            try:
                messages = self._channel.receive()
            except (ChannelClosed, ChannelError):
                return  # the leader has ended, or needs it no more
            while messages:
                message = messages.pop(0)
                if words.problem(words.TO_FORK_SERVER, message.body):
                    return
                if message.body["type"] == "fork":
                    self._fork(message, messages, before)
                elif message.body["type"] == "listeners":
                    self._keep(message.body["bindings"], message)
                else:
                    self._restore()
                message.close()
            self._reap()

    def _fork(self, message: Message, waiting: list[Message], before: Any) -> None:
        number, descriptor = message.body["number"], message.take()
        try:
            if descriptor is None:
                raise OSError("no descriptor is left for its channel")
            pid = os.fork()
        except OSError as error:
            self._channel.send({"type": "failed", "number": number, "reason": str(error)})
            if descriptor is not None:
                os.close(descriptor)
            return
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
            self._pipe.close()
            self._channel.close()
            for other in waiting:  # the ends of those that are forked next
                other.close()
            self._work(number, socket.socket(fileno=descriptor), self._blocked)
        os.close(descriptor)
        self._living.add(pid)
        self._channel.send({"type": "forked", "number": number, "pid": pid})

    def _reap(self) -> None:
        for pid in list(self._living):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended, status = pid, 0
            if ended:
                self._living.discard(pid)
                code = os.waitstatus_to_exitcode(status)
                self._channel.send({"type": "ended", "pid": pid, "status": code})
