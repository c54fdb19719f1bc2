"""What a leader and its workers say to each other, heard one message after the other."""

from __future__ import annotations

from endless_py._handoff import words
from endless_py._handoff.channel import Channel, Message
from endless_py._reload.base import BaseProcess
from endless_py._reload.hear import hear_each
from endless_py._support import log
from endless_py.exceptions import ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable


def hear(
    process: BaseProcess,
    channel: Channel,
    messages: list[Message],
    known: dict[str, Any],
    heard: Callable[[Message], None],
    sender: object,
) -> None:
    """Call heard() with each message; one that is not among the known words is told and ignored.

    sender is who has said them, for the log.
    """

    def hear_one(message: Message) -> None:
        wrong = words.problem(known, message.body)
        try:
            if wrong:
                raise ChannelError(wrong)
            heard(message)
        except ChannelError as error:
            template = "protocol error of %(worker)s: %(reason)s"
            process.log(log.ERROR, template, "worker_error", worker=sender, reason=error)

    hear_each(process, channel, messages, hear_one)
