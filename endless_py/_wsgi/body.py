"""wsgi.input: a request's body, bounded in size and in the time that its client may take."""

from __future__ import annotations

import io
import time

from endless_py._server import framing
from endless_py._wsgi.head import Head, Limits, RequestError
from endless_py._wsgi.transport import ClientTimeout, Transport

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

RATE = 500  # bytes; each so many give a client one second more
SKIPPED = 65536  # bytes of an unread body that are read for the next request's sake


class _Reader:
    """A stream for framing.Body: what the transport has read ahead, and what follows."""

    def __init__(self, transport: Transport, patience: float) -> None:
        self._transport = transport
        self._left = self._patience = patience
        self.before_read: Optional[Callable[[], None]] = None

    def _more(self) -> bytes:
        """Return what the client sends next, b"" at its end."""
        if self.before_read is not None:
            ask, self.before_read = self.before_read, None
            ask()
        start = time.monotonic()
        # Only the wait counts, not the time that the application takes.
        data = self._transport.receive(start + min(self._left, self._patience))
        self._left += len(data) / RATE - (time.monotonic() - start)
        return data

    def read1(self, size: int) -> bytes:
        transport = self._transport
        data = transport.data or self._more()
        transport.data = data[size:]
        return data[:size]

    read = read1

    def readline(self, most: int) -> bytes:
        """Return a line that ends, or at most so many bytes of one that does not."""
        transport = self._transport
        while True:
            data = transport.data
            end = data.find(b"\n", 0, most) + 1
            if not end and len(data) < most:
                found = self._more()
                if found:
                    transport.data = data + found
                    continue
            end = end or min(len(data), most)
            transport.data = data[end:]
            return data[:end]


class Body(framing.Body):
    """As framing.Body; remembers why it failed, so that the client can be told."""

    def __init__(self, reader: _Reader, length: Optional[int], limits: Limits) -> None:
        super().__init__(reader, length)
        self.error: Optional[RequestError] = None
        self._reader = reader
        self._room = limits.body

    def readinto(self, buffer: Any) -> int:
        try:
            count = super().readinto(buffer)
        except ClientTimeout as error:
            self.error = RequestError("408 Request Timeout", str(error))
            raise
        except OSError as error:
            self.error = self.error or RequestError("400 Bad Request", str(error))
            raise
        self._room -= count
        if self._room < 0:  # it comes in chunks: Content-Length was looked at before
            self.failed = True
            self.error = RequestError("413 Content Too Large", "the request's body is too large")
            raise framing.FramingError(str(self.error))
        return count

    @property
    def unread(self) -> int:
        """How many bytes are known to be left."""
        return 0 if self.at_end else self._left

    @property
    def awaits_go(self) -> bool:
        """Whether the client waits for 100 Continue, which nobody has asked for."""
        return self._reader.before_read is not None

    def forget_go(self) -> None:
        """From now on it is too late for 100 Continue."""
        self._reader.before_read = None


class _Input(io.BufferedReader):
    def close(self) -> None:
        """An application that closes it has read enough; the connection has not."""


def open_body(
    transport: Transport, head: Head, limits: Limits, patience: float
) -> tuple[Any, Optional[Body]]:
    """Return wsgi.input, and the body that it reads, None where there is none.

    patience is how long, in seconds, the client may be silent; it is also what it may take in
    all, with a second more for each RATE bytes.
    """
    if head.length == 0:
        return io.BytesIO(), None
    reader = _Reader(transport, patience)
    body = Body(reader, head.length, limits)
    if head.expects:
        reader.before_read = lambda: transport.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if transport.data:
            reader.before_read = None  # it has not waited
    return _Input(body), body
