"""Messages and descriptors over a Unix socket pair; nothing here knows what they mean.

A frame is a header (magic, length of the body, number of descriptors) and a JSON
object in UTF-8. Its descriptors travel with its first byte (SCM_RIGHTS). Both sizes
are bounded, and so is what is taken in at once, so that a peer that breaks the protocol
can neither fill memory nor the descriptor table.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import threading
import time
from collections import deque

from endless_py._sockets.poller import READ, WRITE
from endless_py.exceptions import ChannelClosed, ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

MAGIC = b"EPY1"
HEADER = struct.Struct("!4sIH")
MAX_BODY = 256 * 1024
MAX_DESCRIPTORS = 64
# Too many descriptors of this user's are under way, or the kernel has no memory.
_FOR_NOW = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)
_RETRY = 0.01  # seconds until it is tried again: nothing tells when that is over
_MAX_HELD = 256  # descriptors taken in by one receive(), give or take a message's


class Message:
    """One message. A descriptor that the kernel could not deliver is None in its place."""

    def __init__(self, body: dict[str, Any], descriptors: list[Optional[int]]) -> None:
        self.body = body
        self.descriptors = descriptors

    def take(self, position: int = 0) -> Optional[int]:
        """Return the descriptor at a position, from now on the caller's; None if there is none."""
        if position >= len(self.descriptors):
            return None
        descriptor, self.descriptors[position] = self.descriptors[position], None
        return descriptor

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        for position in range(len(self.descriptors)):
            descriptor = self.take(position)
            if descriptor is not None:
                os.close(descriptor)


class Channel:
    """One end. Never blocks: what cannot be sent at once waits until `flush()`.

    Any thread may send; one at a time receives. What is received is bounded by max_body (bytes)
    and max_descriptors, for each message.
    """

    def __init__(
        self,
        sock: socket.socket,
        max_body: int = MAX_BODY,
        max_descriptors: int = MAX_DESCRIPTORS,
    ) -> None:
        sock.setblocking(False)
        sock.set_inheritable(False)
        self._socket = sock
        self._max_body = max_body
        self._max_descriptors = max_descriptors
        self._lock = threading.Lock()
        self._outgoing: deque[tuple[bytes, tuple[int, ...]]] = deque()
        # The moment (time.monotonic) from which the kernel is asked again; None: it has room
        # for this once the socket is writable.
        self.retry_at: Optional[float] = None
        self._incoming = bytearray()
        self._groups: deque[list[int]] = deque()
        self._unread: list[Message] = []

    def fileno(self) -> int:
        return self._socket.fileno()

    def watched(self) -> dict[int, int]:
        """Return its descriptor, with the events that lead to `receive()` and `flush()`."""
        return {self.fileno(): READ | (WRITE if self.waits_for_room else 0)}

    @property
    def sending(self) -> bool:
        """Whether something still waits to be sent."""
        return bool(self._outgoing)

    @property
    def unsent(self) -> int:
        """How many bytes still wait to be sent."""
        with self._lock:
            return sum(len(data) for data, _ in self._outgoing)

    @property
    def waits_for_room(self) -> bool:
        """Whether the socket, once it is writable, would take more of it."""
        return self.sending and self.retry_at is None

    @property
    def partial(self) -> bool:
        """Whether the first half of a message has been received."""
        return bool(self._incoming)

    def send(self, body: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """Queue a message and send what goes. The caller keeps `descriptors` open until then."""
        import json  # late, as only a reload needs it

        data = json.dumps(body).encode()
        if len(data) > MAX_BODY or len(descriptors) > MAX_DESCRIPTORS:
            raise ChannelError("message too large")
        frame = HEADER.pack(MAGIC, len(data), len(descriptors)) + data
        with self._lock:
            self._outgoing.append((frame, descriptors))
            self._flush()

    def flush(self) -> None:
        """Send what can be sent now. A peer that is gone is noticed by `receive()`."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if self.retry_at is not None and time.monotonic() < self.retry_at:
            return
        self.retry_at = None
        while self._outgoing:
            data, descriptors = self._outgoing[0]
            rights = []
            if descriptors:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            try:
                sent = self._socket.sendmsg([data], rights, getattr(socket, "MSG_NOSIGNAL", 0))
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _FOR_NOW:
                    self.retry_at = time.monotonic() + _RETRY
                else:
                    self._outgoing.clear()
                return
            if sent == len(data):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = (data[sent:], ())

    def receive(self) -> list[Message]:
        """Return the messages that are whole by now.

        Raises ChannelClosed at the other end's end (once every message before it was
        returned) and ChannelError at a protocol error.
        """
        messages, self._unread = self._unread, []
        size = held = 0
        closed = False
        try:
            # The rest comes with the next call: what watches the socket is told of it again.
            while not closed and size <= HEADER.size + self._max_body and held < _MAX_HELD:
                data, group = self._read()
                if data is None:
                    break
                closed = not data
                size += len(data)
                held += group
                if group or len(self._incoming) > self._max_body:
                    self._parse(messages)
            self._parse(messages)
        except ChannelError:
            for message in messages:
                message.close()
            raise
        if closed and not messages:
            raise ChannelClosed
        return messages

    def unread(self, messages: list[Message]) -> None:
        """Give messages back; the next `receive()` returns them first."""
        self._unread = messages

    def _read(self) -> tuple[Optional[bytes], int]:
        """Return what came (None: nothing yet, b"": the end), and how many descriptors."""
        size = array.array("i").itemsize
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                65536,
                socket.CMSG_SPACE(MAX_DESCRIPTORS * size),
                getattr(socket, "MSG_CMSG_CLOEXEC", 0),
            )
        except (BlockingIOError, InterruptedError):
            return None, 0
        except OSError:
            return b"", 0
        group = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                group.frombytes(payload[: len(payload) - len(payload) % size])
        for descriptor in group:
            os.set_inheritable(descriptor, False)
        if group or flags & socket.MSG_CTRUNC:
            self._groups.append(list(group))
        self._incoming += data
        return data, len(group)

    def _parse(self, messages: list[Message]) -> None:
        """Append the messages that are whole by now."""
        import json

        while len(self._incoming) >= HEADER.size:
            magic, length, count = HEADER.unpack_from(self._incoming)
            if magic != MAGIC:
                raise ChannelError("not a message of this protocol")
            if length > self._max_body:
                raise ChannelError(
                    f"a message of {length} bytes; at most {self._max_body} may come"
                )
            if count > self._max_descriptors:
                raise ChannelError(
                    f"a message with {count} descriptors; at most {self._max_descriptors} may come"
                )
            end = HEADER.size + length
            if len(self._incoming) < end:
                break
            try:
                body = json.loads(self._incoming[HEADER.size : end].decode())
            except (ValueError, RecursionError) as error:
                raise ChannelError("a message that is not JSON") from error
            if not isinstance(body, dict):
                raise ChannelError("a message that is not an object")
            del self._incoming[:end]
            group: list[Optional[int]] = []
            if count:
                group = list(self._groups.popleft()) if self._groups else []
                for extra in group[count:]:
                    os.close(extra)  # type: ignore[arg-type]
                group = group[:count] + [None] * (count - len(group))
            messages.append(Message(body, group))
        # All that is left is the beginning of one message.
        if len(self._groups) > bool(self._incoming):
            raise ChannelError("descriptors that belong to no message")

    def close(self) -> None:
        """Close this end and every descriptor that came and was not taken."""
        for group in self._groups:
            for descriptor in group:
                os.close(descriptor)
        self._groups.clear()
        self._socket.close()

    def leave_open(self) -> None:
        """Let only the operating system close this end, when the process ends.

        Closed any earlier, it would tell the neighbour of an end that has not come yet.
        """
        self._socket.detach()


def peer(sock: socket.socket) -> Optional[tuple[int, int]]:
    """Return the pid and user id at the other end; None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid
