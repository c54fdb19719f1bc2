"""Headers are parsed faster, but to the same result as by the standard library."""

from __future__ import annotations

import http.client
import http.server
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endless_py import http_connections, http_headers

quick = http_headers.quick_parser(http.client)
LINES = [
    *(b"Host: 127.0.0.1:8000\r\n", b"Accept:*/*\r\n", b"Empty:\r\n", b"Blank: \t \r\n"),
    *(b"Twice: 1\r\n", b"twice:  2 \r\n", b"High: \xe9\xff\x85\r\n", b"Nul: a\0b\r\n"),
    *(b"Content-Type: multipart/form-data; boundary=x\r\n", b"Content-Type: message/rfc822\r\n"),
    *(b"Bare: lf\n", b" continued\r\n", b"\tcontinued\r\n", b": no name\r\n", b"no colon\r\n"),
    *(b"From me\r\n", b"Bad name: 1\r\n", b"Return: a\rb\r\n", b"\x0b: 1\r\n", b"Long: "),
    *(b"Feed: a\x0cb\x1cc\r\n", b"Content-Type: text/plain\r\n", b"--x\r\n"),
]


def outcome(parse, data: bytes, size: int = 8192):
    """What is said of these headers, and what is left unread."""
    file = io.BufferedReader(io.BytesIO(data), size)
    try:
        message = parse(file)
    except http.client.HTTPException as error:
        return type(error), str(error)
    return state(message), file.read()


def state(message):
    """All that a message has, in a form that can be compared."""
    payload = message._payload
    return {
        **vars(message),
        "type": type(message),
        "defects": [type(defect) for defect in message.defects],
        "_payload": [state(part) for part in payload] if isinstance(payload, list) else payload,
    }


blocks = st.lists(st.sampled_from(LINES) | st.binary(max_size=12), max_size=12).map(b"".join)


@given(blocks, st.sampled_from([b"\r\n", b"\n", b"", b"\r\n\r\n"]), st.sampled_from([16, 8192]))
def test_the_same_comes_of_any_block(block, end, size):
    data = block + end + b"body\r\n\r\n"
    assert outcome(quick, data, size) == outcome(http.client.parse_headers, data, size)


@pytest.mark.parametrize("count", [0, 1, 98, 99, 100, 101])
def test_as_many_headers_are_taken(count):
    data = b"".join(b"H%d: %d\r\n" % (n, n) for n in range(count)) + b"\r\n"
    assert outcome(quick, data) == outcome(http.client.parse_headers, data)


@pytest.mark.parametrize("length", [65000, 65527, 65528, 65529, 65530, 65536, 65537])
def test_as_long_headers_are_taken(length):
    data = b"Long: " + b"x" * length + b"\r\n\r\n"
    for size in (8192, 1 << 20):
        assert outcome(quick, data, size) == outcome(http.client.parse_headers, data, size)


def test_it_is_used_for_plain_headers_only(monkeypatch):
    monkeypatch.setattr(http.client, "parse_headers", lambda *_: pytest.fail("the standard one"))
    file = io.BufferedReader(io.BytesIO(b"Host: x\r\n\r\n"))
    assert quick(file)["host"] == "x"
    with pytest.raises(pytest.fail.Exception):
        quick(io.BufferedReader(io.BytesIO(b"no colon\r\n\r\n")))


def test_a_handler_that_parses_requests_itself_keeps_its_way():
    class Handler(http.server.BaseHTTPRequestHandler):
        def parse_request(self):
            return False

    class Plain(http.server.BaseHTTPRequestHandler):
        pass

    assert http_connections.prepare(Handler).parse_request is Handler.parse_request
    assert http_connections.prepare(Plain).parse_request is not Plain.parse_request
