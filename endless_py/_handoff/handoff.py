"""The two ends of a handoff, as mirror images.

The incumbent's end writes everything the successor needs into the channel before the
successor is started, so that a successor can take over even if the incumbent is killed
the moment after. From then on the messages are:

    successor -> incumbent   adopted INDEX   it has bound this listener
                             ready INDEX     it serves this listener (null: a new address)
                             stopping        it was told to stop; do not accept again
                             superseded      its own successor serves; do not accept again
                             taken, refused  these connections
                             heir            your channel was handed on to me, PID, GENERATION
                             return          (a descriptor) the channel on which the bridge
                                             hands everything back
    incumbent -> successor   charge          it is yours to tell the manager, and the pid file
                             reload          a HUP came after the successor was started
                             stop, hammer    so did a TERM, or an order to end at once
                             ancestor_gone   the incumbent's own predecessor has ended
                             connections     (descriptors) idle ones, to be answered
                             predecessor     (a descriptor) the channel to it, from now on yours
                             replace         to a bridge: the program has ended, hand back
                             replacing       to a bridge: the program is started anew right now

With a kept pid the successor is a bridge: it hands everything on once more, to the new image
of the process that it came from. That is the same handoff, but the channel is made first and
sent to the process, which keeps it open across the exec.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import struct
import time

from endless_py._handoff import command_line
from endless_py._handoff.channel import HEADER, MAGIC, MAX_DESCRIPTORS, Channel, Message
from endless_py._handoff.child import Child
from endless_py._sockets.listener import Binding
from endless_py._support import faults, sigmask
from endless_py.exceptions import ChannelClosed, ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Iterable, Optional

    from typing_extensions import TypeGuard

VARIABLE = "ENDLESS_PY_CHANNEL"

# A process closes its descriptors a little before it can be reaped.
_EXIT_GRACE = 1.0
_GREETING_TIMEOUT = 10.0


def is_number(value: object, least: int = 0) -> TypeGuard[int]:
    """Whether what a neighbour said is a whole number of at least that much."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 31


class Successor:
    """The incumbent's end."""

    def __init__(
        self,
        generation: int,
        greeting: dict[str, Any],
        listeners: list[tuple[Binding, int]],
        files: dict[str, int],
        bridge: bool = False,
    ) -> None:
        """files are other descriptors that go along, by name."""
        self.generation = generation
        self.bindings = [binding for binding, _ in listeners]
        self.bridge = bridge
        self.pid = 0
        self.child: Optional[Child] = None  # None: it has the kept pid, and another parent
        self.adopted: set[int] = set()
        self.ready: set[int] = set()
        self.started: Optional[float] = time.monotonic()
        self.first_ready: Optional[float] = None
        self.complete = False
        self.word_given = False
        self.reload_passed = False
        self.failure: Optional[str] = None
        mine, self._its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._carrier: Optional[Channel] = None
        self.channel = Channel(mine)
        try:
            entries = [(binding.to_json(), descriptor) for binding, descriptor in listeners]
            entries += [({"file": name}, descriptor) for name, descriptor in files.items()]
            faults.at("channel opened")
            self._greet(greeting, entries)
            faults.at("listeners sent")
        except BaseException:
            self.close()
            raise

    def start(
        self,
        command: command_line.CommandLine,
        environment: dict[str, str],
        hold: Iterable[int],
        stderr: Optional[int] = None,
    ) -> None:
        """Start its process. Raises OSError when that cannot be.

        hold are signals that wait until it has its handlers, stderr a descriptor to be its
        standard error (None: the same as ours).
        """
        environment[VARIABLE] = str(self._its.fileno())
        try:
            mask = sigmask.block(hold)
            try:
                pid = command_line.start(command, environment, self._its.fileno(), stderr)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except BaseException:
            self.close()
            raise
        self._its.close()
        self.pid = pid
        self.child = Child(self.pid, self.generation)
        faults.at("spawn")

    def become(self, predecessor: Predecessor) -> None:
        """Let the predecessor's process become it."""
        self.pid = predecessor.pid
        self._carrier = predecessor.channel
        predecessor.channel.send({"type": "return"}, (self._its.fileno(),))
        self._let_go()

    def take_end(self) -> int:
        """Return the descriptor of its end, for a process that is to become it by an exec."""
        return self._its.detach()

    def _let_go(self) -> None:
        if self._carrier is not None and not self._carrier.sending:
            self._its.close()  # its end would else never be seen
            self._carrier = None

    def close(self) -> None:
        self.channel.close()
        self._its.close()

    def _greet(self, greeting: dict[str, Any], entries: list[tuple[dict[str, Any], int]]) -> None:
        for start in range(0, max(len(entries), 1), MAX_DESCRIPTORS):
            batch = entries[start : start + MAX_DESCRIPTORS]
            self.channel.send(
                {
                    **greeting,
                    "type": "listeners",
                    "generation": self.generation,
                    "bridge": self.bridge,
                    "pid": os.getpid(),
                    "listeners": [entry for entry, _ in batch],
                    "more": start + MAX_DESCRIPTORS < len(entries),
                },
                tuple(descriptor for _, descriptor in batch),
            )

    def __str__(self) -> str:
        return f"generation {self.generation} ({'bridge, ' * self.bridge}pid {self.pid})"

    def listen(self) -> list[Message]:
        """Return what it said since; at its end or at nonsense, `failure` is set."""
        if self.failure is not None:
            return []
        self._let_go()
        try:
            self.channel.flush()
            return self.channel.receive()
        except ChannelClosed:
            self.fail("it closed the channel", kill_after=_EXIT_GRACE)
        except ChannelError as error:
            self.fail(f"it said nonsense over the channel: {error}")
        return []

    def fail(self, reason: str, kill_after: float = 0.0) -> None:
        """Give it up: close the channel, kill it unless it ends by itself in that time (s)."""
        if self.failure is not None:
            return
        self.failure = reason
        self.close()
        if self.child is not None:
            self.child.kill_after(kill_after)


class Predecessor:
    """The successor's end."""

    def __init__(
        self,
        channel: Channel,
        body: dict[str, Any],
        numbers: Optional[dict[int, int]] = None,
    ) -> None:
        """Raises KeyError or ValueError when `body` does not say enough."""
        if not is_number(body["pid"], 1) or not is_number(body["own"]):
            raise ValueError("no pid and generation")
        self.channel = channel
        self.numbers = numbers  # its number of a listener to ours; None: they are the same
        self.pid: int = body["pid"]
        self.generation: int = body["own"]
        self.nonsense: Optional[str] = None  # why it is not listened to any more
        self.ancestor = bool(body.get("ancestor"))  # it has a living predecessor itself
        self.kept = bool(body["kept"])  # its process will be replaced by new code in place
        self.waits = bool(body.get("waits"))  # for everything to be handed back

    def to_json(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "own": self.generation,
            "kept": self.kept,
            "waits": self.waits,
        }

    def __str__(self) -> str:
        return f"generation {self.generation} (pid {self.pid})"

    def say(self, word: str, **more: Any) -> None:
        self.channel.send({"type": word, **more})

    def listen(self) -> Optional[list[Message]]:
        """Return what it said since, None when it has ended."""
        try:
            self.channel.flush()
            return self.channel.receive()
        except ChannelClosed:
            return None
        except ChannelError as error:
            self.nonsense = str(error)
            return None

    @classmethod
    def handed_on(cls, message: Message) -> Predecessor:
        """Take one over from a neighbour; raises ChannelError when the message is not right."""
        numbers = message.body.get("numbers")
        descriptor = message.take()
        try:
            if not isinstance(numbers, list):
                raise TypeError("no numbers")
            pairs = {theirs: ours for theirs, ours in numbers if is_number(ours)}
            if descriptor is None:
                raise ValueError("no channel")
            sock = socket.socket(fileno=descriptor)
        except (OSError, TypeError, ValueError) as error:
            if descriptor is not None:
                os.close(descriptor)
            raise ChannelError(f"a predecessor that is none ({error})") from error
        try:
            if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
                raise ValueError("no channel")
            return cls(Channel(sock), message.body, pairs)
        except (KeyError, ValueError) as error:
            sock.close()
            raise ChannelError(f"a predecessor that is none ({error})") from error


class Inherited:
    """What the handoff variable and the greeting behind it say."""

    def __init__(
        self,
        predecessor: Predecessor,
        generation: int,
        listeners: list[tuple[Binding, int]],
        bridge: bool,
        children: list[int],
        in_place: bool,
        files: dict[str, int],
        ignores_terminal: bool,
        older: set[int],
    ) -> None:
        self.predecessor = predecessor
        self.generation = generation
        self.listeners = listeners
        self.bridge = bridge
        self.children = children  # started by what this process was before
        self.in_place = in_place  # this process had the same pid before
        self.files = files
        self.ignores_terminal = ignores_terminal  # nohup: a HUP from the terminal's end reloads
        self.older = older  # pids of generations before the predecessor that may still matter


def replacement_word(descriptor: int, bridge: int, children: Iterable[int]) -> str:
    """Return the handoff variable for new code that takes this process's place."""
    return f"{descriptor}:{bridge}:{','.join(map(str, children))}"


def _parse(word: str) -> tuple[int, int, list[int]]:
    import re  # late, as only a reload needs it

    found = re.fullmatch(r"(\d{1,7})(?::(\d{1,10}):((?:\d{1,10}(?:,\d{1,10})*)?))?", word, re.A)
    if found is None:
        raise ChannelError(f"{word[:40]!r} is not a descriptor's number")
    children = [int(pid) for pid in (found[3] or "").split(",") if pid]
    peer = int(found[2]) if found[2] else os.getppid()
    if not all(is_number(pid, 1) for pid in children):
        raise ChannelError(f"{word[:40]!r} has a number that is no pid")
    return int(found[1]), peer, children


def _check_descriptor(descriptor: int, peer: int) -> socket.socket:
    """Return the channel to that process; raises ChannelError, touching nothing, if it is none."""
    if descriptor <= 2:
        raise ChannelError(f"descriptor {descriptor} is a standard stream")
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        raise ChannelError(f"descriptor {descriptor} is not open") from None
    if not stat.S_ISSOCK(mode):
        raise ChannelError(f"descriptor {descriptor} is not a socket")
    sock = socket.socket(fileno=descriptor)
    try:
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise ChannelError(f"descriptor {descriptor} is not a Unix stream socket")
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        events = poll.poll(0)
        gone = bool(events and events[0][1] & select.POLLHUP)
        if hasattr(socket, "SO_PEERCRED"):
            size = struct.calcsize("3i")
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            pid, uid, _ = struct.unpack("3i", credentials)
            # A parent that was killed in the meantime is no parent any more.
            if pid != peer and not (gone and uid == os.geteuid()):
                raise ChannelError(f"the other end of descriptor {descriptor} is not the parent")
        try:
            start = sock.recv(HEADER.size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            start = b""
        if not start.startswith(MAGIC):
            raise ChannelError(f"descriptor {descriptor} is not a channel of endless_py")
    except BaseException:
        sock.detach()
        raise
    return sock


def receive_inheritance(word: str) -> Inherited:
    """Open the channel that the handoff variable names and receive the listeners.

    Raises ChannelError with one clear sentence when the variable is not good.
    """
    number, peer, children = _parse(word)
    sock = _check_descriptor(number, peer)
    channel = Channel(sock)
    faults.at("channel received")
    listeners: list[tuple[Binding, int]] = []
    files: dict[str, int] = {}
    descriptors: list[int] = []
    deadline = time.monotonic() + _GREETING_TIMEOUT
    early: list[Message] = []
    waiting: list[Message] = []
    try:
        while True:
            messages = channel.receive()
            waiting = list(messages)
            for position, message in enumerate(messages):
                body = message.body
                if body.get("type") != "listeners":
                    raise ChannelError("it does not begin with the listeners")
                if None in message.descriptors:
                    raise ChannelError("too many open files to receive the listeners")
                descriptors += [d for d in message.descriptors if d is not None]
                waiting.remove(message)
                if len(body["listeners"]) != len(message.descriptors):
                    raise ValueError("not one descriptor for each listener")
                for item, descriptor in zip(body["listeners"], message.descriptors):
                    assert descriptor is not None
                    if "file" in item:
                        if item["file"] in files:
                            raise ValueError("one file twice")
                        files[str(item["file"])] = descriptor
                    else:
                        binding = Binding.from_json(item, len(listeners))
                        listeners.append((binding, descriptor))
                if not body["more"]:
                    generation = body["generation"]
                    older = body.get("older", [])
                    if not is_number(generation) or not all(map(is_number, older)):
                        raise ValueError("no numbers of generations")
                    predecessor = Predecessor(channel, body)
                    bridge = bool(body["bridge"])
                    early = messages[position + 1 :]
                    channel.unread(early)
                    faults.at("listeners received")
                    return Inherited(
                        predecessor,
                        generation,
                        listeners,
                        bridge,
                        children,
                        ":" in word,
                        files,
                        bool(body.get("ignores_terminal")),
                        set(older),
                    )
            if not messages:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise ChannelError("the listeners did not come")
                poll = select.poll()  # select() has no place for a high number
                poll.register(channel, select.POLLIN)
                poll.poll(remaining * 1000)
    except (ChannelError, ChannelClosed, KeyError, TypeError, ValueError, IndexError) as error:
        for descriptor in descriptors:
            os.close(descriptor)
        for message in waiting:
            message.close()
        channel.close()
        if isinstance(error, ChannelError):
            raise
        raise ChannelError(f"a greeting that is not whole ({error!r})") from error
