"""Requests and responses byte by byte, in this process."""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import re
import socket
import threading
import time
from wsgiref.validate import validator

import pytest
from harness import TIMEOUT

from endless_py._wsgi.forwarded import Trust
from endless_py._wsgi.handler import Handler, Service
from endless_py._wsgi.head import Limits
from endless_py._wsgi.server import WSGIServer

HOST = b"Host: x\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


@contextlib.contextmanager
def served(application, trust="", limits=None, **times):
    """The client's end of a connection that a handler serves in a thread."""
    service = Service(application, limits or Limits(), Trust(trust))
    for name, value in times.items():
        setattr(service, name, value)
    ours, its = socket.socketpair()
    ours.settimeout(TIMEOUT)
    with WSGIServer(("127.0.0.1", 0), Handler) as server:
        server.serve(service, "http")

        def run():
            with its:
                server.finish_request(its, ("192.0.2.7", 4711))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            with ours:
                yield ours
        finally:
            thread.join(TIMEOUT)
        assert not thread.is_alive()


def exchange(application, data, **options):
    """All that comes back for these bytes, after which the client is silent."""
    with served(application, **options) as client:
        client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        return client.makefile("rb").read()


def read_response(stream, with_body=True):
    """Status, headers and body of the next response on a kept connection."""
    status = int(stream.readline().split()[1])
    headers = {}
    for line in iter(stream.readline, b"\r\n"):
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    body = b""
    if with_body and headers.get("transfer-encoding") == "chunked":
        while size := int(stream.readline(), 16):
            body += stream.read(size)
            stream.readline()
        stream.readline()
    elif with_body and "content-length" in headers:
        body = stream.read(int(headers["content-length"]))
    return status, headers, body


def fixed(body=b"hello", status="200 OK", headers=(), calls=None):
    def application(environ, start_response):
        if calls is not None:
            calls.append(environ)
        start_response(status, list(headers))
        return [body]

    return application


def echo(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


# -- heads --------------------------------------------------------------------

REFUSED = {
    "no version": (b"GET /\r\n\r\n", 400),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a fragment": (b"GET /#a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no path": (b"GET x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a tunnel": (b"CONNECT x:1 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "lines without CR": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "one line without CR": (b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "a folded line": (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n", 400),
    "a header without a name": (b"GET / HTTP/1.1\r\n" + HOST + b": b\r\n\r\n", 400),
    "a NUL": (b"GET / HTTP/1.1\r\n" + HOST + b"A: \0\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n" * 2 + b"\r\nx", 400),
    "a signed length": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\nx", 400),
    "a list of lengths": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n\r\nx", 400),
    "length and chunks": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "chunked twice": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
        501,
    ),
    "chunks for HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "another expectation": (b"GET / HTTP/1.1\r\n" + HOST + b"Expect: tea\r\n\r\n", 417),
    "a long line": (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "a long line that does not end": (b"GET /" + b"x" * 5000, 414),
    "a large header": (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"x" * 9000 + b"\r\n\r\n", 431),
    "many headers": (b"GET / HTTP/1.1\r\n" + HOST + b"A: x\r\n" * 100 + b"\r\n", 431),
    "a large body": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999\r\n\r\n", 413),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_refused_and_its_connection_ends(name):
    data, status = REFUSED[name]
    calls = []
    answer = exchange(fixed(calls=calls), data + GET)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert not calls


def test_the_environ_is_a_valid_one():
    seen = []

    @validator
    def application(environ, start_response):
        seen.append(dict(environ))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["wsgi.input"].read(100)]

    data = (
        b"POST /a%20b/%C3%A9?q=1%202 HTTP/1.1\r\n" + HOST + b"Cookie: a=1\r\nCookie: b=2\r\n"
        b"X-A: 1\r\nX-A: 2\r\nX_Forwarded_For: 6.6.6.6\r\nProxy: evil\r\nContent-Type: t/x\r\n"
        b"Content-Length: 2\r\nConnection: close\r\n\r\nhi"
    )
    assert exchange(application, data).endswith(b"2\r\nhi\r\n0\r\n\r\n")
    (environ,) = seen
    assert environ["PATH_INFO"] == "/a b/\u00c3\u00a9"
    assert environ["QUERY_STRING"] == "q=1%202"
    assert environ["RAW_URI"] == "/a%20b/%C3%A9?q=1%202"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["HTTP_X_A"] == "1,2"
    assert environ["CONTENT_TYPE"] == "t/x"
    assert environ["REMOTE_ADDR"] == "192.0.2.7"
    assert environ["wsgi.multithread"] is True
    assert environ["wsgi.multiprocess"] is False
    assert environ["wsgi.input_terminated"] is True
    assert not {"HTTP_X_FORWARDED_FOR", "HTTP_PROXY", "HTTP_CONTENT_LENGTH"} & environ.keys()


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://other/p?q", "/p", "other"),
        (b"http://other", "/", "other"),
        (b"//a/b", "//a/b", "x"),
        (b"/http://a", "/http://a", "x"),
    ],
)
def test_targets(target, path, host):
    calls = []
    exchange(fixed(calls=calls), b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (calls[0]["PATH_INFO"], calls[0]["HTTP_HOST"]) == (path, host)


FORWARDED = b"X-Forwarded-For: 9.9.9.9, 203.0.113.5, 198.51.100.2\r\nX-Forwarded-Proto: https\r\n"


@pytest.mark.parametrize(
    ("trust", "address", "scheme"),
    [
        ("", "192.0.2.7", "http"),
        ("192.0.2.8", "192.0.2.7", "http"),
        ("192.0.2.7", "198.51.100.2", "https"),
        ("192.0.2.0/24, 198.51.100.2", "203.0.113.5", "https"),
        ("*", "9.9.9.9", "https"),
    ],
)
def test_a_proxy_is_believed_only_where_it_is_one(trust, address, scheme):
    calls = []
    exchange(fixed(calls=calls), b"GET / HTTP/1.1\r\n" + HOST + FORWARDED + b"\r\n", trust=trust)
    assert (calls[0]["REMOTE_ADDR"], calls[0]["wsgi.url_scheme"]) == (address, scheme)


# -- bodies of requests -------------------------------------------------------


def test_bodies_of_all_kinds_on_one_connection():
    with served(echo) as client:
        stream = client.makefile("rb")
        post = b"POST / HTTP/1.1\r\n" + HOST
        for _ in range(2):
            client.sendall(post + b"Content-Length: 3\r\n\r\nabc" + GET)
            assert read_response(stream)[2] == b"abc"
            assert read_response(stream)[2] == b""
            chunks = b"3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
            client.sendall(post + b"Transfer-Encoding: Chunked\r\n\r\n" + chunks)
            assert read_response(stream)[2] == b"abc0123456789"


@pytest.mark.slow
def test_a_body_that_nobody_reads_is_no_request():
    with served(fixed()) as client:
        stream = client.makefile("rb")
        for _ in range(2):
            body = b"GET /evil HTTP/1.1\r\n\r\n" * 1000
            client.sendall(
                b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body)
            )
            client.sendall(body)
            assert read_response(stream)[0] == 200
        client.sendall(GET)
        assert read_response(stream)[2] == b"hello"


def test_the_answer_to_a_large_body_that_nobody_reads_arrives():
    with served(fixed()) as client:
        size = 500_000
        client.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size)
        client.sendall(b"x" * size)
        status, headers, body = read_response(client.makefile("rb"))
        assert (status, headers["connection"], body) == (200, "close", b"hello")


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"-1\r\n", b"2\r\nabc\r\n", b"5\r\nab"])
def test_chunks_that_are_none_are_answered_with_400(chunks):
    data = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    answer = exchange(echo, data)
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_too_many_chunks_are_answered_with_413():
    data = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    answer = exchange(echo, data + b"8\r\n12345678\r\n" * 20, limits=Limits(body=100))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1 ") == 1


EXPECTS = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"


@pytest.mark.slow
def test_100_continue_is_sent_when_the_application_reads():
    with served(echo) as client:
        client.sendall(EXPECTS)
        stream = client.makefile("rb")
        assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert stream.readline() == b"\r\n"
        client.sendall(b"hi")
        status, headers, body = read_response(stream)
        assert (status, body) == (200, b"hi")
        assert "connection" not in headers


def test_100_continue_is_not_sent_when_it_does_not():
    with served(fixed(status="403 No", body=b"no")) as client:
        client.sendall(EXPECTS)
        status, headers, _ = read_response(client.makefile("rb"))
        assert (status, headers["connection"]) == (403, "close")


# -- time ---------------------------------------------------------------------


def test_a_slow_head_is_answered_with_408():
    with served(fixed(), header_timeout=0.2) as client:
        start = time.monotonic()
        client.sendall(b"GET / HTTP/1.1\r\n")
        answer = b""
        while time.monotonic() < start + 5:
            with contextlib.suppress(OSError):
                client.sendall(b"A: b\r\n")  # something all the time
            client.settimeout(0.05)
            with contextlib.suppress(socket.timeout):
                answer = client.recv(1000)
                break
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_slow_body_is_answered_with_408():
    with served(echo, body_timeout=0.2) as client:
        client.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nx")
        assert read_response(client.makefile("rb"))[0] == 408


@pytest.mark.parametrize("data", [b"", GET])
def test_a_silent_client_is_let_go_without_a_word(data):
    with served(fixed(), header_timeout=0.2, keep_alive=0.2) as client:
        client.sendall(data)
        answer = client.makefile("rb").read()
        assert answer.count(b"HTTP/1.1") == (1 if data else 0)


def test_a_client_that_takes_nothing_is_given_up():
    closed = threading.Event()

    class Endless:
        def __iter__(self):
            return self

        def __next__(self):
            return b"x" * 65536

        def close(self):
            closed.set()

    def application(environ, start_response):
        start_response("200 OK", [])
        return Endless()

    with served(application, body_timeout=0.2) as client:
        client.sendall(GET)
        assert closed.wait(TIMEOUT)


# -- responses ----------------------------------------------------------------


def test_pipelined_requests_are_answered_in_turn():
    calls = []
    answer = exchange(fixed(calls=calls), GET + b"\r\n" + GET + GET.replace(b"1.1", b"1.0"))
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == len(calls) == 3
    assert answer.count(b"Connection: close\r\n") == 1


def test_http_1_0_is_kept_alive_where_it_asks_and_the_end_is_known():
    data = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
    assert exchange(fixed(), data * 2).count(b"Connection: keep-alive\r\n") == 2

    def application(environ, start_response):
        start_response("200 OK", [])
        yield b"unknown"

    answer = exchange(application, data * 2)
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"\r\n\r\nunknown")
    assert b"chunked" not in answer


@pytest.mark.parametrize(
    ("method", "status"), [(b"HEAD", "200 OK"), (b"GET", "204 No Content"), (b"GET", "304 Same")]
)
def test_no_body_where_there_is_none(method, status):
    data = GET.replace(b"GET", method)
    answer = exchange(fixed(status=status, headers=[("Content-Length", "5")]), data * 2)
    assert b"hello" not in answer
    assert answer.count(b"HTTP/1.1 ") == 2
    assert b"chunked" not in answer
    assert (b"Content-Length" in answer) == (status != "204 No Content")


def test_lengths_are_checked(caplog):
    more = exchange(fixed(b"hello", headers=[("Content-Length", "3")]), GET * 2)
    assert more.endswith(b"\r\n\r\nhel")
    less = exchange(fixed(b"hello", headers=[("Content-Length", "9")]), GET * 2)
    assert less.endswith(b"\r\n\r\nhello")
    assert "more than the 3 bytes" in caplog.text
    assert "less than the 9" in caplog.text
    for answer in (more, less):
        assert answer.count(b"HTTP/1.1 ") == 1


BAD_STARTS = {
    "hop by hop": ("200 OK", [("Transfer-Encoding", "chunked")]),
    "a line break": ("200 OK", [("A", "b\r\nC: d")]),
    "a line break in the name": ("200 OK", [("A\r\nB", "c")]),
    "a line break in the status": ("200 OK\r\nA: b", []),
    "an interim status": ("100 Continue", []),
    "no status": ("OK", []),
    "bytes": ("200 OK", [("A", b"b")]),
    "not Latin-1": ("200 OK", [("A", "\u20ac")]),
    "two lengths": ("200 OK", [("Content-Length", "1"), ("content-length", "2")]),
    "a negative length": ("200 OK", [("Content-Length", "-1")]),
}


@pytest.mark.parametrize("name", BAD_STARTS)
def test_what_start_response_refuses(name, caplog):
    status, headers = BAD_STARTS[name]
    answer = exchange(fixed(status=status, headers=headers), GET)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "GET / HTTP/1.1: the application failed" in caplog.text


def test_an_error_is_logged_with_its_request_line_and_answered_with_500(caplog):
    def application(environ, start_response):
        raise ConnectionRefusedError("the database is gone")

    with caplog.at_level(logging.ERROR):
        answer = exchange(application, GET.replace(b"/ ", b"/some?thing "))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "GET /some?thing HTTP/1.1: the application failed" in caplog.text
    assert "the database is gone" in caplog.text


def test_an_exit_is_an_error(caplog):
    def application(environ, start_response):
        raise SystemExit("enough")

    assert exchange(application, GET).startswith(b"HTTP/1.1 500 ")
    assert "enough" in caplog.text


def test_an_error_in_the_middle_ends_the_connection_without_the_last_chunk():
    def application(environ, start_response):
        start_response("200 OK", [])
        yield b"begun"
        raise ValueError

    answer = exchange(application, GET * 2)
    assert answer.endswith(b"5\r\nbegun\r\n")


def test_exc_info_replaces_a_head_that_is_not_sent_and_raises_else():
    def application(environ, start_response):
        start_response("200 OK", [("A", "old")])
        if environ["PATH_INFO"] == "/late":
            yield b"begun"
        try:
            raise ValueError("why")
        except ValueError as error:
            start_response("503 No", [("B", "new")], (ValueError, error, error.__traceback__))
        yield b"sorry"

    answer = exchange(application, GET)
    assert answer.startswith(b"HTTP/1.1 503 No\r\nB: new\r\n")
    assert b"A: old" not in answer
    late = exchange(application, GET.replace(b"/ ", b"/late "))
    assert late.endswith(b"begun\r\n")


@pytest.mark.parametrize("calls", [0, 2])
def test_start_response_is_called_once(calls):
    def application(environ, start_response):
        for _ in range(calls):
            start_response("200 OK", [])
        return [b"x"]

    assert exchange(application, GET).startswith(b"HTTP/1.1 500 ")


def test_write_and_what_is_returned_are_one_body():
    def application(environ, start_response):
        write = start_response("200 OK", [])
        write(b"one ")
        return [b"two"]

    with served(application) as client:
        client.sendall(GET)
        assert read_response(client.makefile("rb"))[2] == b"one two"


@pytest.mark.parametrize("kind", ["whole", "head", "raises", "short", "text"])
def test_what_is_returned_is_closed_once_in_every_case(kind):
    closed = []

    class Result:
        def __iter__(self):
            yield "text" if kind == "text" else b"12345"
            if kind == "raises":
                raise ValueError

        def close(self):
            closed.append(kind)

    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "9" if kind == "short" else "5")])
        return Result()

    exchange(application, GET.replace(b"GET", b"HEAD" if kind == "head" else b"GET"))
    assert closed == [kind]


def test_an_application_may_end_the_connection():
    answer = exchange(fixed(headers=[("Connection", "close")]), GET * 2)
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"Connection: close") == 1


def test_connections_are_not_kept_where_that_is_not_wanted():
    answer = exchange(fixed(), GET * 2, keep_alive=0.0)
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"Connection: close") == 1


def files(folder):
    path = folder / "file"
    path.write_bytes(b"0123456789" * 30_000)
    with gzip.open(folder / "zipped", "wb") as file:
        file.write(b"0123456789")

    def application(environ, start_response):
        name = environ["PATH_INFO"]
        headers = []
        if name == "/memory":
            file = io.BytesIO(b"0123456789")
        elif name == "/zipped":
            file = gzip.open(folder / "zipped")  # noqa: SIM115
        else:
            file = path.open("rb")
            opened.append(file)
        if name == "/offset":
            file.seek(299_995)
        if name == "/part":
            file.read(5)
            headers = [("Content-Length", "10")]
        start_response("200 OK", headers)
        return environ["wsgi.file_wrapper"](file)

    opened = []
    return application, opened


@pytest.mark.slow
def test_files(tmp_path):
    application, opened = files(tmp_path)
    with served(application) as client:
        stream = client.makefile("rb")
        for path, body in [
            (b"/all", b"0123456789" * 30_000),
            (b"/offset", b"56789"),
            (b"/memory", b"0123456789"),
            (b"/zipped", b"0123456789"),
            (b"/part", b"5678901234"),
            (b"/all", b"0123456789" * 30_000),
        ]:
            client.sendall(GET.replace(b"/ ", path + b" "))
            assert read_response(stream)[2] == body, path
        client.sendall(GET.replace(b"GET /", b"HEAD /all"))
        assert read_response(stream, with_body=False)[1]["content-length"] == "300000"
    assert len(opened) == 5
    assert all(file.closed for file in opened)


def test_a_file_is_sent_by_the_kernel(tmp_path, monkeypatch):
    import os

    sent, sendfile = [], os.sendfile

    def counted(*arguments):
        sent.append(arguments)
        return sendfile(*arguments)

    monkeypatch.setattr(os, "sendfile", counted)
    application, _ = files(tmp_path)
    with served(application) as client:
        client.sendall(GET)
        assert len(read_response(client.makefile("rb"))[2]) == 300_000
    assert sent


# -- the access log -----------------------------------------------------------


@pytest.mark.parametrize("combined", [False, True])
def test_the_access_log(combined, tmp_path):
    from endless_py._wsgi.access_log import AccessLog

    log = AccessLog(str(tmp_path / "log"), combined)
    data = GET.replace(b"/ ", b'/"\xe9 ').replace(HOST, HOST + b'User-Agent: a "b"\r\n')
    exchange(fixed(), data + b"nonsense\r\n\r\n", access_log=log)
    one, two = (tmp_path / "log").read_text().splitlines()
    more = r' "-" "a \\"b\\""' if combined else ""
    assert re.fullmatch(
        r"192\.0\.2\.7 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
        r'"GET /\\"\\xe9 HTTP/1\.1" 200 5'
        + more.replace("\\\\", "\\\\\\\\").replace("\\\\\\\\", r"\\"),
        one,
    )
    assert '"-" 400 -' in two
