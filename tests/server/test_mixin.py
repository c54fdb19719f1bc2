"""What a server class and its subclasses override is called, as socketserver would."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness import TIMEOUT, environment

SERVER = """
import socket, threading, time
from endless_py import GracefulMixIn, socketserver
import socketserver as standard

started, seen = [], []

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        started.append(self.client_address)
        self.request.settimeout(20)
        self.wfile.write(self.rfile.readline())
        seen.append(threading.current_thread())
{classes}
server = Server(("127.0.0.1", 0), Handler)
loop = threading.Thread(target=server.serve_forever)
loop.start()
clients = [socket.create_connection(server.server_address, 20) for _ in range(5)]
for client in clients[:-1]:
    client.sendall(b"x\\n")
    assert client.recv(10) == b"x\\n"
    while client.recv(10):
        pass
while len(started) < 5 or len(seen) < 4:
    time.sleep(0.001)
{before}
threading.Timer(0.2, clients[-1].sendall, [b"y\\n"]).start()
server.shutdown()
loop.join()
server.server_close()  # waits for the handler of the last one
{after}
assert clients[-1].recv(10) == b"y\\n"
print("fine")
"""

CASES = {
    "what a handler sees of its thread": (
        "class Server(socketserver.ThreadingTCPServer): pass",
        """
plain = threading.Thread(target=server.process_request_thread)
words = plain.name.split()
assert all(t.name.split()[1:] == words[1:] and t.name.startswith("Thread-") for t in seen), seen
assert not any(t.daemon for t in seen)
""",
        "assert len(seen) == 5 and not any(t.is_alive() for t in seen)",
    ),
    "an overridden process_request_thread": (
        """
threads = []
class Server(socketserver.ThreadingTCPServer):
    def process_request_thread(self, request, client_address):
        threads.append(client_address)
        super().process_request_thread(request, client_address)
""",
        "",
        "assert len(threads) == 5",
    ),
    "an overridden process_request": (
        """
threads = []
class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    def process_request(self, request, client_address):
        threads.append(client_address)
        super().process_request(request, client_address)
""",
        "",
        "assert len(threads) == 5",
    ),
    "a finish_request of the class to the right": (
        """
finished = []
class Theirs(standard.ThreadingTCPServer):
    def finish_request(self, request, client_address):
        finished.append(self.RequestHandlerClass.__name__)
        super().finish_request(request, client_address)
class Server(GracefulMixIn, Theirs): pass
""",
        "",
        "assert finished == ['Handler'] * 5, finished",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_threading_server_is_socketservers(case):
    classes, before, after = CASES[case]
    code = SERVER.format(classes=classes, before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.stdout == "fine\n", done.stderr
