"""Where a request ends: nothing that can be read in two ways has a request after it.

Generated requests are read here and by h11; what h11 does not see as a request does not run.
"""

from __future__ import annotations

import io
import random
import re
import socket

import h11
import pytest

from endless_py._server import framing
from endless_py.http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from endless_py.wsgiref.simple_server import WSGIRequestHandler, WSGIServer

NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /first HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Modern(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def get_stderr(self):
        return io.StringIO()  # wsgiref's handler prints the application's exceptions


def converse(server, data):
    """Return all that comes back on one connection that sends this and then no more."""
    client, served = socket.socketpair()
    with client, served:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        server.finish_request(served, ("test", 0))
        served.shutdown(socket.SHUT_WR)
        return client.makefile("rb").read()


def wsgi(app, handler=Modern):
    server = WSGIServer(("127.0.0.1", 0), handler, bind_and_activate=False)
    server.server_name, server.server_port = "test", 80
    server.setup_environ()
    server.set_app(app)
    return server


def play(data, catch=False):
    """Return what the application was given in whole, and what came back."""
    seen = []

    def app(environ, start_response):
        try:
            body = environ["wsgi.input"].read()
        except OSError:
            if not catch:
                raise
            for _ in range(3):  # it cannot be had by asking again
                with pytest.raises(OSError, match="after an error"):
                    environ["wsgi.input"].read()
        else:
            seen.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], body))
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    server = wsgi(app)
    answer = converse(server, data)
    server.server_close()
    return seen, answer


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


def reference(data):
    """Return the requests that h11 finds whole; None where it misses a Host header."""
    found = []
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    connection.receive_data(b"")
    request, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                path = re.sub("^/+", "/", request.target.decode())  # as http.server does
                found.append((request.method.decode(), path, body))
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return found
                connection.start_next_cycle()
            else:
                return found
    except h11.RemoteProtocolError as error:
        # Which has nothing to do with where a request ends.
        return None if "Host" in str(error) else found


# -- by hand ------------------------------------------------------------------

CLEAR = {
    "no body": (b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    "a length": (POST + b"Content-Length: 3\r\n\r\nabc", b"abc"),
    "a length of 0": (POST + b"Content-Length: 0\r\n\r\n", b""),
    "spaces around a length": (POST + b"Content-Length: \t3 \r\n\r\nabc", b"abc"),
    "chunks": (CHUNKED + b"3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
    "CHUNKED": (POST + b"Transfer-Encoding: CHUNKED\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a"),
    "extensions": (CHUNKED + b"3;a\r\nabc\r\n1;a=b; c\r\nd\r\n0;c\r\n\r\n", b"abcd"),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\nC: d\r\n\r\n", b"abc"),
    "lines that end with LF": (b"POST /first HTTP/1.1\nHost: x\nContent-Length: 1\n\na", b"a"),
    "empty values": (POST + b"A:\r\nB: \r\nContent-Length: 1\r\n\r\na", b"a"),
    "a value in Latin-1": (POST + b"A: \xe4\x85\xa0\r\nContent-Length: 1\r\n\r\na", b"a"),
}
UNCLEAR_HEADS = {
    "no colon": POST + b"oops\r\nContent-Length: %d\r\n\r\n",
    "no name": POST + b": oops\r\nContent-Length: %d\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : %d\r\n\r\n",
    "a tab before the colon": POST + b"Content-Length\t: %d\r\n\r\n",
    "a space before a name": POST + b" Content-Length: %d\r\n\r\n",
    "a space in a name": POST + b"A B: c\r\nContent-Length: %d\r\n\r\n",
    "a folded line": POST + b"A: b\r\n c\r\nContent-Length: %d\r\n\r\n",
    "a folded length": POST + b"Content-Length:\r\n %d\r\n\r\n",
    "a bare CR": POST + b"A: b\rContent-Length: %d\r\n\r\n",
    "two bare CR": POST + b"A: b\r\rContent-Length: %d\r\n\r\n",
    "a CR before CRLF": POST + b"A: b\r\r\nContent-Length: %d\r\n\r\n",
    "a NUL": POST + b"A: b\0\r\nContent-Length: %d\r\n\r\n",
    "a vertical tab": POST + b"Content-Length: \x0b%d\r\n\r\n",
    "From": POST + b"From me\r\nContent-Length: %d\r\n\r\n",
    "two lengths": POST + b"Content-Length: %d\r\nContent-Length: 0\r\n\r\n",
    "one length twice": POST + b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n",
    "a list of lengths": POST + b"Content-Length: 0, %d\r\n\r\n",
    "an empty length": POST + b"Content-Length:\r\n\r\n",
    "a length with a sign": POST + b"Content-Length: +%d\r\n\r\n",
    "a negative length": POST + b"Content-Length: -%d\r\n\r\n",
    "a length with an underscore": POST + b"Content-Length: 1_0\r\n\r\n",
    "a hexadecimal length": POST + b"Content-Length: 0x10\r\n\r\n",
    "a length in other digits": POST + b"Content-Length: \xb2\r\n\r\n",
    "a very long length": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "length and chunks": CHUNKED[:-2] + b"Content-Length: %d\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": CHUNKED[:-2] + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked twice": CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a list of codings": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "an empty coding": POST + b"Transfer-Encoding:\r\nContent-Length: %d\r\n\r\n",
    "a coding with a parameter": POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    "a coding before its colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunks for HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0", 1) + b"0\r\n\r\n",
    "kept chunks for HTTP/1.0": b"POST /first HTTP/1.0\r\nConnection: keep-alive\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another version": b"POST /first HTTP/01.1\r\nHost: x\r\n\r\n",
    "two spaces": b"POST  /first HTTP/1.1\r\nHost: x\r\n\r\n",
}
UNCLEAR_BODIES = {
    "longer than it says": b"3\r\nabcXX\r\n0\r\n\r\n",
    "shorter than it says": b"5\r\nabc\r\n0\r\n\r\n",
    "ended by LF": b"3\r\nabc\n0\r\n\r\n",
    "ended by CR": b"3\r\nabc\r0\r\n\r\n",
    "a size ended by LF": b"3\nabc\r\n0\r\n\r\n",
    "a size ended by CR": b"3\rabc\r\n0\r\n\r\n",
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "an extension alone": b";a\r\nabc\r\n0\r\n\r\n",
    "0x3": b"0x3\r\nabc\r\n0\r\n\r\n",
    "-3": b"-3\r\nabc\r\n0\r\n\r\n",
    "+3": b"+3\r\nabc\r\n0\r\n\r\n",
    "3_0": b"3_0\r\nabc\r\n0\r\n\r\n",
    "a space after the size": b"3 \r\nabc\r\n0\r\n\r\n",
    "a space before the size": b" 3\r\nabc\r\n0\r\n\r\n",
    "a size of 2**64 + 3": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "a CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "an extension without end": b"3;" + b"a" * 5000 + b"\r\nabc\r\n0\r\n\r\n",
    "a trailer without a colon": b"0\r\noops\r\n\r\n",
    "a trailer ended by LF": b"0\r\nA: b\n\r\n",
    "trailers ended by LF": b"0\r\nA: b\r\n\n",
    "trailers without end": b"0\r\n" + b"A: bcdefgh\r\n" * 8000 + b"\r\n",
    "no end": b"3\r\nabc\r\n",
}


@pytest.mark.parametrize("name", CLEAR)
def test_what_is_clear_is_served_and_the_next_request_too(name):
    data, body = CLEAR[name]
    seen, answer = play(data + NEXT)
    assert statuses(answer) == [200, 200]
    assert [(path, found) for _, path, found in seen] == [("/first", body), ("/next", b"")]
    assert [found for _, _, found in seen] == [found for _, _, found in reference(data + NEXT)]


@pytest.mark.parametrize("name", UNCLEAR_HEADS)
def test_an_unclear_head_is_answered_once_with_400(name):
    head = UNCLEAR_HEADS[name]
    head = head.replace(b"%d", b"%d" % len(NEXT))
    seen, answer = play(head + NEXT)
    assert seen == []
    assert statuses(answer) == [400]
    assert b"\r\nConnection: close\r\n" in answer


def test_a_bare_cr_in_the_request_line():
    seen, answer = play(NEXT.replace(b"\r", b"\rA: b\r", 1) + NEXT)
    assert seen == []
    assert statuses(answer) in ([], [400])  # without a version that is known there is no head


@pytest.mark.parametrize("catch", [False, True], ids=["raises", "catches"])
@pytest.mark.parametrize("name", UNCLEAR_BODIES)
def test_an_unclear_body_is_answered_once(name, catch):
    seen, answer = play(CHUNKED + UNCLEAR_BODIES[name] + NEXT, catch)
    assert seen == []
    assert statuses(answer) == [200 if catch else 400]
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("name", UNCLEAR_BODIES)
def test_an_unclear_body_that_is_not_read_ends_the_connection(name):
    def app(environ, start_response):
        seen.append(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    seen = []
    answer = converse(wsgi(app), CHUNKED + UNCLEAR_BODIES[name] + NEXT)
    assert seen == ["/first"]
    assert statuses(answer) == [200]


def test_a_body_that_breaks_in_the_middle_of_a_response_cuts_it():
    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"begun"
        yield environ["wsgi.input"].read()

    answer = converse(wsgi(app), CHUNKED + b"3\r\nabcXX\r\n0\r\n\r\n" + NEXT)
    assert statuses(answer) == [200]
    assert answer.endswith(b"5\r\nbegun\r\n")


def test_a_request_that_a_subclass_refuses_does_not_leave_its_body():
    class Refusing(Modern):
        def parse_request(self):
            if not super().parse_request():
                return False
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False

    data = POST + b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT
    assert statuses(converse(wsgi(None, Refusing), data)) == [401]
    assert statuses(converse(wsgi(None, Refusing), NEXT + NEXT)) == [401, 401]


def test_a_stream_without_read1_is_read_for_what_it_has():
    class Plain:
        def __init__(self, data):
            self.read = io.BytesIO(data).read
            self.readline = self.read.__self__.readline

    body = framing.Body(Plain(b"3\r\nabc\r\n0\r\n\r\nnext"), None)
    assert body.read() == b"abc"
    assert body.at_end


# -- against h11 --------------------------------------------------------------

NAMES = [b"Content-Length", b"Transfer-Encoding", b"content-length", b"A", b"Trailer"]
VALUES = [b"0", b"3", b"5", b"31", b"chunked", b"identity", b"gzip, chunked", b"3, 3", b"+3", b""]
COLONS = [b": "] * 12 + [b":", b":\t", b" :", b"\t: ", b"", b":\x0b", b": \0"]
ENDS = [b"\r\n"] * 16 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\n\r\n"]
SIZES = [b"3"] * 8 + [
    b"0",
    b"03",
    b"3;a=b",
    b"3 ;a",
    b" 3",
    b"3 ",
    b"4",
    b"2",
    b"0x3",
    b"-3",
    b"3\r",
]


def generate(seed):
    """Return requests that are more or less right, then one that asks for /next."""
    choose = random.Random(seed)
    data = b""
    for number in range(choose.choice([1, 1, 2, 3])):
        line = b"POST /%d HTTP/1.%d" % (number, choose.random() < 0.95)
        data += line + choose.choice(ENDS) + b"Host: x\r\n"
        kind = choose.randrange(4)
        if kind == 1:
            data += b"Content-Length: 3" + choose.choice(ENDS)
        elif kind == 2:
            data += b"Transfer-Encoding: chunked" + choose.choice(ENDS)
        for _ in range(choose.choice([0, 0, 1, 2])):
            value = choose.choice(VALUES)
            data += choose.choice(NAMES) + choose.choice(COLONS) + value + choose.choice(ENDS)
        data += choose.choice(ENDS)
        if kind == 1:
            data += b"abc"
        elif kind == 2:
            for _ in range(choose.randrange(3)):
                data += choose.choice(SIZES) + choose.choice(ENDS) + b"abc" + choose.choice(ENDS)
            data += b"0" + choose.choice(ENDS)
            if choose.random() < 0.2:
                data += b"A" + choose.choice(COLONS) + b"b" + choose.choice(ENDS)
            data += choose.choice(ENDS)
    if choose.random() < 0.2 and data:  # something lost, doubled or changed
        at = choose.randrange(len(data))
        byte = choose.choice([b"", data[at : at + 1] * 2, b"\r", b"\n", b" ", b"\0", b":", b"0"])
        data = data[:at] + byte + data[at + 1 :]
    return data + NEXT


@pytest.mark.parametrize("block", range(10))
def test_what_runs_is_what_h11_sees(block):
    whole = 0
    for seed in range(block * 200, block * 200 + 200):
        data = generate(seed)
        seen, answer = play(data)
        expected = reference(data)
        if expected is None:
            continue
        assert seen == expected[: len(seen)], (seed, data)
        found = statuses(answer)
        assert found[: len(seen)] == [200] * len(seen), (seed, data)
        assert found[len(seen) :] in ([], [400], [414], [431], [505]), (seed, data)
        whole += seen == expected and bool(seen)
    assert whole > 20  # it is not that nothing is ever served


# -- other handlers that keep connections -------------------------------------


class Counting(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    paths: list[str]

    def do_GET(self):
        self.paths.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_):
        pass


def serve(handler, data):
    server = HTTPServer(("127.0.0.1", 0), handler, bind_and_activate=False)
    return converse(server, data)


@pytest.mark.parametrize(
    "name", [n for n in UNCLEAR_HEADS if "length" not in n and "coding" not in n]
)
def test_a_handler_of_the_programs_own_answers_an_unclear_head_and_ends(name):
    class Handler(Counting):
        paths: list[str] = []  # noqa: RUF012

    head = UNCLEAR_HEADS[name].replace(b"%d", b"%d" % len(NEXT))
    answer = serve(Handler, head + NEXT)
    assert "/next" not in Handler.paths
    assert len(statuses(answer)) <= 1


def test_a_handler_of_the_programs_own_cannot_keep_an_unclear_connection():
    class Handler(Counting):
        paths: list[str] = []  # noqa: RUF012

        def end_headers(self):
            self.send_header("Connection", "keep-alive")
            super().end_headers()

    answer = serve(Handler, POST + b"oops\r\nContent-Length: 31\r\n\r\n" + NEXT)
    assert Handler.paths == ["/first"]
    assert statuses(answer) == [200]


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_the_file_servers_methods_leave_no_body_behind(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "next"):
        (tmp_path / name).touch()

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

    with_body = POST.replace(b"POST", method) + b"Content-Length: 31\r\n\r\n" + NEXT
    answer = serve(Handler, NEXT + with_body)
    assert statuses(answer) == [200, 200]
    assert b"Connection: close" in answer


def test_further_arguments_of_send_header_go_through():
    said = []

    class Newer(Counting):  # as of 3.15
        paths: list[str] = []  # noqa: RUF012

        def send_header(self, keyword, value, *more, **keywords):
            said.append((keyword, more, keywords))
            super().send_header(keyword, value)

        def do_GET(self):
            self.send_response(200)
            self.send_header("A", "b", "c", replace=True)
            self.end_headers()

    serve(Newer, NEXT)
    assert ("A", ("c",), {"replace": True}) in said
