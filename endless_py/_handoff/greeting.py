"""The greeting: all that a successor needs, written into the channel before it is started.

A successor can so take over even if the incumbent is killed the moment after. The number of the
channel's descriptor is in one variable of the environment.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time

from endless_py._handoff import channel
from endless_py._handoff.channel import HEADER, MAGIC, MAX_DESCRIPTORS, Channel, Message
from endless_py._handoff.predecessor import Predecessor
from endless_py._handoff.words import is_number, is_pid
from endless_py._sockets.listener import Binding
from endless_py._support import faults
from endless_py.exceptions import ChannelClosed, ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Iterable, Optional

    Descriptors = list[tuple[dict[str, Any], int]]

VARIABLE = "ENDLESS_PY_CHANNEL"
_TIMEOUT = 10.0  # seconds in which the whole greeting must be there


# -- the incumbent's side -----------------------------------------------------


def send(
    channel: Channel,
    greeting: dict[str, Any],
    listeners: list[tuple[Binding, int]],
    files: dict[str, int],
) -> None:
    """Write it; files are other descriptors that go along, by name."""
    entries: Descriptors = [(binding.to_json(), number) for binding, number in listeners]
    entries += [({"file": name}, number) for name, number in files.items()]
    for start in range(0, max(len(entries), 1), MAX_DESCRIPTORS):
        batch = entries[start : start + MAX_DESCRIPTORS]
        channel.send(
            {
                **greeting,
                "type": "listeners",
                "pid": os.getpid(),
                "listeners": [entry for entry, _ in batch],
                "more": start + MAX_DESCRIPTORS < len(entries),
            },
            tuple(descriptor for _, descriptor in batch),
        )


def variable(descriptor: int) -> str:
    """Return the handoff variable for a process that this one starts."""
    return f"{descriptor}:{os.getpid()}"


def variable_in_place(descriptors: list[int], bridge: int, children: Iterable[int]) -> str:
    """Return the handoff variable for new code that takes this process's place.

    descriptors are the channel's and, if it is kept, that of the socket for commands; bridge is
    the pid at the channel's other end, children are those of this process that live.
    """
    return ":".join(",".join(map(str, part)) for part in (descriptors, [bridge], children))


# -- the successor's side -----------------------------------------------------


class Greeting:
    """What a successor was told: its number, its predecessor, the listeners, and the rest."""

    def __init__(self, variable: str) -> None:
        """Open the channel that the handoff variable names, and read the greeting.

        Raises ChannelError with one clear sentence when the variable is not good.
        """
        number, self.control, peer, self.children = _parse(variable)
        self.in_place = variable.count(":") > 1  # this process had the same pid before
        self.listeners: list[tuple[Binding, int]] = []
        self.files: dict[str, int] = {}
        self._descriptors: list[int] = []
        self._channel = Channel(_check_descriptor(number, peer))
        faults.at("channel received")
        try:
            body = self._read()
            faults.at("listeners received")
            self.predecessor = Predecessor(self._channel, body)
            self.generation: int = body["generation"]
            self.bridge = bool(body["bridge"])
            # nohup: a HUP from the terminal's end reloads
            self.ignores_terminal = bool(body.get("ignores_terminal"))
            # Pids of generations before the predecessor that may still matter.
            self.older = set(body.get("older", []))
            self.orphaned = bool(body.get("orphaned"))
            # The signals that the first generation was started with blocked.
            self.blocked = set(body.get("blocked", []))
            numbers = [self.generation, *self.older, *self.blocked]
            if not all(map(is_number, numbers)):
                raise ValueError("no numbers of generations")
        except (ChannelClosed, KeyError, TypeError, ValueError, IndexError) as error:
            self._give_up()
            raise ChannelError(f"the greeting is not complete ({error!r})") from error
        except ChannelError:
            self._give_up()
            raise

    def _give_up(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._channel.close()

    def _read(self) -> dict[str, Any]:
        """Take in what is there, and return the last of the greeting's messages."""
        deadline = time.monotonic() + _TIMEOUT
        while True:
            messages = self._channel.receive()
            while messages:
                try:
                    body = self._take(messages[0])
                except BaseException:
                    for message in messages:
                        message.close()
                    raise
                messages.pop(0)
                if not body["more"]:
                    self._channel.unread(messages)
                    return body
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise ChannelError("the listeners did not come")
            poll = select.poll()  # select() has no place for a high number
            poll.register(self._channel, select.POLLIN)
            poll.poll(remaining * 1000)

    def _take(self, message: Message) -> dict[str, Any]:
        body = message.body
        if body.get("type") != "listeners":
            raise ChannelError("it does not begin with the listeners")
        if None in message.descriptors:
            raise ChannelError("too many open files to receive the listeners")
        if len(body["listeners"]) != len(message.descriptors):
            raise ValueError("not one descriptor for each listener")
        for position, item in enumerate(body["listeners"]):
            name = str(item["file"]) if "file" in item else None
            if name in self.files:
                raise ValueError("one file twice")
            binding = Binding.from_json(item, len(self.listeners)) if name is None else None
            descriptor = message.take(position)
            assert descriptor is not None
            self._descriptors.append(descriptor)
            if binding is not None:
                self.listeners.append((binding, descriptor))
            elif name is not None:
                self.files[name] = descriptor
        return body


def _parse(variable: str) -> tuple[int, Optional[int], int, list[int]]:
    """Return the channel's descriptor and that of the socket for commands, if there is one, the
    pid at the channel's other end, and the children that live.
    """
    import re  # late, as only a reload needs it

    pattern = r"(\d{1,7})(?:(?:,(\d{1,7}))?:(\d{1,10})(?::((?:\d{1,10}(?:,\d{1,10})*)?))?)?"
    found = re.fullmatch(pattern, variable, re.A)
    if found is None:
        raise ChannelError(f"{variable[:40]!r} is not a descriptor's number")
    children = [int(pid) for pid in (found[4] or "").split(",") if pid]
    if not all(map(is_pid, children)):
        raise ChannelError(f"{variable[:40]!r} has a number that is not a pid")
    control = int(found[2]) if found[2] else None
    peer = int(found[3]) if found[3] else os.getppid()
    return int(found[1]), control, peer, children


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
        found = channel.peer(sock)
        # A parent that was killed in the meantime is no parent any more.
        if found and found[0] != peer and not (gone and found[1] == os.geteuid()):
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
