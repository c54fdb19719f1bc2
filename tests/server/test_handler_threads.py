"""Threads that serve one connection after the other, where a server allows it."""

from __future__ import annotations

import os
import signal

import pytest
from custom_code import custom
from harness import first, get, reloads_under_load

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


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", first(["daemon_threads = True", "daemon_threads = False", "max_handlers = 3"])
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
