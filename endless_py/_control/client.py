"""Asking a running server: the other side of `socket`."""

from __future__ import annotations

import math
import os
import re
import select
import signal
import socket
import sys
import time
from contextlib import suppress

from endless_py._control.socket import folder_pattern, private_folders
from endless_py._control.speaker import Speaker
from endless_py._control.words import problem
from endless_py._handoff.channel import Channel, peer
from endless_py._sockets.poller import LONGEST
from endless_py._supervisor.pidrecord import is_zombie
from endless_py._support.descriptors import keep_socket_off_standard_streams
from endless_py.exceptions import ChannelClosed, ChannelError, EndlessError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from endless_py._handoff.channel import Message

_INTERRUPT_AFTER = 0.2  # seconds without an answer after which a busy process is interrupted
_RETRY = 0.02
_TICK = 1.0  # seconds
_MOST = 100  # processes of one chain of generations
_READINGS = 5  # of the table of sockets, until a process is found in it


class Failed(EndlessError):
    """What was asked for cannot be done; the message is for the operator."""


class Unanswered(Failed):
    """The process has ended, or does not answer any more; its successor may."""


class TimedOut(EndlessError):
    """The deadline has passed."""


class Deadline:
    """The moment until which a command waits."""

    def __init__(self, seconds: Optional[float], tick: Optional[Callable[[], None]] = None) -> None:
        """tick() is called once a second as long as something is waited for."""
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._tick = tick
        self._ticks_at = time.monotonic() + _TICK

    def until_tick(self) -> Optional[float]:
        """Return in how many seconds `tick()` has something to do; None: never."""
        return None if self._tick is None else max(0.0, self._ticks_at - time.monotonic())

    def tick(self) -> None:
        """Somebody waits: call what is to be called then."""
        if self._tick is not None and time.monotonic() >= self._ticks_at:
            self._tick()
            self._ticks_at = time.monotonic() + _TICK

    def remaining(self) -> Optional[float]:
        """Return the seconds left, None for no limit; raises TimedOut when there are none."""
        if self._ends is None:
            return None
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimedOut
        return left

    def pause(self) -> None:
        """Wait a little before something is tried again."""
        left = self.remaining()
        self.tick()
        time.sleep(_RETRY if left is None else min(_RETRY, left))


class Client:
    """A conversation with one process, from the side that asks."""

    def __init__(
        self, pid: int, sock: socket.socket, deadline: Deadline, descriptors: int = 0
    ) -> None:
        """descriptors is how many an answer may bring."""
        self.pid = pid
        found = peer(sock)
        self.speaker = Speaker(pid, None if found is None else found[1])
        self._heard: list[Message] = []
        self._channel = Channel(sock, max_descriptors=descriptors)
        self._deadline = deadline
        self._interrupted = False  # the process was sent a signal, so that it looks

    def ask(self, command: str, **more: Any) -> None:
        """Send a request; more are its arguments."""
        self._channel.send({"command": command, **more})

    def next(self) -> Optional[dict[str, Any]]:
        """Return the next answer, None when the process has ended (or has nothing to add)."""
        message = self.next_message()
        return None if message is None else message.body

    def next_message(self) -> Optional[Message]:
        """Return the next answer with its descriptors, which are the caller's."""
        self._interrupted = False
        self._deadline.remaining()  # however much it says
        while not self._heard:
            self._channel.flush()
            try:
                self._heard = self._channel.receive()
            except ChannelClosed:
                return None
            except ChannelError as error:
                raise Failed(f"process {self.pid}: protocol error: {error}") from error
            if not self._heard:
                self._wait()
        answer = self._heard.pop(0)
        wrong = problem(answer.body)
        if wrong:
            answer.close()
            raise Failed(f"process {self.pid}: protocol error: {wrong}")
        if answer.body["event"] == "error":
            raise Failed(f"process {self.pid}: {answer.body['reason']}")
        self.speaker.translate(answer.body)
        return answer

    def _wait(self) -> None:
        """Wait until something can be received or sent; raises TimedOut at the deadline."""
        times = [self._deadline.remaining(), self._deadline.until_tick()]
        if not self._interrupted:
            times.append(_INTERRUPT_AFTER)
        if self._channel.retry_at is not None:
            times.append(max(0.0, self._channel.retry_at - time.monotonic()))
        wait = min((seconds for seconds in times if seconds is not None), default=None)
        poll = select.poll()
        for descriptor, events in self._channel.watched().items():
            poll.register(descriptor, events)
        if poll.poll(None if wait is None else math.ceil(min(wait, LONGEST) * 1000)):
            return
        self._deadline.tick()
        if not self._interrupted and wait == _INTERRUPT_AFTER:
            self._interrupted = True
            with suppress(OSError):
                os.kill(self.pid, signal.SIGURG)

    def wait_end(self) -> int:
        """Wait until the process has ended; return how many requests it has cut meanwhile."""
        cut = 0
        while True:
            answer = self.next()
            if answer is None:
                return cut
            cut += int(answer.get("requests", 0))

    def close(self) -> None:
        for message in self._heard:
            message.close()
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def addresses(pid: int) -> list[str]:
    """Return where the process may listen."""
    if not sys.platform.startswith("linux"):
        uid = os.geteuid() or None  # root may ask everybody's
        found = [os.path.join(folder, f"{pid}.sock") for folder in private_folders(uid)]
        return [path for path in found if os.path.exists(path)]
    # As the process sees itself and its files, which may be a container's.
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        inside = re.search(r"^NSpid:.*?(\d+)$", file.read(), re.M)
    name = rf"{folder_pattern()}/{inside[1] if inside else pid}\.sock"
    paths: list[str] = []
    for _ in range(_READINGS):
        paths = re.findall(rf" (/(?:.*/)?{name})$", _sockets(pid), re.M)
        if paths:
            break
    return [f"/proc/{pid}/root{path}" for path in dict.fromkeys(paths)]


def _sockets(pid: int) -> str:
    """Return the table of Unix sockets as that process sees it.

    The kernel gives it in pieces: one may be missing if others come and go meanwhile.
    """
    with open(f"/proc/{pid}/net/unix", encoding="utf-8", errors="replace") as file:
        return file.read()


def is_alive(pid: int) -> bool:
    """Whether there is such a process; raises Failed when it is another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError as error:
        raise Failed(
            f"process {pid} belongs to another user; ask as that user or as root"
        ) from error
    return not is_zombie(pid)


def try_connect(pid: int, deadline: Deadline, descriptors: int = 0) -> Optional[Client]:
    """As connect(), but None when the process cannot be asked, for whatever reason."""
    try:
        places = addresses(pid)
    except OSError:
        return None
    for address in places:
        sock = keep_socket_off_standard_streams(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            sock.setblocking(False)
            while True:
                try:
                    sock.connect(address)
                    break
                except BlockingIOError:  # many ask at once: its queue is full just now
                    deadline.pause()
            found = peer(sock)
            if found is None or found[0] == pid:  # else another process has this name
                return Client(pid, sock, deadline, descriptors)
        except OSError:
            pass
        except TimedOut:
            sock.close()
            raise
        sock.close()
    return None


def connect(pid: int, deadline: Deadline, descriptors: int = 0) -> Client:
    """Raises Failed with one clear line when the process cannot be asked."""
    if not is_alive(pid):
        raise Unanswered(f"there is no process {pid}")
    client = try_connect(pid, deadline, descriptors)
    if client is None:
        raise Unanswered(
            f"process {pid} does not serve with endless_py (or does not serve yet){_elsewhere(pid)}"
        )
    return client


def _elsewhere(pid: int) -> str:
    """Return what to try with a process of a container; nothing for any other."""
    with suppress(OSError):
        for kind in ("pid", "net", "mnt"):
            if os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"):
                return "; it seems to be in a container: ask inside that one, or as root"
    return ""


def follow(pid: int, deadline: Deadline, told_by: Optional[Speaker] = None) -> Client:
    """Connect to a process that may not serve yet; told_by is who has named it.

    Raises Failed when that one may not speak for it.
    """
    while True:
        try:
            client = connect(pid, deadline)
            break
        except Failed:
            if not is_alive(pid):
                raise
        deadline.pause()
    _believe(told_by, client)
    return client


def _believe(told_by: Optional[Speaker], client: Client) -> None:
    """Close a conversation with a process that was named by one that may not speak for it."""
    if told_by is not None and not told_by.speaks_for(client.speaker):
        client.close()
        raise Failed(
            f"process {told_by.pid} names process {client.pid}, which is another user's; "
            "that one was not asked"
        )


def state_of(
    pid: int, deadline: Deadline, told_by: Optional[Speaker] = None, verbose: bool = False
) -> tuple[dict[str, Any], Speaker]:
    """Return what `endless_py.state()` does in that process, and who it is that says so.

    told_by is who has named it; Failed when that one may not speak for it.
    """
    with connect(pid, deadline) as client:
        _believe(told_by, client)
        client.ask("status", verbose=verbose)
        answer = client.next()
    if answer is None:
        raise Unanswered(f"process {pid} ended before it answered")
    if answer.pop("event") != "status":
        raise Failed(f"process {pid}: protocol error: an answer to something else")
    return {**answer, "pid": pid}, client.speaker


def chain(pid: int, deadline: Deadline, verbose: bool = False) -> list[dict[str, Any]]:
    """Return the states of this process and of every generation it is linked to, oldest first."""
    state, speaker = state_of(pid, deadline, None, verbose)
    found = {pid: state}
    ask = [(state, speaker)]
    while ask:
        state, speaker = ask.pop()
        for neighbour in [*state["predecessors"], state["successor"]]:
            named = 0 if neighbour is None else neighbour["pid"]
            if named and named not in found and len(found) < _MOST:
                with suppress(EndlessError):  # one that starts, or has just ended
                    ask.append(state_of(named, deadline, speaker, verbose))
                    found[named] = ask[-1][0]
    return sorted(found.values(), key=lambda state: (state["generation"], state["bridge"]))
