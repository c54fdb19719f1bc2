"""Connections whose handler has more than HTTP knows of: they stay where that is."""

from __future__ import annotations

import socket
import time

import pytest
from custom_code import SERVE, custom
from harness import TIMEOUT, first

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
COUNTING = """
class Counting:
    def __init__(self, file):
        self._file = file
    def readline(self, *a):
        return self._file.readline(*a)
    def read(self, *a):
        return self._file.read(*a)
    def close(self):
        self._file.close()
    @property
    def closed(self):
        return self._file.closed
    MORE

class Handler(Handler):
    def setup(self):
        super().setup()
        self.rfile = Counting(self.rfile)
"""
DELEGATING = "def __getattr__(self, name): return getattr(self._file, name)"
MIGRATES = "\nHandler.migrates = True\n"


def connect(program):
    return socket.create_connection(("127.0.0.1", program.port), TIMEOUT)


def answer(client):
    """Return the head and the body of the next response."""
    data = b""
    while not data.endswith(b" end"):
        more = client.recv(65536)
        assert more, data
        data += more
    return data.decode().split("\r\n\r\n")


@pytest.mark.parametrize("more", ["", DELEGATING], ids=["opaque", "delegating"])
def test_pipelined_requests_behind_a_wrapped_rfile_are_all_answered(more, tmp_path):
    code = COUNTING.replace("MORE", more) + MIGRATES
    with custom(tmp_path, code + SERVE) as program:
        pid = program.wait_serving()
        with connect(program) as client:
            client.sendall(GET * 2 + GET.replace(b"Host", b"Connection: close\r\nHost"))
            with client.makefile("rb") as file:
                assert file.read().count(b" end") == 3
        program.stop(pid)


def test_half_a_request_behind_a_wrapped_rfile_is_not_lost_at_a_reload(tmp_path):
    with custom(tmp_path, COUNTING.replace("MORE", "") + MIGRATES + SERVE) as program:
        old = program.wait_serving()
        with connect(program) as client:
            client.sendall(GET + GET[:20])
            assert answer(client)[1].startswith("0 ")
            new = program.reload(1, old)
            program.wait("finishing ")
            client.sendall(GET[20:])
            head, body = answer(client)
            assert body.startswith("0 ")
            assert "Connection: close" in head
            assert client.recv(100) == b""
        program.wait_alone(new)
        program.stop(new)


PREAMBLE = """
            words = self.rfile.readline(107).split()
            assert words[0] == b"PROXY", words
"""
KEEPS = {
    "setup()": "def setup(self):\n            super().setup()" + PREAMBLE,
    "handle()": "def handle(self):" + PREAMBLE + "            super().handle()",
    "an attribute": """
        def do_GET(self):
            self.login = "somebody"
            super().do_GET()
    """,
    "the client's address": """
        def do_GET(self):
            self.client_address = ("192.0.2.7", 5555)
            super().do_GET()
    """,
    "a subclass's method": "pass\n    class Handler(Handler): pass",
}
SAYS = {
    "nothing": "",
    "migrates": "\n    Handler.migrates = True",
    "save_state": "\n    Handler.save_state = lambda self: b''",
}


@pytest.mark.parametrize("says", SAYS)
@pytest.mark.parametrize("keeps", first(KEEPS, 2))
def test_what_is_kept_for_a_connection_keeps_it(keeps, says, tmp_path):
    code = f"if True:\n    class Handler(Handler):\n        {KEEPS[keeps]}{SAYS[says]}\n"
    preamble = PREAMBLE in KEEPS[keeps]
    with custom(tmp_path, code + SERVE) as program:
        old = program.wait_serving()
        with connect(program) as client:
            hello = b"PROXY TCP4 192.0.2.7 127.0.0.1 5555 80\r\n" if preamble else b""
            client.sendall(hello + GET)
            assert answer(client)[1].startswith("0 ")
            new = program.reload(1, old)
            program.wait("finishing ")
            moves = bool(SAYS[says]) or keeps == "a subclass's method"
            if moves:
                program.wait_alone(new)
                client.sendall(hello + GET)
                head, body = answer(client)
                assert body.startswith("1 ")
                assert "Connection" not in head
            else:
                client.sendall(GET)
                head, body = answer(client)
                assert body.startswith("0 ")
                assert "Connection: close" in head
        program.wait_alone(new)
        program.stop(new)


GREETING = """
class Handler(Handler):
    def handle(self):
        self.wfile.write(b"hello\\r\\n")
        self.connection.settimeout(0.3)
        super().handle()
"""


def test_handle_begins_with_the_connection(tmp_path):
    with custom(tmp_path, GREETING + SERVE) as program:
        pid = program.wait_serving()
        with connect(program) as client:
            began = time.monotonic()
            assert client.recv(100) == b"hello\r\n"
            assert client.recv(100) == b""  # its own time-out
            assert time.monotonic() - began < 10
        program.stop(pid)
