"""A request's head, read strictly (RFC 9112): what could be read in two ways is an error."""

from __future__ import annotations

import re

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_LINE = re.compile(rb"(" + _TOKEN + rb") ([^\x00-\x20\x7f#]+) HTTP/([0-9])\.([0-9])")
_FIELDS = re.compile(rb"(?:\r\n" + _TOKEN + rb":[^\x00-\x08\x0a-\x1f\x7f]*)*")
_BARE = re.compile(rb"(?<!\r)\n")
_LENGTH = re.compile(r"[0-9]{1,18}")
_ABSOLUTE = re.compile(r"https?://([^/?@]+)(?=[/?]|$)", re.I)
_KNOWN_NAMES = 1024  # so many names of headers are remembered; clients may invent more
_CGI = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}


class RequestError(Exception):
    """A request that is refused, and with which status."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


class Limits:
    """How large a request may be, in bytes but for `fields`, the number of header lines."""

    def __init__(
        self, line: int = 4094, fields: int = 100, field_size: int = 8190, body: int = 1 << 30
    ) -> None:
        self.line = line
        self.fields = fields
        self.field_size = field_size
        self.body = body
        # What is read before the end of a head is found.
        self.head = line + min(fields * (field_size + 2), 1 << 20) + 4


class Head:
    """What a request's head says; the values are as WSGI wants them, in Latin-1."""

    line: str
    method: str
    target: str
    modern: bool  # HTTP/1.1: it may be answered in chunks, and is kept alive unless it says no
    environ: dict[str, str]  # its header lines, by their names in a WSGI environ
    length: Optional[int]  # of the body, in bytes; None: it comes in chunks
    keeps: bool  # whether the client keeps its connection
    expects: bool  # whether it waits for 100 Continue


_names: dict[str, str] = {}  # names of headers as they come -> of variables; "": left out


def _variable(name: str) -> str:
    lower = name.lower()
    if "_" in name or lower == "proxy":
        # Another header's variable could be set with these: X_Forwarded_For, HTTP_PROXY.
        variable = ""
    else:
        variable = _CGI.get(lower) or "HTTP_" + name.upper().replace("-", "_")
    if len(_names) < _KNOWN_NAMES:
        _names[name] = variable
    return variable


def check_beginning(data: bytes, limits: Limits) -> None:
    """Raise RequestError where what has come of a head so far cannot become one."""
    end = data.find(b"\r\n")
    if (len(data) if end < 0 else end) > limits.line:
        raise RequestError("414 URI Too Long", "the request line is too long")
    if len(data) > limits.head:
        raise RequestError("431 Request Header Fields Too Large", "the headers are too large")
    if _BARE.search(data):
        raise RequestError("400 Bad Request", "a line of the request's head ends without CR")


def parse(data: bytes, limits: Limits) -> Head:
    """Return what a whole head says, given without the empty line that ends it."""
    end = data.find(b"\r\n")
    if end < 0:
        end = len(data)
    if end > limits.line:
        raise RequestError("414 URI Too Long", "the request line is too long")
    found = _LINE.fullmatch(data, 0, end)
    if found is None:
        raise RequestError("400 Bad Request", "the request line is not well-formed")
    head = Head()
    if found[3] != b"1":
        raise RequestError("505 HTTP Version Not Supported", "only HTTP/1 is spoken here")
    if _FIELDS.fullmatch(data, end) is None:
        raise RequestError("400 Bad Request", "the header lines are not well-formed")
    head.line = data[:end].decode("latin-1")
    head.method, head.target = found[1].decode("latin-1"), found[2].decode("latin-1")
    head.modern = found[4] != b"0"
    lines = data[end + 2 :].decode("latin-1").split("\r\n") if end < len(data) else []
    if len(lines) > limits.fields:
        raise RequestError("431 Request Header Fields Too Large", "there are too many headers")
    head.environ = _environ(lines, limits)
    _frame(head, limits)
    return head


def _environ(lines: list[str], limits: Limits) -> dict[str, str]:
    environ: dict[str, str] = {}
    most = limits.field_size
    for line in lines:
        if len(line) > most:
            raise RequestError("431 Request Header Fields Too Large", "a header is too large")
        name, _, value = line.partition(":")
        variable = _names.get(name)
        if variable is None:
            variable = _variable(name)
        if not variable:
            continue
        value = value.strip(" \t")
        if variable in environ:
            if variable in ("CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_HOST"):
                raise RequestError("400 Bad Request", f"the request has two {name} headers")
            value = environ[variable] + ("; " if variable == "HTTP_COOKIE" else ",") + value
        environ[variable] = value
    return environ


def _frame(head: Head, limits: Limits) -> None:
    """Find out where the request ends, and what becomes of its connection."""
    environ = head.environ
    length, coding = environ.get("CONTENT_LENGTH"), environ.get("HTTP_TRANSFER_ENCODING")
    if coding is not None:
        if length is not None:
            text = "the request has both Content-Length and Transfer-Encoding"
            raise RequestError("400 Bad Request", text)
        if not head.modern:
            raise RequestError("400 Bad Request", "Transfer-Encoding is not for HTTP/1.0")
        if coding.lower() != "chunked":
            text = "the request's Transfer-Encoding is not chunked alone"
            raise RequestError("501 Not Implemented", text)
        head.length = None
        # The application gets the chunks' content; how it came is not its affair.
        del environ["HTTP_TRANSFER_ENCODING"]
    elif length is None:
        head.length = 0
    elif _LENGTH.fullmatch(length) is None:
        raise RequestError("400 Bad Request", "the request's Content-Length is not one number")
    else:
        head.length = int(length)
        if head.length > limits.body:
            raise RequestError("413 Content Too Large", "the request's body is too large")
    if head.modern and "HTTP_HOST" not in environ:
        raise RequestError("400 Bad Request", "the request has no Host header")
    connection = environ.get("HTTP_CONNECTION")
    head.keeps = head.modern
    if connection is not None:
        options = [option.strip(" \t") for option in connection.lower().split(",")]
        head.keeps = "close" not in options and (head.modern or "keep-alive" in options)
    expect = environ.get("HTTP_EXPECT")
    head.expects = False
    if expect is not None and head.modern:
        if expect.lower() != "100-continue":
            raise RequestError("417 Expectation Failed", "only 100-continue can be expected")
        head.expects = head.length != 0


def split_target(head: Head) -> tuple[str, str]:
    """Return path and query, still quoted; what an absolute target says of the host counts."""
    target = head.target
    if target[0] != "/":
        found = _ABSOLUTE.match(target)
        if found is not None:
            head.environ["HTTP_HOST"] = found[1]
            target = target[found.end() :]
            if target[:1] != "/":
                target = "/" + target
        elif target == "*" and head.method == "OPTIONS":
            target = "/"  # a PATH_INFO begins so; RAW_URI says what was asked for
        else:
            raise RequestError("400 Bad Request", "the request's target is no path")
    path, _, query = target.partition("?")
    return path, query
