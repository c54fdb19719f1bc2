"""A head that is parsed here is what http.server's own method makes of it, in every attribute."""

from __future__ import annotations

import functools
import http.client
import http.server
import io
import random
import socket

import pytest

import endless_py._server.http as hooks_of_handlers
from endless_py._server import head
from endless_py.http.server import BaseHTTPRequestHandler, HTTPServer

LINES = [
    *(b"GET / HTTP/1.1\r\n", b"POST /a?b=c#d HTTP/1.1\r\n", b"get /%20 HTTP/1.0\r\n"),
    *(b"GET //two HTTP/1.1\r\n", b"GET / HTTP/1.1\n", b"GET /\xa0 HTTP/1.1\r\n", b"GET /\r\n"),
    *(b"GET / HTTP/2.0\r\n", b"GET  / HTTP/1.1\r\n", b"GET /a b HTTP/1.1\r\n", b"\r\n"),
    *(b"GET / HTTP/1.10\r\n", b"OPTIONS * HTTP/1.1\r\n", b"G(T / HTTP/1.1\r\n", b"GET /"),
]
FIELDS = [
    *(b"Host: a\r\n", b"host:b\r\n", b"X-Empty:\r\n", b"X-Blank: \t \r\n", b"X: a \t\r\n"),
    *(b"Connection: close\r\n", b"connection: Keep-Alive\r\n", b"Connection: upgrade\r\n"),
    *(b"Connection:  close\r\n", b"X-Latin: \xe9\x85\xa0\r\n", b"Content-Length: 3\r\n"),
    *(b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    *(b"Content-Type: text/plain; charset=x\r\n", b"Content-Type: multipart/mixed; boundary=b\r\n"),
    *(b"Content-Type: Message/rfc822\r\n", b" folded\r\n", b"no colon\r\n", b"Sp : a\r\n"),
    *(b"X: a\rb\r\n", b"X: a\x0bb\r\n", b"X: a\n", b": no name\r\n", b"X: a:b: c\r\n"),
    *(b"Long: " + b"x" * 9000 + b"\r\n", b"From me\r\n", b"\r\n"),
]


class Asked(BaseHTTPRequestHandler):
    """A handler with a stream of its own, and without a connection."""

    def __init__(self, line: bytes, rest: bytes) -> None:
        self.raw_requestline = line
        self.rfile = io.BufferedReader(io.BytesIO(rest))
        self.wfile = io.BytesIO()
        self.client_address = ("test", 0)

    def date_time_string(self, timestamp=None):
        return "a date"  # two answers may be given in two seconds

    def log_message(self, *_):
        pass


class Modern(Asked):
    protocol_version = "HTTP/1.1"


def shown(message):
    if type(message) is dict:  # later Pythons' beginning, before a head is read
        return message
    seen = {**vars(message), "type": type(message), "defects": [*map(type, message.defects)]}
    if isinstance(message._payload, list):
        seen["_payload"] = [shown(part) for part in message._payload]
    return seen


def outcome(handler, parsed):
    """All that can be seen of a handler that has parsed a request, and what it has left."""
    seen = dict(vars(handler))
    rest, answer = seen.pop("rfile").read(), seen.pop("wfile").getvalue()
    headers = seen.pop("headers", None)
    return parsed, seen, rest, answer, headers is not None and shown(headers)


def compare(kind, line, rest):
    """Whether it was parsed here, in which case the class's own method must say the same."""
    ours, theirs = kind(line, rest), kind(line, rest)
    names = head.parse(ours)
    if names is None:  # nothing was done, and the class's own method goes on from here
        assert outcome(ours, ours.parse_request()) == outcome(theirs, theirs.parse_request())
        return False
    assert names == {name.lower() for name in ours.headers}
    assert outcome(ours, True) == outcome(theirs, theirs.parse_request())
    return True


@pytest.mark.parametrize("kind", [Asked, Modern])
def test_it_is_what_the_class_makes_of_it(kind):
    chance = random.Random(1)
    parsed = 0
    for _ in range(4000):
        fields = chance.choices(FIELDS, k=chance.choice((0, 1, 2, 3, 8)))
        rest = b"".join(fields) + chance.choice((b"\r\n", b"\r\nbody", b"\n", b""))
        parsed += compare(kind, chance.choice(LINES[:3] * 4 + LINES), rest)
    assert 200 < parsed < 3800


@pytest.mark.parametrize("count", [0, 1, 98, 99, 100, 101])
def test_as_many_fields_as_http_client_reads(count):
    assert compare(Modern, LINES[0], b"a: b\r\n" * count + b"\r\nbody") == (count < 100)


@pytest.mark.parametrize(
    "rest",
    [
        b"Host: a\r\nUser-Agent: b\r\nAccept: */*\r\n\r\n",
        b"\r\n",
        b"Host: a\r\nContent-Length: 3\r\nContent-Type: application/json\r\n\r\nabc",
        b"Cookie: a=b; c=d\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_people_send_is_parsed_here(rest):
    assert compare(Modern, LINES[0], rest)
    assert compare(Asked, LINES[0], rest)


def test_a_message_class_or_a_stream_of_the_programs_is_left_to_it():
    class Message(http.client.HTTPMessage):
        pass

    handler = Modern(LINES[0], b"\r\n")
    handler.MessageClass = Message
    assert head.parse(handler) is None
    handler = Modern(LINES[0], b"\r\n")
    handler.rfile = io.BytesIO(b"\r\n")
    assert head.parse(handler) is None


def test_only_the_standard_method_is_spared():
    standard = http.server.BaseHTTPRequestHandler.parse_request

    @functools.wraps(standard)
    def wrapped(self):
        return standard(self)

    assert head.is_standard(standard)
    assert not head.is_standard(wrapped)
    assert not head.is_standard(None)
    assert not head.is_standard(staticmethod(standard))


def serve(handler, data):
    server = HTTPServer(("127.0.0.1", 0), handler)
    client, served = socket.socketpair()
    with server, client, served:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        server.finish_request(served, ("test", 0))
        served.shutdown(socket.SHUT_WR)
        return client.makefile("rb").read()


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("way", ["override", "patch", "instance"])
def test_a_programs_own_method_is_called_for_each_request(way, monkeypatch):
    seen = []

    def parse_request(self):
        seen.append(self.raw_requestline)
        return standard(self)

    standard = http.server.BaseHTTPRequestHandler.parse_request
    kind = type("Own", (Answering,), {})
    if way == "override":
        kind.parse_request = parse_request
    elif way == "patch":
        monkeypatch.setattr(http.server.BaseHTTPRequestHandler, "parse_request", parse_request)
    else:

        def setup(self):
            Answering.setup(self)
            self.parse_request = functools.partial(parse_request, self)

        kind.setup = setup
    assert serve(kind, LINES[0] + b"\r\n" + LINES[0] + b"\r\n").count(b" 204 ") == 2
    assert seen == [LINES[0], LINES[0]]


def test_the_date_is_the_classs_own_and_made_once_a_second(monkeypatch):
    made, now = [], 1.5
    standard = http.server.BaseHTTPRequestHandler.date_time_string
    request = b"GET / HTTP/1.1\r\n\r\n"

    def email_date(value, usegmt):
        made.append(value)
        return f"date {value}"

    monkeypatch.setattr(http.server.email.utils, "formatdate", email_date)
    monkeypatch.setattr(hooks_of_handlers.time, "time", lambda: now)
    found = serve(Answering, request * 3)
    assert found.count(b"Date: date 1.5\r\n") == 3
    assert made == [1.5]

    class Own(Answering):
        def date_time_string(self, timestamp=None):
            return "my own"

    assert serve(Own, request).count(b"Date: my own\r\n") == 1

    class Turning(Answering):
        def do_GET(self):
            nonlocal now
            now += 1
            assert self.date_time_string(7) == "date 7"
            super().do_GET()

    assert serve(Turning, request * 2).count(b"Date: date ") == 2
    assert made[1:] == [7, 2.5, 7, 3.5]
    assert head.is_standard(standard)
