"""A request's head, parsed to what http.server makes of it, in a quarter of the time.

`BaseHTTPRequestHandler.parse_request()` gives each head to email's parser, which takes longer than
all else of a small request. Where the bytes are as RFC 9112 has them there is one way only to read
them, and the outcome is known. Whatever is not goes to the class's own method, untouched.
"""

from __future__ import annotations

import io
import re
import sys

from endless_py._support.remember import remember

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Not a path that begins with two slashes, which some versions make one of.
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ((?!//)[\x21-\x7e]+) (HTTP/1\.[01])\r\n")
# http.client reads a hundred lines at most, the empty one included.
_HEAD = re.compile(rb"(?:" + _TOKEN + rb":[^\x00-\x08\x0a-\x1f\x7f]*\r\n){0,99}\r\n")
_FIELD = re.compile(r"([^:]+):[ \t]*([^\r]*)\r\n")
_LONGEST = 65536  # bytes of a line that http.client reads
FRAMING = {"content-length", "transfer-encoding"}


@remember
def is_standard(method: Any) -> bool:
    """Whether a function is from http.server's source, neither replaced nor wrapped.

    What a Python to come makes of a request is not known yet.
    """
    return sys.version_info < (3, 16) and (
        getattr(method, "__globals__", None) is vars(sys.modules["http.server"])
    )


def parse(handler: Any) -> Optional[set[str]]:
    """Do what BaseHTTPRequestHandler.parse_request() does where it succeeds.

    Returns the names of the fields, in lower case; None where it did nothing, and that method has
    to be asked. Raises what reading raises.
    """
    line = _REQUEST_LINE.fullmatch(handler.raw_requestline)
    stream = handler.rfile
    message = handler.MessageClass
    if line is None or type(stream) is not io.BufferedReader:
        return None
    if message is not sys.modules["http.client"].HTTPMessage:
        return None
    found = _HEAD.match(stream.peek(1))
    if found is None or found.end() > _LONGEST:
        return None
    fields: list[tuple[str, str]] = _FIELD.findall(found[0].decode("iso-8859-1"))
    names = {name.lower() for name, _ in fields}
    if "expect" in names or ("content-type" in names and _has_parts(fields)):
        return None  # the one is answered at once, the other looked into
    stream.read(found.end())
    handler.requestline = handler.raw_requestline[:-2].decode("iso-8859-1")
    handler.command, handler.path, handler.request_version = (
        group.decode("iso-8859-1") for group in line.groups()
    )
    handler.headers = message()
    handler.headers._headers = fields
    handler.headers.set_payload("")
    connection = handler.headers.get("Connection", "").lower() if "connection" in names else ""
    keeps = connection == "keep-alive" or (
        connection != "close" and handler.request_version == "HTTP/1.1"
    )
    handler.close_connection = not (keeps and handler.protocol_version >= "HTTP/1.1")
    return names


def _has_parts(fields: list[tuple[str, str]]) -> bool:
    """Whether email's parser would look for messages within this one."""
    kinds = [value.lower() for name, value in fields if name.lower() == "content-type"]
    return any("multipart" in kind or "message" in kind for kind in kinds)
