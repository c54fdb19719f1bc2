"""Threads that serve one connection after the other, where a server allows it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import pytest
from custom_code import custom
from harness import TIMEOUT, get, reloads_under_load

from endless_py._server import threads as handler_threads

CODE = """
import contextvars

local, context = threading.local(), contextvars.ContextVar("context", default=0)


class Server(ThreadingHTTPServer):
    {settings}


class Seen(Handler):
    def do_GET(self):
        if not self.path.startswith("/seen"):
            return super().do_GET()
        local.count = getattr(local, "count", 0) + 1
        context.set(context.get() + 1)
        body = f"{{local.count}} {{context.get()}} {{threading.active_count()}} end".encode()
        if self.path == "/seen/raise":
            raise RuntimeError("a handler's own")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


with Server(("127.0.0.1", 0), Seen) as server:
    {serve}
print("closed;", threading.active_count() - 1, "threads are left", flush=True)
"""
SERVE = "server.serve_forever()"


@pytest.fixture
def start(tmp_path):
    """Return a running program with these class attributes."""

    def write(settings, serve=SERVE):
        return custom(tmp_path, CODE.format(settings=settings, serve=serve))

    return write


def seen(port, rounds):
    """Ask on a connection each; the first threads are not idle yet when the next client comes."""
    return [tuple(map(int, get(port, "/seen").split()[:3])) for _ in range(rounds)]


def test_a_thread_serves_again_in_a_new_context(start):
    with start("reuse_threads = True") as program:
        pid = program.wait_serving()
        answers = seen(program.port, 30)
        assert max(count for count, _, _ in answers) > 5
        assert {context for _, context, _ in answers} == {1}
        assert max(threads for _, _, threads in answers) < 10
        program.stop(pid)


def test_without_it_each_connection_has_a_thread_of_its_own(start):
    with start("pass") as program:
        pid = program.wait_serving()
        assert {count for count, _, _ in seen(program.port, 30)} == {1}
        program.stop(pid)


def test_a_thread_outlives_a_handler_that_raises(start):
    with start("reuse_threads = True") as program:
        pid = program.wait_serving()
        for _ in range(5):
            with pytest.raises(ConnectionError):
                get(program.port, "/seen/raise")
        assert max(count for count, _, _ in seen(program.port, 5)) > 1
        program.stop(pid)
        assert program.text.count("RuntimeError: a handler's own") == 5


@pytest.mark.parametrize(
    "more", ["daemon_threads = True", "daemon_threads = False", "max_handlers = 3"]
)
def test_reloads_lose_nothing_and_old_processes_end(more, start):
    with start(f"reuse_threads = True; {more}") as program:
        # Kept connections hold a handler each, and three of the load's would be all there are.
        reloads_under_load(program, 5, keep_alive="max" not in more)


@pytest.mark.parametrize("daemon", [True, False])
def test_idle_threads_do_not_delay_the_end(daemon, start):
    with start(f"reuse_threads, daemon_threads = True, {daemon}") as program:
        pid = program.wait_serving()
        seen(program.port, 5)
        os.kill(pid, signal.SIGTERM)
        program.wait_alone(None, handler_threads.PATIENCE / 2)
        # server_close() waits for none of those that are daemons, and idle ones are about to end.
        program.wait("closed; " if daemon else "closed; 0 threads are left")


def test_a_server_that_serves_once_more_reuses_threads_again(start):
    serve = """
    for _ in range(2):
        loop = threading.Thread(target=server.serve_forever)
        loop.start()
        clients = [socket.create_connection(server.server_address, 20) for _ in range(3)]
        for client in clients:
            client.sendall(b"GET /seen HTTP/1.0\\r\\n\\r\\n")
            with client.makefile("rb") as answer:
                print("seen", answer.read().splitlines()[-1].decode(), flush=True)
        server.shutdown()
        loop.join()
        assert "process_request_thread" not in vars(server)
"""
    with start("reuse_threads, daemon_threads = True, False", serve) as program:
        program.wait("closed; 0 threads are left")
        counts = [line.split()[1] for line in program.lines if line.startswith("seen ")]
        assert len(counts) == 6
        assert counts[0] == counts[3] == "1"


def test_an_own_way_to_serve_in_the_thread_is_kept(start):
    more = """
    reuse_threads, daemon_threads = True, False

    def process_request_thread(self, request, client_address):
        super().process_request_thread(request, client_address)
        print("this thread's database is closed", flush=True)
"""
    with start(more) as program:
        pid = program.wait_serving()
        assert max(count for count, _, _ in seen(program.port, 10)) > 1
        program.stop(pid)
        assert program.text.count("database is closed") == 10


def test_an_own_way_to_start_threads_is_kept_and_said(start):
    more = """
    reuse_threads = True

    def process_request(self, request, client_address):
        super().process_request(request, client_address)
"""
    with start(more) as program:
        pid = program.wait_serving()
        assert {count for count, _, _ in seen(program.port, 10)} == {1}
        program.stop(pid)
        said = r"generation 0: tcp .* starts a thread for each connection in spite of reuse_threads"
        program.wait(said)


# -- without a server -----------------------------------------------------


class Threading:
    """As ThreadingMixIn."""

    def __init__(self):
        self.served, self.threads = [], []

    def process_request(self, request, client_address):
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address)
        )
        self.threads.append(thread)
        thread.start()

    def process_request_thread(self, request, client_address):
        self.served.append(request)


def test_whatever_comes_while_a_thread_gives_up_waiting_is_served(monkeypatch):
    monkeypatch.setattr(handler_threads, "PATIENCE", 0.0005)
    server = Threading()
    threads = handler_threads.HandlerThreads(server)
    threads.begin()
    for number in range(1000):
        threads.process(server, number, None)
        if number % 3 == 0:
            time.sleep(0.0005)
    threads.end()
    for thread in server.threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert sorted(server.served) == list(range(1000))
    assert 1 < len(server.threads) < 1000


def test_a_thread_that_waits_for_nothing_ends(monkeypatch):
    monkeypatch.setattr(handler_threads, "PATIENCE", 0.01)
    server = Threading()
    threads = handler_threads.HandlerThreads(server)
    threads.begin()
    threads.process(server, 1, None)
    server.threads[0].join(TIMEOUT)
    assert not server.threads[0].is_alive()


def test_threads_that_become_idle_after_the_end_do_not_stay():
    server = Threading()
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def serve(request, client_address):
        begun.release()
        go_on.wait(TIMEOUT)

    server.process_request_thread = serve
    threads = handler_threads.HandlerThreads(server)
    threads.begin()
    for number in range(5):
        threads.process(server, number, None)
    for _ in range(5):
        assert begun.acquire(timeout=TIMEOUT)
    threads.end()
    go_on.set()
    for thread in server.threads:
        thread.join(handler_threads.PATIENCE / 2)
        assert not thread.is_alive()


def test_an_idle_thread_keeps_no_socket_open():
    server = Threading()
    server.process_request_thread = lambda request, client_address: None
    threads = handler_threads.HandlerThreads(server)
    threads.begin()
    for _ in range(2):  # in a new thread, and in one that is used again
        ours, theirs = socket.socketpair()
        theirs.settimeout(handler_threads.PATIENCE / 2)
        threads.process(server, ours, None)
        del ours
        assert theirs.recv(1) == b""
        theirs.close()
    threads.end()
