"""multiprocessing beside a server, by each way in which it starts a worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys

import pytest
from harness import Program, get, slow

PROGRAM = """
import multiprocessing, os, sys

import endless_py
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def answer(words):
    words.put(f"{endless_py.generation()} {os.getppid()}")


def serve(words):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        words.put(server.server_port)
        server.serve_forever()
    print("the worker ends", flush=True)


def start(target):
    context = multiprocessing.get_context(sys.argv[1])
    words = context.Queue()
    worker = context.Process(target=target, args=(words,))
    worker.start()
    return worker, words.get(timeout=30)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{endless_py.generation()} in the server"
        if self.path == "/worker":
            worker, word = start(answer)
            worker.join()
            body = f"{endless_py.generation()} {worker.exitcode} {word}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    if sys.argv[2] == "handler":
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.serve_forever()
    else:
        worker, port = start(serve)
        print("worker on", port, flush=True)
        worker.join()
        print("the worker's status:", worker.exitcode, flush=True)
"""


@pytest.fixture
def program(tmp_path):
    def start(method, mode):
        if method not in multiprocessing.get_all_start_methods():
            pytest.skip(f"multiprocessing has no {method} here")
        (tmp_path / "program.py").write_text(PROGRAM)
        return Program(command=[sys.executable, tmp_path / "program.py", method, mode])

    return start


# From 3.14 on forkserver is the default.
@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", slow("spawn")])
def test_a_worker_of_a_handler_keeps_nothing_of_the_server(program, method):
    with program(method, "handler") as server:
        pid = server.wait_serving()
        assert get(server.port, "/worker").startswith("0 0 0 ")
        new = server.reload(1, pid)
        server.wait_alone(new)
        assert get(server.port, "/worker").startswith("1 0 0 ")
        server.stop(new)
        assert "Traceback" not in server.text


@pytest.mark.parametrize("method", ["forkserver", slow("spawn")])
def test_a_server_in_a_worker_serves_and_says_why_it_cannot_be_reloaded(program, method):
    with program(method, "worker") as server:
        pid = server.wait_serving()
        os.kill(pid, signal.SIGHUP)
        server.wait("cannot be started: it is a worker of multiprocessing's.*; serving goes on")
        assert get(server.port) == "0 in the server"
        os.kill(pid, signal.SIGTERM)
        server.wait("the worker ends")
        server.wait("the worker's status: 0")
        assert "Traceback" not in server.text
