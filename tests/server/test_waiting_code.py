"""The program's code in the loop may wait: signals are taken meanwhile, and an order ends it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import pytest
from custom_code import custom
from harness import TIMEOUT, first, get

from endless_py.http.server import BaseHTTPRequestHandler, HTTPServer

WAITS = """
def wait():
    print("waits", flush=True)
    while not (folder / "go").exists():
        time.sleep(0.01)

class Server({kind}):
    drain_timeout = 60
    def {method}(self, *arguments):
        {how}

with Server(("127.0.0.1", 0), Handler) as server:
    {wrap}
    server.serve_forever({interval})
"""
METHODS = {
    "get_request": "request = super().get_request(); wait(); return request",
    "verify_request": "wait(); return True",
    "process_request": "wait(); super().process_request(*arguments)",
    "service_actions": "(folder / 'wait').exists() and wait()",
}
TLS = """
import ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder / "cert", folder / "key")
ThreadingHTTPServer.drain_timeout = 1 if endless_py.generation() == 0 else 60
with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
"""


def waiting(method, kind="ThreadingHTTPServer"):
    return WAITS.format(
        kind=kind, method=method, how=METHODS[method], wrap="pass", interval="poll_interval=0.1"
    )


def begin(method, folder, program):
    """Have the loop wait in this method; return the client."""
    if method == "service_actions":
        (folder / "wait").touch()
        client = None
    else:
        client = socket.create_connection(("127.0.0.1", program.port), TIMEOUT)
    program.wait("^waits")
    return client


@pytest.mark.parametrize("number", first([signal.SIGTERM, signal.SIGINT, signal.SIGUSR2]))
@pytest.mark.parametrize("kind", ["ThreadingHTTPServer", "HTTPServer"])
@pytest.mark.parametrize("method", METHODS)
def test_a_second_order_ends_it(method, kind, number, tmp_path):
    with custom(tmp_path, waiting(method, kind)) as program:
        pid = program.wait_serving()
        client = begin(method, tmp_path, program)
        os.kill(pid, number)
        if number != signal.SIGUSR2:
            program.wait("finishing")
            os.kill(pid, number)
        program.wait(rf"{method}|handler|does not end")
        program.process.wait(TIMEOUT)
        program.wait_alone(None)
        if client is not None:
            client.close()


@pytest.mark.parametrize("method", METHODS)
def test_it_is_reloaded_meanwhile(method, tmp_path):
    with custom(tmp_path, waiting(method)) as program:
        pid = program.wait_serving()
        client = begin(method, tmp_path, program)
        new = program.reload(1, pid)
        program.wait("is ready after")
        (tmp_path / "wait").unlink(missing_ok=True)
        (tmp_path / "go").touch()
        if client is not None:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b"0 " in client.makefile("rb").read()
            client.close()
        program.wait_alone(new)
        assert get(program.port).startswith("1 ")
        program.stop(new)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_client_that_makes_no_handshake(number, tmp_path):
    secure = pytest.importorskip("secure")
    secure.certificate(tmp_path)
    with custom(tmp_path, TLS) as program:
        pid = program.wait_serving()
        assert secure.get(program.port).startswith("0 ")
        with socket.create_connection(("127.0.0.1", program.port), TIMEOUT):
            new = program.reload(1, pid)
            program.wait("is ready after")
            program.wait_alone(new)  # when its drain_timeout is over
            program.wait(r"get_request\(\) of .* was ended")
        with socket.create_connection(("127.0.0.1", program.port), TIMEOUT) as silent:
            silent.setblocking(False)
            os.kill(new, number)
            program.wait(r"generation 1: SIG\w+; finishing")
            os.kill(new, number)
            program.wait_alone(None)


@pytest.mark.parametrize("where", ["class", "object"])
def test_service_actions_are_looked_for_where_python_looks(where):
    class Acting(HTTPServer):
        pass

    with Acting(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        calls, enough = [], threading.Event()

        def act(*_):
            calls.append(time.monotonic())
            if len(calls) == 5:
                enough.set()

        if where == "class":
            Acting.service_actions = act
        else:
            server.service_actions = act
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            assert enough.wait(TIMEOUT)
        finally:
            server.shutdown()
            thread.join(TIMEOUT)
