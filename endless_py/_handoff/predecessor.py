"""The successor's end of a handoff; the mirror image is `successor`."""

from __future__ import annotations

import os
import socket

from endless_py._handoff.channel import Channel, Message
from endless_py._handoff.words import is_number, is_pid
from endless_py.exceptions import ChannelClosed, ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional


class Predecessor:
    """A generation before this one that still lives."""

    def __init__(
        self,
        channel: Channel,
        body: dict[str, Any],
        numbers: Optional[dict[int, int]] = None,
    ) -> None:
        """Raises KeyError or ValueError when `body` does not say enough."""
        if not is_pid(body["pid"]) or not is_number(body["own"]):
            raise ValueError("no pid and generation")
        self.channel = channel
        self.numbers = numbers  # its number of a listener to ours; None: they are the same
        self.pid: int = body["pid"]
        self.generation: int = body["own"]
        self.failure: Optional[str] = None  # why it is not listened to any more
        self.ancestor = bool(body.get("ancestor"))  # it has a living predecessor itself
        self.kept = bool(body["kept"])  # its process will be replaced by new code in place
        self.waits = bool(body.get("waits"))  # for everything to be handed back
        self.gave_up = False  # this process; the end of the channel is not its own

    def to_json(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "own": self.generation,
            "kept": self.kept,
            "waits": self.waits,
        }

    def __str__(self) -> str:
        return f"generation {self.generation} (pid {self.pid})"

    def say(self, word: str, **fields: Any) -> None:
        self.channel.send({"type": word, **fields})

    def receive(self) -> Optional[list[Message]]:
        """Return what it said since, None when it has ended."""
        try:
            self.channel.flush()
            return self.channel.receive()
        except ChannelClosed:
            return None
        except ChannelError as error:
            self.failure = f"protocol error on the handoff channel: {error}"
            return None


def handed_on(message: Message) -> Predecessor:
    """Take a predecessor over from a neighbour; ChannelError when the message is not right."""
    descriptor = message.take()
    if descriptor is None:
        raise ChannelError("a predecessor without a channel")
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        os.close(descriptor)
        raise ChannelError(f"a predecessor without a channel ({error})") from error
    try:
        pairs = {theirs: ours for theirs, ours in message.body["numbers"] if is_number(ours)}
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise ValueError("its channel is another kind of socket")
        return Predecessor(Channel(sock), message.body, pairs)
    except (KeyError, TypeError, ValueError) as error:
        sock.close()
        raise ChannelError(f"a predecessor that cannot be taken over ({error})") from error
