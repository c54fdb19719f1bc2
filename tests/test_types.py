"""A type checker finds in a user's program what it finds with the standard classes, and no less."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
from harness import ROOT, TIMEOUT, environment

pytestmark = pytest.mark.slow  # a checker reads the standard library's types first

STANDARD = """
import socketserver as S
import http.server as H
import wsgiref.simple_server as W
import xmlrpc.server as X
"""
OURS = """
import endless_py.socketserver as S
import endless_py.http.server as H
import endless_py.wsgiref.simple_server as W
import endless_py.xmlrpc.server as X
"""
PROGRAM = """
from typing import Any, Callable, Iterable


class Handler(H.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.nothing()  # error


class Server(H.ThreadingHTTPServer):
    request_queue_size = 100

    def get_request(self) -> tuple[Any, Any]:
        return super().get_request()

    def server_bind(self) -> int:  # error
        return 3

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return super().verify_request(request, client_address)


class Echo(S.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.readline())
        self.wfile.write("text")  # error


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b""]


with H.HTTPServer(("127.0.0.1", 8000), Handler) as server:
    server.nothing  # error
    server.server_port.nothing  # error
    server.server_address.nothing  # error
    server.nothing()  # error
    server.serve_forever("x")  # error
    server.server_port + "x"  # error
    server.timeout = "x"  # error
H.HTTPServer("127.0.0.1", Handler)  # error
H.HTTPServer(("127.0.0.1", 8000))  # error
H.ThreadingHTTPServer(("127.0.0.1", "8000"), Handler)  # error
H.ThreadingHTTPServer(("127.0.0.1", 8000), Echo(None, None, None))  # error
H.ThreadingHTTPServer(("127.0.0.1", 8000), Handler, bind_and_activate="x")  # error
H.ThreadingHTTPServer(("127.0.0.1", 8000), int)  # error
Server(8000, Handler)  # error
S.TCPServer(("127.0.0.1", 8000), Echo)
S.TCPServer("x", Echo)  # error
S.UDPServer(("127.0.0.1", 8000), Echo)
S.UnixStreamServer("/tmp/x", Echo)
S.UnixStreamServer(3, Echo)  # error
S.ThreadingUnixDatagramServer("/tmp/x", Echo)
S.ForkingTCPServer("x", Echo)  # error
W.make_server(8000, "", app)  # error
made = W.make_server("", 8000, app)
made.nothing  # error
made.nothing()  # error
made.set_app(3)  # error
other = W.make_server("", 8000, app, W.WSGIServer, W.WSGIRequestHandler)
other.nothing  # error
W.make_server("", 8000, lambda environ: [b""])  # error
W.WSGIServer(("", 8000), W.WSGIRequestHandler).set_app(app)
calls = X.SimpleXMLRPCServer(("", 8000), allow_none="x")  # error
calls.register_instance()  # error
X.DocXMLRPCServer(("", 8000), logRequests=3)  # error
X.MultiPathXMLRPCServer("")  # error


class Quiet(W.WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        self.nothing()  # error

    def get_environ(self) -> int:  # error
        return 3


class Calls(X.SimpleXMLRPCRequestHandler):
    rpc_paths = 3  # error


class Threading(S.ThreadingMixIn, S.TCPServer):
    allow_reuse_address = "yes"  # error
    daemon_threads = True


W.make_server("", 8000, app, handler_class=Quiet)
W.make_server("", 8000, app, Threading)  # error
Threading(("", 8000), Echo).process_request(3, None)  # error
H.SimpleHTTPRequestHandler(None)  # error
"""

FLAT = """
import http.server
from typing import Any

import endless_py


class Handler(endless_py.BaseHTTPRequestHandler):
    pass


class Mixed(endless_py.GracefulMixIn, http.server.ThreadingHTTPServer):
    drain_timeout = None
    keep_pid = True
    pid_file = "app.pid"


class Server(endless_py.ThreadingHTTPServer):
    keep_pid = "auto"
    max_handlers = 3


class Wrong(endless_py.ThreadingHTTPServer):
    keep_pid = "yes"  # error
    drain_timeout = "30"  # error


endless_py.ThreadingHTTPServer(("", 8000), Handler)
endless_py.HTTPSServer(("", 8000), Handler, certfile="cert")
endless_py.HTTPSServer(("", 8000), Handler)  # error
endless_py.HTTPSServer(3, Handler, certfile="cert")  # error
Mixed(3, Handler)  # error
Mixed(("", 8000), Handler).server_address.nothing  # error
Mixed(("", 8000), Handler).socket.nothing  # error
endless_py.make_server("", 8000, lambda environ, start_response: [b""]).serve_forever()
endless_py.make_server("", 8000, lambda environ, start_response: [b""]).nothing()  # error
endless_py.http.server.HTTPServer(3, Handler)  # error
endless_py.UnixStreamServer("path", Handler)
endless_py.ForkingTCPServer(("", 8000), Handler)
endless_py.SimpleXMLRPCServer(("", 8000))
endless_py.nothing()  # error
"""


def found_by_mypy(folder, name):
    done = run("mypy", "--strict", name, folder=folder, MYPYPATH=str(ROOT))
    return set(re.findall(rf"^{name}:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.M))


def found_by_pyright(folder, name):
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    done = run("pyright", "--outputjson", "--pythonpath", sys.executable, name, folder=folder)
    if not done.stdout.startswith("{"):  # it is JavaScript, which it may have to fetch
        (pytest.fail if os.environ.get("CI_RUN") else pytest.skip)(done.stderr[-300:])
    return {
        (str(told["range"]["start"]["line"] + 1), told["rule"])
        for told in json.loads(done.stdout)["generalDiagnostics"]
        if told["severity"] == "error"
    }


def run(module, *words, folder, **variables):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f'{module} is in the extra "lint"')
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=10 * TIMEOUT,
    )


def marked(text):
    lines = text.splitlines()
    return {str(number) for number, line in enumerate(lines, 1) if line.endswith("# error")}


CHECKERS = {"mypy": found_by_mypy, "pyright": found_by_pyright}


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_same_is_found_with_the_standard_classes_and_with_ours(checker, tmp_path):
    (tmp_path / "standard.py").write_text(STANDARD + PROGRAM)
    (tmp_path / "ours.py").write_text(OURS + PROGRAM)
    standard = CHECKERS[checker](tmp_path, "standard.py")
    assert {line for line, _ in standard} == marked(STANDARD + PROGRAM)
    assert CHECKERS[checker](tmp_path, "ours.py") == standard


@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_ours_has_types_too(checker, tmp_path):
    (tmp_path / "flat.py").write_text(FLAT)
    assert {line for line, _ in CHECKERS[checker](tmp_path, "flat.py")} == marked(FLAT)
