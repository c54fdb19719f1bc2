"""What servers of others do, without the others."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest
from custom_code import custom
from harness import TIMEOUT, environment, first, get

SERVED = """
with {kind}(("127.0.0.1", 0), Handler) as server:
    server.{serve}()
"""
RELOADED = {
    "SIGHUP is set to the default before": "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    + SERVED.format(kind="ThreadingHTTPServer", serve="serve_forever"),
    "SIGHUP is set to ignored before": "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    + SERVED.format(kind="ThreadingHTTPServer", serve="serve_forever"),
    "made and served in a thread": """
def serve():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.serve_forever()
thread = threading.Thread(target=serve)
thread.start()
thread.join()
""",
    "its own serve_forever()": """
import http.server
class Theirs(http.server.ThreadingHTTPServer):
    def serve_forever(self, poll_interval=0.5):
        print("theirs", flush=True)
        super().serve_forever(poll_interval)
class Server(endless_py.GracefulMixIn, Theirs):
    pass
"""
    + SERVED.format(kind="Server", serve="serve_forever"),
    "super().serve_forever() elsewhere": """
import http.server
class Theirs(http.server.ThreadingHTTPServer):
    def run(self):
        super().serve_forever()
class Server(endless_py.GracefulMixIn, Theirs):
    pass
"""
    + SERVED.format(kind="Server", serve="run"),
    "BaseServer.serve_forever(server)": """
standard = sys.modules["socketserver"]
with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    standard.BaseServer.serve_forever(server, 0.1)
""",
    "a main thread that sleeps": """
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
while True:
    time.sleep(10)
""",
    "a shutdown_request() that does not close": """
class Server(ThreadingHTTPServer):
    def shutdown_request(self, request):
        pass
"""
    + SERVED.format(kind="Server", serve="serve_forever"),
    "the same without threads": """
class Server(HTTPServer):
    def shutdown_request(self, request):
        pass
"""
    + SERVED.format(kind="Server", serve="serve_forever"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", first(RELOADED, 3))
def test_it_is_reloaded_more_than_once(what, tmp_path):
    with custom(tmp_path, RELOADED[what]) as program:
        pid = program.wait_serving()
        for generation in (1, 2, 3):
            assert get(program.port).startswith(f"{generation - 1} ")
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
        assert what != "its own serve_forever()" or program.text.count("theirs") == 4
        program.stop(pid)


def test_an_address_that_cannot_be_told_stays(tmp_path):
    code = """
class Server(ThreadingHTTPServer):
    def get_request(self):
        request, address = super().get_request()
        return request, (address, object())
    def finish_request(self, request, both):
        super().finish_request(request, both[0])

with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        with socket.create_connection(("127.0.0.1", program.port), TIMEOUT) as silent:
            while get(program.port) and "ready after" not in program.text:
                new = program.reload(1, pid)
                program.wait("is ready after")
            silent.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = silent.makefile("rb").read()
            assert b"Connection: close" in answer
            assert b"\r\n\r\n0 " in answer
        program.wait_alone(new)
        assert "Error" not in program.text
        program.stop(new)


REPLACED = """
import http.server, socketserver, sys, threading, wsgiref.simple_server, xmlrpc.server
import endless_py
from endless_py import http as h, socketserver as s, wsgiref as w, xmlrpc as x
import endless_py.http.server, endless_py.wsgiref.simple_server, endless_py.xmlrpc.server

pairs = (
    (socketserver, s), (http.server, h.server), (xmlrpc.server, x.server),
    (wsgiref.simple_server, w.simple_server),
)
for standard, ours in pairs:
    for name in ours.__all__:
        if hasattr(standard, name):
            setattr(standard, name, getattr(ours, name))
wsgiref.simple_server.HTTPServer = h.server.HTTPServer
address = ("127.0.0.1", 0)
for server in (
    http.server.ThreadingHTTPServer(address, http.server.SimpleHTTPRequestHandler),
    xmlrpc.server.SimpleXMLRPCServer(address),
    xmlrpc.server.DocXMLRPCServer(address),
    wsgiref.simple_server.make_server(*address, wsgiref.simple_server.demo_app),
):
    assert isinstance(server, endless_py.GracefulMixIn)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.shutdown()
    thread.join()
    server.server_close()
print("all of them")
"""


def test_the_names_in_the_standard_modules_may_be_ours():
    found = subprocess.run(
        [sys.executable, "-c", REPLACED],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert "all of them" in found.stdout, found.stderr


def test_a_program_that_only_imports_is_not_changed_by_signals():
    code = (
        "import endless_py, signal, os\n"
        "names = ['SIGHUP', 'SIGTERM', 'SIGUSR2']\n"
        "assert all(signal.getsignal(getattr(signal, n)) is signal.SIG_DFL for n in names)\n"
        "os.kill(os.getpid(), signal.SIGURG)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], env=environment(), timeout=TIMEOUT)
    assert found.returncode == -signal.SIGTERM
