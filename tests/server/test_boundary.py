"""What a boundary has looked at is still there for the handler."""

from __future__ import annotations

import socket
import struct

from custom_code import custom
from harness import TIMEOUT, connect, get

RESET = """
class Waiting(Handler):
    def do_GET(self):
        super().do_GET()
        while self.path == "/wait" and not (folder / "go").exists():
            time.sleep(0.01)

class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        print("handler ended with", sys.exc_info()[0].__name__, flush=True)

with Server(("127.0.0.1", 0), Waiting) as server:
    server.serve_forever()
"""

LATE = """
import select, types

class Late:
    \"\"\"As in a thread that gets its turn long after its wait is over.\"\"\"

    def __init__(self):
        self.poller = select.poll()
        self.register = self.poller.register

    def poll(self, wait=None):
        ready = self.poller.poll(wait)
        if not ready and wait:
            print("its grace is over", flush=True)
            while not (folder / "go").exists():
                time.sleep(0.01)
        return ready

endless_py._server.idle.select = types.SimpleNamespace(poll=Late, POLLIN=select.POLLIN)
Handler.migrates = False
ThreadingHTTPServer.keepalive_grace = 0.1
with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""

SNIFFING = """
class Sniffing(Handler):
    def handle(self):
        print("sniffed", self.connection.recv(3, socket.MSG_PEEK), flush=True)
        super().handle()

with ThreadingHTTPServer(("127.0.0.1", 0), Sniffing) as server:
    server.serve_forever()
"""


def test_a_reset_is_seen_where_the_handler_reads(tmp_path):
    with custom(tmp_path, RESET) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        client.request("GET", "/wait")
        response = client.getresponse()
        assert response.read().endswith(b" end")
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # a reset, which has come before the handler asks for the next request
        (tmp_path / "go").touch()
        program.wait("handler ended with ConnectionResetError")
        assert get(program.port).endswith(" end")
        program.stop(pid)


def test_a_request_that_comes_as_the_grace_ends_is_answered(tmp_path):
    with custom(tmp_path, LATE) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        client.request("GET", "/")
        assert client.getresponse().read().endswith(b" end")
        new = program.reload(1, pid)
        program.wait("its grace is over")
        client.request("GET", "/")
        (tmp_path / "go").touch()
        response = client.getresponse()
        assert response.read().startswith(b"0 ")
        assert response.getheader("Connection") == "close"
        client.close()
        program.wait_alone(new)
        program.stop(new)


def test_a_handler_that_looks_at_the_socket_itself_finds_everything_there(tmp_path):
    with custom(tmp_path, SNIFFING) as program:
        pid = program.wait_serving()
        assert get(program.port).endswith(" end")
        program.wait("sniffed b'GET'")
        program.stop(pid)


def test_requests_sent_in_one_go_are_all_answered(tmp_path):
    with custom(tmp_path, RESET) as program:
        pid = program.wait_serving()
        with socket.create_connection(("127.0.0.1", program.port), TIMEOUT) as client:
            one = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
            last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            client.sendall(one + one[:9])
            client.sendall(one[9:] + last)
            with client.makefile("rb") as file:
                assert file.read().count(b" end") == 3
        program.stop(pid)
