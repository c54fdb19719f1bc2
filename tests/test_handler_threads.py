"""Handlers' threads start unwaited for, and are otherwise what socketserver's are."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from harness import TIMEOUT, environment

from endless_py.handler_threads import HandlerThread, wait_running


def held_back(monkeypatch):
    """A thread that has been started and does not run before the event is set."""
    let_go, ended = threading.Event(), []
    bootstrap = HandlerThread._bootstrap

    def late(self):
        let_go.wait(TIMEOUT)
        bootstrap(self)

    monkeypatch.setattr(HandlerThread, "_bootstrap", late)
    thread = HandlerThread(lambda: ended.append(threading.current_thread()), (), False)
    thread.start()  # returns
    return thread, let_go, ended


def test_a_thread_that_does_not_run_yet_is_alive_and_can_be_joined(monkeypatch):
    thread, let_go, ended = held_back(monkeypatch)
    assert thread.is_alive()
    assert thread in threading.enumerate()
    thread.join(0.01)
    assert thread.is_alive()
    assert not ended
    let_go.set()
    thread.join()
    assert ended == [thread]
    assert not thread.is_alive()


def test_the_end_of_a_loop_waits_until_its_threads_run(monkeypatch):
    thread, let_go, _ = held_back(monkeypatch)
    waiting = threading.Thread(target=wait_running)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    let_go.set()
    waiting.join()
    assert thread.ident is not None
    thread.join()


def test_one_that_was_never_started_says_so():
    thread = HandlerThread(print, (), True)
    assert not thread.is_alive()
    with pytest.raises(RuntimeError):
        thread.join()


SERVER = """
import socket, threading, time
import endless_py
from endless_py import GracefulMixIn, socketserver
import socketserver as standard

seen = []

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
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
while endless_py.state()["servers"][0]["active"] != 1 or len(seen) < 4:
    time.sleep(0.001)  # the last one is not accepted yet, or another has not quite ended
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
def test_they_are_socketservers(case):
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
