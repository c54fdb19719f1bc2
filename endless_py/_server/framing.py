"""Where a request ends, read strictly: RFC 9112, sections 2.2, 5, 6 and 7.

A connection that is kept has the next request behind this one. Who finds its beginning somewhere
else than the client, or a proxy in between, does runs what was meant as a body. So nothing is
guessed here: whatever could be read in two ways is a FramingError, after which the connection ends.
"""

from __future__ import annotations

import io
import re

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELD = _TOKEN + rb":[^\x00-\x08\x0a-\x1f\x7f]*"
_HEAD = re.compile(rb"(?:" + _FIELD + rb"\r?\n)*\r?\n")
_REQUEST_LINE = re.compile(_TOKEN + rb" [^\x00-\x20\x7f]+ HTTP/1\.[0-9]\r?\n")
# Up to 16 digits, and extensions, which nobody needs.
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
_TRAILER = re.compile(_FIELD + rb"\r\n")
_LONGEST_CHUNK_LINE = 4096
_LONGEST_TRAILERS = 65536
_LENGTH = re.compile(r"[0-9]{1,18}")
_LEFT_OVER = 65536  # bytes of an unread request body that are read for the next request's sake


class FramingError(ConnectionError):
    """It is not clear where a request ends, or the client left before its end."""


class _Recorder:
    """A stream that keeps the lines that are read from it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._readline = stream.readline
        self.lines: list[bytes] = []

    def readline(self, *arguments: Any) -> Any:
        line = self._readline(*arguments)
        self.lines.append(line)
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def parse_request(handler: Any, parse: Callable[[], bool]) -> tuple[bool, bytes]:
    """Call a BaseHTTPRequestHandler's parse_request(); return what it says, and what it has read.

    Its parser passes over what it does not understand, so the bytes have to be looked at.
    """
    stream = handler.rfile
    recorder = handler.rfile = _Recorder(stream)
    try:
        parsed = parse()
    finally:
        if handler.rfile is recorder:
            handler.rfile = stream
    return parsed, b"".join(recorder.lines)


def check_head(request_line: bytes, head: bytes) -> None:
    """Raise FramingError where a request's head is not what the grammar says.

    head is what follows the request line, with the empty line.
    """
    if _REQUEST_LINE.fullmatch(request_line) is None:
        raise FramingError("the request line is not well-formed")
    if _HEAD.fullmatch(head) is None:
        raise FramingError("the header lines are not well-formed")


def body_length(headers: Any, request_version: str) -> Optional[int]:
    """Return the length of a request's body in bytes, None where it comes in chunks.

    Raises FramingError where that is not clear.
    """
    codings = headers.get_all("Transfer-Encoding", ())
    lengths = headers.get_all("Content-Length", ())
    if codings:
        if lengths:
            raise FramingError("the request has both Content-Length and Transfer-Encoding")
        if len(codings) > 1 or codings[0].strip(" \t").lower() != "chunked":
            raise FramingError("the request's Transfer-Encoding is not chunked alone")
        if request_version < "HTTP/1.1":
            raise FramingError("Transfer-Encoding is not for HTTP/1.0")
        return None
    if not lengths:
        return 0
    length = lengths[0].strip(" \t")
    if len(lengths) > 1 or _LENGTH.fullmatch(length) is None:
        raise FramingError("the request's Content-Length is not one number")
    return int(length)


class Body(io.RawIOBase):
    """A request's body and no byte more; the next request begins behind it.

    After an error every read fails, however often the application tries.
    """

    def __init__(self, stream: Any, length: Optional[int]) -> None:
        """length is in bytes; None says that the body comes in chunks."""
        self._stream = stream
        # A program's own stream may have read() only, which waits for all that is asked for.
        self._read_some: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
        self._chunked = length is None
        self._left = length or 0  # of the body, or of the chunk
        self.at_end = length == 0
        self.failed = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.failed:
            raise FramingError("the request's body cannot be read after an error")
        if self.at_end or not len(buffer):
            return 0
        self.failed = True  # until it has succeeded
        if self._chunked and not self._left:
            self._next_chunk()
        data = b""
        if not self.at_end:
            data = self._read_some(min(len(buffer), self._left))
            if not data:
                raise FramingError("the client left in the middle of a request's body")
            buffer[: len(data)] = data
            self._left -= len(data)
            if not self._left:
                self._end_of_data()
        self.failed = False
        return len(data)

    def _end_of_data(self) -> None:
        if not self._chunked:
            self.at_end = True
        elif self._stream.readline(3) != b"\r\n":
            raise FramingError("a chunk of the request's body is not as long as it says")

    def _next_chunk(self) -> None:
        size = _CHUNK_SIZE.fullmatch(self._stream.readline(_LONGEST_CHUNK_LINE))
        if size is None:
            raise FramingError("a chunk of the request's body has no valid size")
        self._left = int(size[1], 16)
        if not self._left:
            self._read_trailers()
            self.at_end = True

    def _read_trailers(self) -> None:
        left = _LONGEST_TRAILERS
        while True:
            line = self._stream.readline(left)
            left -= len(line)
            if line == b"\r\n":
                return
            if _TRAILER.fullmatch(line) is None:
                raise FramingError("the trailers of the request's body are not well-formed")

    def skip(self) -> bool:
        """Read what the application left; whether the stream is at the next request now."""
        buffer = bytearray(8192)
        most = _LEFT_OVER
        try:
            while most > 0 and not self.at_end:
                most -= self.readinto(buffer)
        except (OSError, ValueError):  # ValueError: the application has closed it
            return False
        return self.at_end and not self.failed
