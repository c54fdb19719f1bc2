"""A handler is the program's own class, whatever makes it, and knows of the drain all the same."""

from __future__ import annotations

import gc
import queue
import socket
import struct
import threading
import time
from unittest.mock import Mock

import pytest
from custom_code import custom
from harness import TIMEOUT, connect, first, get

from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MADE_BY = {
    "a lambda": "lambda *args: Given('c', *args)",
    "a partial": "__import__('functools').partial(Given, 'c')",
    "a bound method": "Maker().make",
    "a callable object": "Maker()",
    "a class": "Bound",
}
GIVEN = """
class Given(Handler):
    def __init__(self, given, *args, **more):
        self.given = given
        super().__init__(*args, **more)

class Bound(Given):
    def __init__(self, *args):
        super().__init__('c', *args)

class Maker:
    def __call__(self, *args):
        return Given(self, *args)
    def make(self, *args):
        return Given(self, *args)
"""
KEEPS = """
class Session:
    user = None

class Given(Handler):
    def __init__(self, *args):
        BEFORE
        super().__init__(*args)
    def do_POST(self):
        AFTER
        self.send_response(204)
        self.end_headers()

ThreadingHTTPServer.keepalive_grace = 0.2
with ThreadingHTTPServer(("127.0.0.1", 0), Given) as server:
    server.serve_forever()
"""
BEGINS = """
class Greeting(Handler):
    def handle(self):
        self.connection.settimeout(0.2)
        self.wfile.write(b"welcome\\n")
        super().handle()
    def log_error(self, format, *args):
        print("said:", format % args, flush=True)

with ThreadingHTTPServer(("127.0.0.1", 0), Greeting) as server:
    server.serve_forever()
"""


def serve(made_by):
    return (
        GIVEN
        + f"with ThreadingHTTPServer(('127.0.0.1', 0), {made_by}) as server:\n"
        + "    server.serve_forever()\n"
    )


@pytest.mark.parametrize("made_by", first(MADE_BY, 2))
def test_a_stateless_handler_migrates_whatever_makes_it(made_by, tmp_path):
    with custom(tmp_path, serve(MADE_BY[made_by])) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        client.request("GET", "/")
        assert client.getresponse().read().startswith(b"0 ")
        address = client.sock.getsockname()
        new = program.reload(1, pid)
        program.wait_alone(new)
        client.request("GET", "/")
        response = client.getresponse()
        assert response.read().startswith(b"1 ")
        assert response.getheader("Connection") is None
        assert client.sock.getsockname() == address
        client.close()
        program.stop(new)


def test_what_cannot_migrate_is_told_whatever_makes_its_handler(tmp_path):
    code = serve("lambda *args: Given('c', *args)")
    with custom(tmp_path, "Handler.migrates = False\n" + code) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        client.request("GET", "/slow")
        response = client.getresponse()
        new = program.reload(1, pid)
        program.wait("finishing 1 requests")
        (tmp_path / "go").touch()
        assert response.read().startswith(b"0 ")
        client.request("GET", "/")
        response = client.getresponse()
        assert response.read().startswith(b"0 ")
        assert response.getheader("Connection") == "close"
        client.close()
        program.wait_alone(new)
        program.stop(new)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("self.user = None", "self.user = 'me'"),
        ("self.seen = {}", "self.seen['me'] = 1"),
        ("self.session = Session()", "self.session.user = 'me'"),
        ("pass", "self.user = 'me'"),
    ],
)
def test_what_a_handler_has_learnt_stays_with_it(before, after, tmp_path):
    with custom(tmp_path, KEEPS.replace("BEFORE", before).replace("AFTER", after)) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        client.request("POST", "/")
        client.getresponse().read()
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert client.sock.recv(1) == b""  # closed by the old one when its grace was over
        client.close()
        program.stop(new)


def test_handle_begins_before_the_client_says_anything(tmp_path):
    with custom(tmp_path, BEGINS) as program:
        pid = program.wait_serving()
        with socket.create_connection(("127.0.0.1", program.port), TIMEOUT) as client:
            assert client.makefile("rb").read() == b"welcome\n"
        program.wait("said: Request timed out: (TimeoutError|timeout)")  # the latter before 3.10
        program.stop(pid)


def test_a_time_out_is_raised_where_the_class_reads(tmp_path):
    code = BEGINS.replace(
        "    def log_error",
        "    def handle_one_request(self):\n        try:\n            self.rfile.readline()\n"
        "        except OSError as error:\n            self.close_connection = True\n"
        "            self.wfile.write(repr(error).encode())\n    def log_error",
    )
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        with socket.create_connection(("127.0.0.1", program.port), TIMEOUT) as client:
            assert b"timed out" in client.makefile("rb").read()
        program.stop(pid)


SEEN = []
ASKED = []


class Own(BaseHTTPRequestHandler):
    __slots__ = ("slot",)
    count = 0

    def do_GET(self):
        type(self).count += 1
        self.__class__.path_of_last = self.path
        self.slot = 1
        SEEN.append((type(self), self.__class__, type(self).__mro__))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Answering(Own):
    def __getattr__(self, name):
        ASKED.append(name)
        return None


@pytest.fixture
def serving():
    servers = []

    def serve(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return server

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join(TIMEOUT)
        server.server_close()


def test_the_class_is_the_programs(serving):
    server = serving(Own)
    for _ in range(3):
        get(server.server_address[1], "/x")
    assert server.RequestHandlerClass is Own
    assert Own.count == 3
    assert Own.path_of_last == "/x"
    assert [(Own, Own, Own.__mro__)] * 3 == SEEN
    assert server.RequestHandlerClass is Own
    gc.collect()
    assert Own.__subclasses__() == [Answering]


def test_a_handler_goes_with_its_connection(serving):
    server = serving(Own)
    gc.disable()
    try:
        get(server.server_address[1])
        until = time.monotonic() + TIMEOUT
        while any(isinstance(o, Own) for o in gc.get_objects()) and time.monotonic() < until:
            time.sleep(0.01)
        assert not any(isinstance(o, Own) for o in gc.get_objects())
    finally:
        gc.enable()


def test_a_class_that_answers_to_every_name_is_asked_for_nothing_of_ours(serving):
    server = serving(Answering)
    get(server.server_address[1])
    assert ASKED == []


def test_a_class_that_is_changed_meanwhile_counts_at_once(serving):
    class Changing(Own):
        protocol_version = "HTTP/1.1"

    server = serving(Changing)
    client = connect(server.server_address[1])
    client.request("GET", "/")
    client.getresponse().read()

    def end_headers(handler):
        BaseHTTPRequestHandler.send_header(handler, "Changed", "yes")
        BaseHTTPRequestHandler.end_headers(handler)

    Changing.end_headers = end_headers
    client.request("GET", "/")
    response = client.getresponse()
    response.read()
    assert response.getheader("Changed") == "yes"
    calls = queue.Queue()
    Changing.end_headers = Mock(side_effect=lambda *given: calls.put(given))  # not given self
    Changing.send_header = staticmethod(lambda *given: calls.put(given))
    client.request("GET", "/")
    assert [calls.get(timeout=TIMEOUT)[:1] for _ in range(3)] == [("Server",), ("Date",), ()]
    client.close()


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("said", [b"", b"GET / HT"])
def test_a_class_sees_a_client_that_resets_where_it_reads(serving, timeout, said):
    """What is read ahead for it raises there, too."""
    arrived, reset, seen = threading.Event(), threading.Event(), queue.Queue()

    class Careful(Own):
        def setup(self):
            super().setup()
            self.connection.settimeout(timeout)
            arrived.set()
            assert reset.wait(TIMEOUT)

        def handle_one_request(self):
            self.close_connection = True
            try:
                super().handle_one_request()
            except ConnectionResetError as error:
                seen.put(error)

    server = serving(Careful)
    client = socket.create_connection(server.server_address[:2], TIMEOUT)
    client.sendall(said)
    assert arrived.wait(TIMEOUT)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    reset.set()
    assert isinstance(seen.get(timeout=TIMEOUT), ConnectionResetError)
