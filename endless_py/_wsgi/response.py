"""One response: start_response() and its rules, where the body ends, and sending it."""

from __future__ import annotations

import io
import os
import re
import time
from contextlib import suppress
from email.utils import formatdate

from endless_py._wsgi.transport import Transport

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, Optional

_STATUS = re.compile(r"[2-9][0-9]{2}(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# Which a server alone can know.
_HOP_BY_HOP = {
    *("keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "trailers"),
    *("transfer-encoding", "upgrade"),
}
_KNOWN_NAMES = 1024
_BLOCK = 65536

_names: dict[str, str] = {}  # names of headers that were found good -> in lower case


class FileWrapper:
    """wsgi.file_wrapper: what it wraps is sent by the kernel where that can be."""

    def __init__(self, filelike: Any, block_size: int = 8192) -> None:
        self.filelike = filelike
        self.block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        data: bytes = self.filelike.read(self.block_size)
        if data:
            return data
        raise StopIteration

    def on_disk(self) -> Optional[tuple[int, int, int]]:
        """Return descriptor, offset and size of what is left of a plain file.

        Only of those whose bytes are the descriptor's: a gzip.GzipFile has a fileno(), too.
        """
        raw = self.filelike
        if type(raw) in (io.BufferedReader, io.BufferedRandom):
            raw = raw.raw
        if type(raw) is not io.FileIO:
            return None
        with suppress(OSError, ValueError):
            offset = self.filelike.tell()
            return raw.fileno(), offset, max(0, os.fstat(raw.fileno()).st_size - offset)
        return None


class _Clock:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._now: tuple[int, str] = 0, ""

    def line(self) -> str:
        second = int(time.time())
        now = self._now
        if now[0] != second:
            now = self._now = second, f"Date: {formatdate(second, usegmt=True)}\r\n"
        return now[1]


_clock = _Clock()


def _check_name(name: Any) -> str:
    if type(name) is not str or _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} cannot be the name of a header")
    lower = name.lower()
    if lower in _HOP_BY_HOP:
        raise ValueError(f"{name} is a hop-by-hop header, which is the server's")
    if len(_names) < _KNOWN_NAMES:
        _names[name] = lower
    return lower


class Response:
    """What an application answers to one request.

    ends() says, once the head is sent, whether the connection has to end with this response.
    """

    def __init__(self, transport: Transport, method: str, modern: bool, ends: Any) -> None:
        self.status = ""
        self.sent = 0  # bytes of the body
        self.head_sent = False
        self.closes = False
        self.complaint = ""  # what the application did wrong
        self._transport = transport
        self._is_head = method == "HEAD"
        self._modern = modern
        self._ends: Callable[[], bool] = ends
        self._lines: Optional[str] = None
        self._length: Optional[int] = None
        self._chunked = False
        self._bodiless = False
        self._has = ""  # which of Date and Server the application has given

    # -- for the application ----------------------------------------------

    def start(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        """start_response() of PEP 3333."""
        if exc_info:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._lines is not None:
            raise AssertionError("start_response() was called again, without exc_info")
        if type(status) is not str or _STATUS.fullmatch(status) is None:
            raise ValueError(f"{status!r} is not a final status such as '200 OK'")
        length, closes, has, lines = None, False, "", []
        for name, value in headers:
            lower = _names.get(name) or _check_name(name)
            if type(value) is not str or _BAD.search(value) is not None:
                raise ValueError(f"{value!r} cannot be the value of a header")
            if lower == "content-length":
                if length is not None or not (value.isascii() and value.isdigit()):
                    raise ValueError("Content-Length is one number")
                length = int(value)
            elif lower == "connection":
                # The one thing that an application may ask of the connection: that it ends.
                closes = closes or value.strip().lower() == "close"
                continue
            elif lower in ("date", "server"):
                has += lower
            lines.append(f"{name}: {value}\r\n")
        text = "".join(lines)
        text.encode("latin-1")  # UnicodeEncodeError, a ValueError, while it can be caught
        status.encode("latin-1")
        code = status[:3]
        self._bodiless = self._is_head or code in ("204", "304")
        if code == "204" and length is not None:
            text = "".join(line for line in lines if not line.lower().startswith("content-length:"))
        self.status, self._lines, self._has = status, text, has
        self._length, self.closes = length, closes
        return self.write

    def write(self, data: bytes) -> None:
        """Send a part of the body; the write() of PEP 3333."""
        if type(data) is not bytes:
            raise TypeError(f"a body is bytes, not {type(data).__name__}")
        if data:
            self._send(data)

    # -- for the server ---------------------------------------------------

    @property
    def started(self) -> bool:
        return self._lines is not None

    def send_all(self, result: Any) -> None:
        """Send what the application has returned."""
        kind = type(result)
        if kind is FileWrapper and self._transport.can_send_files() and self._send_file(result):
            return
        if kind is list or kind is tuple:
            parts = [part for part in result if part]
            if any(type(part) is not bytes for part in result):
                raise TypeError("a body is bytes")
            self._know_length(sum(map(len, parts)))
            for part in parts:
                self._send(part)
        else:
            for part in result:
                if type(part) is not bytes:
                    raise TypeError(f"a body is bytes, not {type(part).__name__}")
                if part:
                    self._send(part)
        self.finish()

    def _know_length(self, length: int) -> None:
        """The whole body is there."""
        if self._lines is None:
            raise AssertionError("the application has not called start_response()")
        if not (self.head_sent or self._bodiless) and self._length is None:
            self._length = length
            self._lines += f"Content-Length: {length}\r\n"

    def finish(self) -> None:
        """End the body; where less has come than was promised, the connection ends."""
        if not self.head_sent:
            self._know_length(0)
            self._transport.send(self._head())
        if self._bodiless:
            return
        if self._chunked:
            self._transport.send(b"0\r\n\r\n")
        elif self._length is not None and self.sent < self._length:
            self.closes = True
            self.complaint = (
                f"the application returned {self.sent} bytes, less than the {self._length} of its "
                "Content-Length; the connection is closed"
            )

    def _head(self) -> bytes:
        """Return the head; from here on it is what it is."""
        lines = self._lines
        if lines is None:
            raise AssertionError("the application has not called start_response()")
        if not self._bodiless and self._length is None:
            if self._modern:
                self._chunked = True
                lines += "Transfer-Encoding: chunked\r\n"
            else:
                self.closes = True  # nothing else tells where the body ends
        if self.closes or self._ends():
            self.closes = True
            lines += "Connection: close\r\n"
        elif not self._modern:
            lines += "Connection: keep-alive\r\n"
        if "date" not in self._has:
            lines += _clock.line()
        if "server" not in self._has:
            lines += "Server: endless_py\r\n"
        self.head_sent = True
        return f"HTTP/1.1 {self.status}\r\n{lines}\r\n".encode("latin-1")

    def _send(self, data: bytes) -> None:
        head = b"" if self.head_sent else self._head()
        if self._bodiless:
            if head:
                self._transport.send(head)
            return
        data = self._cut(data)
        if not data:
            pieces: tuple[bytes, ...] = ()
        elif self._chunked:
            pieces = b"%x\r\n" % len(data), data, b"\r\n"
        else:
            pieces = (data,)
        if head:
            pieces = (head, *pieces)
        if pieces:
            self._transport.send(*pieces)
            self.sent += len(data)

    def _cut(self, data: bytes) -> bytes:
        """Return what was promised of it: what exceeds that would be the next response."""
        if self._length is None or self.sent + len(data) <= self._length:
            return data
        self.closes = True
        self.complaint = (
            f"the application returned more than the {self._length} bytes of its Content-Length; "
            "the rest is cut off and the connection is closed"
        )
        return data[: self._length - self.sent]

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Have the kernel send a file; whether it can."""
        found = wrapper.on_disk()
        if found is None or self._lines is None:
            return False
        descriptor, offset, count = found
        if self._is_head and not self.head_sent and self._length is None:
            self._lines += f"Content-Length: {count}\r\n"
        self._know_length(count)
        if self._chunked:
            return False  # write() was called before
        head = b"" if self.head_sent else self._head()
        if head:
            self._transport.send(head)
        if not self._bodiless:
            if self._length is not None:
                count = min(count, self._length - self.sent)
            self.sent += self._transport.send_file(descriptor, offset, count)
        self.finish()
        return True
