"""What later versions of Python add to the classes that are mirrored here."""

from __future__ import annotations

import importlib
import inspect
import io
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from harness import TIMEOUT, environment

import endless_py
from endless_py._asyncio.sockets import AcceptedSocket, CountingSocket
from endless_py._reload.listener import Listener
from endless_py._server.http import HTTPHooks
from endless_py._server.wsgi import ServerHandler, WSGIRequestHandler
from endless_py._sockets.connection import Count
from endless_py._sockets.shared import ListenerSocket

MIRRORED = ("socketserver", "http.server", "wsgiref.simple_server", "xmlrpc.server")
STANDARD = {name: importlib.import_module(name) for name in MIRRORED}
SERVERS = [
    (name, kind)
    for name, module in STANDARD.items()
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, endless_py.BaseServer)
    if kind.__module__ == name and kind is not endless_py.BaseServer
]


def mirror(kind):
    return getattr(importlib.import_module(f"endless_py.{kind.__module__}"), kind.__name__, None)


@pytest.mark.parametrize("name", MIRRORED)
def test_every_public_name_is_mirrored(name):
    ours = importlib.import_module(f"endless_py.{name}")
    public = getattr(STANDARD[name], "__all__", ())
    assert [each for each in public if not hasattr(ours, each)] == []
    assert set(public) <= set(ours.__all__)


@pytest.mark.parametrize("kind", [kind for _, kind in SERVERS], ids=lambda kind: kind.__qualname__)
def test_a_server_class_has_the_librarys_for_a_base_and_ours_of_its_bases(kind):
    ours = mirror(kind)
    assert issubclass(ours, (kind, endless_py.GracefulMixIn))
    assert issubclass(ours, kind)
    for base in kind.__mro__[1:]:
        if base.__module__ in STANDARD and mirror(base) is not None:
            assert issubclass(ours, mirror(base)), base


OVERRIDING = [
    *(mirror(kind) for _, kind in SERVERS),
    *(ServerHandler, WSGIRequestHandler, ListenerSocket, CountingSocket, AcceptedSocket),
]


def problems(ours, theirs, where):
    """What the standard method takes and ours does not."""
    try:
        takes = inspect.signature(theirs).parameters
    except ValueError:  # of C code that does not say
        return []
    has = inspect.signature(ours).parameters
    kinds = {parameter.kind for parameter in has.values()}
    found = []
    for number, (name, parameter) in enumerate(takes.items()):
        by_name = name in has or inspect.Parameter.VAR_KEYWORD in kinds
        by_place = inspect.Parameter.VAR_POSITIONAL in kinds or number < len(has)
        keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if not (by_name if keyword else by_place):
            found.append(f"{where}({name})")
    return found


@pytest.mark.parametrize("kind", OVERRIDING, ids=lambda kind: kind.__qualname__)
def test_an_overridden_method_takes_what_the_librarys_takes(kind):
    found = []
    for name in {name for cls in kind.__mro__ for name in vars(cls)} - {"__init_subclass__"}:
        defined = [cls for cls in kind.__mro__ if inspect.isroutine(vars(cls).get(name))]
        ours = [cls for cls in defined if cls.__module__.startswith("endless_py")]
        theirs = [cls for cls in defined if not cls.__module__.startswith("endless_py")]
        if ours and theirs and ours[0] is defined[0] and theirs[0] is not object:
            method, original = vars(ours[0])[name], vars(theirs[0])[name]
            if inspect.isfunction(method):
                found += problems(method, original, f"{ours[0].__name__}.{name}")
    assert found == []


class Grown(endless_py.BaseHTTPRequestHandler):
    """A handler of a Python to come, whose methods all take something more."""

    def __init__(self, *arguments, **keywords):
        self.told = []
        super().__init__(*arguments, **keywords)

    def handle(self):
        self.rfile = io.BytesIO(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.setup(later=1)
        self.rfile = io.BytesIO(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.handle_one_request(later=2)
        self.raw_requestline, self.rfile = b"GET / HTTP/1.1\r\n", io.BytesIO(b"Host: x\r\n\r\n")
        self.parse_request(later=3)
        self.send_response_only(200, "OK")
        self.send_header("X", "y")
        self.end_headers(later=4)
        assert self.date_time_string(later=5) == self.date_time_string()
        self.wfile.flush()

    def do_GET(self):
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def grown(name):
    base = getattr(endless_py.BaseHTTPRequestHandler, name)

    def method(self, *arguments, later=0, **keywords):
        if later:
            self.told.append((name, later))
        return base(self, *arguments, **keywords)

    return method


for each in HTTPHooks.names:
    setattr(Grown, each, grown(each))


def test_a_hooked_method_passes_on_what_a_later_version_adds():
    class Server:
        pass

    server = Server()
    server._listener, server.RequestHandlerClass = Listener(server), Grown
    ours, its = socket.socketpair()
    with ours, its:
        handler = Grown(its, ("x", 1), server)
    assert handler.told == [(name, number) for number, name in enumerate(HTTPHooks.names, 1)]


INTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import os
import endless_py.http.server  # 3.12 may crash when datetime comes first in a sub-interpreter

code = '''
import endless_py, endless_py.http.server
print(endless_py.generation(), endless_py.state()["phase"], flush=True)
for make in (
    lambda: endless_py.HTTPServer(("127.0.0.1", 0), endless_py.BaseHTTPRequestHandler),
    lambda: endless_py.listen(("127.0.0.1", 0)),
):
    try:
        make()
    except endless_py.UnsupportedPlatform as error:
        print(error, flush=True)
'''
failed = interpreters.run_string(interpreters.create(), code)
print(failed or "done", flush=True)
with endless_py.HTTPServer(("127.0.0.1", 0), endless_py.BaseHTTPRequestHandler):
    print("the main interpreter serves", flush=True)
os._exit(0)  # an interpreter's end is the library's matter
"""


def test_a_sub_interpreter_imports_it_and_says_what_is_not_possible():
    try:
        importlib.import_module("_interpreters")
    except ImportError:
        pytest.importorskip("_xxsubinterpreters")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETER],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "0 starting", done.stdout + done.stderr
    assert lines[1] == lines[2]
    assert "cannot serve in a sub-interpreter: signals" in lines[1]
    assert lines[3:] == ["done", "the main interpreter serves"], done.stdout + done.stderr


@pytest.mark.parametrize("names", [{"a_new_one"}, set()], ids=["known to the class", "unknown"])
def test_what_a_later_class_assigns_for_each_request_is_no_state_of_a_handler(names, monkeypatch):
    base = endless_py.BaseHTTPRequestHandler
    known = {*vars(base).get("__static_attributes__", ()), *names}
    monkeypatch.setattr(base, "__static_attributes__", tuple(known), raising=False)

    class Handler(base):
        pass

    handler = Handler.__new__(Handler)
    handler.client_address = ("x", 1)
    handler.server = SimpleNamespace(RequestHandlerClass=Handler)
    place = SimpleNamespace(client_address=("x", 1), is_stateless=None, arrived_with=None)
    place.count = Count()
    hooks = HTTPHooks(handler, place)
    assert hooks.is_stateless()
    handler.a_new_one = ["x"]
    assert hooks.is_stateless() is bool(names)
