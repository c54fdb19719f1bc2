"""WSGI servers: the standard's behaviour, HTTP/1.1 when asked for, and other people's servers."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading

import pytest
from custom_code import custom
from harness import TIMEOUT, Load, connect, get, slow

APP = """
import json
from endless_py import ThreadingWSGIServer, WSGIServer
from endless_py.wsgiref.simple_server import WSGIRequestHandler, make_server

class Modern(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_):
        pass

def app(environ, start_response):
    path = environ["PATH_INFO"]
    current = endless_py.state()
    data = f"{current['generation']} {current['pid']} end".encode()
    if path == "/environ":
        plain = {k: v for k, v in environ.items() if isinstance(v, (str, bool, tuple))}
        data = json.dumps(plain, sort_keys=True).encode()
    if path == "/body":
        data = environ["wsgi.input"].read()
    headers = [("Content-Type", "text/plain")]
    if path == "/nothing":
        start_response("204 No Content", headers)
        return []
    if path == "/same":
        start_response("304 Not Modified", headers)
        return []
    if path == "/raises":
        raise ValueError("in the application")
    if path in ("/stream", "/breaks"):
        start_response("200 OK", headers)
        return stream(path, data)
    if path == "/short":
        start_response("200 OK", [*headers, ("Content-Length", "100")])
        return [b"only this"]
    if path == "/long":
        start_response("200 OK", [*headers, ("Content-Length", "4")])
        return [b"four", b" and more"]
    start_response("200 OK", [*headers, ("Content-Length", str(len(data)))])
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else data]

def stream(path, data):
    yield data[:2]
    (folder / "streaming").touch()
    while path == "/stream" and not (folder / "go").exists():
        time.sleep(0.01)
    if path == "/breaks":
        raise ValueError("in the middle")
    yield data[2:]
"""
SERVE = """
with make_server("127.0.0.1", 0, app, {}, {}) as server:
    server.serve_forever()
"""


def modern(folder):
    return custom(folder, APP + SERVE.format("ThreadingWSGIServer", "Modern"))


def ask(client, path="/", method="GET", body=None, headers=None):
    client.request(method, path, body, headers or {}, encode_chunked=body is not None)
    response = client.getresponse()
    return response.status, response.read(), response


GRACEFUL = """
import socketserver as standard
import wsgiref.simple_server as theirs
class Server(endless_py.GracefulMixIn, standard.ThreadingMixIn, theirs.WSGIServer):
    pass
"""


@pytest.mark.parametrize(
    ("kind", "handler"),
    [
        slow("WSGIServer", "WSGIRequestHandler"),
        slow("ThreadingWSGIServer", "WSGIRequestHandler"),
        slow("ThreadingWSGIServer", "Modern"),
        slow("Server", "theirs.WSGIRequestHandler"),
    ],
)
def test_ten_reloads_under_load_lose_nothing(kind, handler, tmp_path):
    with custom(tmp_path, APP + GRACEFUL + SERVE.format(kind, handler)) as program:
        pid = program.wait_serving()
        with Load(program.port, keep_alive=handler == "Modern") as load:
            for generation in range(1, 11):
                pid = program.reload(generation, pid)
                load.wait_answer(f"{generation} ")
        assert load.lost == []
        program.wait_alone(pid)
        program.stop(pid)
        assert "Traceback" not in program.text


def test_the_environ_is_the_standards(tmp_path):
    code = APP + (
        "import wsgiref.simple_server as theirs\n"
        "standard = theirs.make_server('127.0.0.1', 0, app)\n"
        "print('standard on', standard.server_port, flush=True)\n"
        "threading.Thread(target=standard.serve_forever, daemon=True).start()\n"
    )
    with custom(tmp_path, code + SERVE.format("WSGIServer", "WSGIRequestHandler")) as program:
        pid = program.wait_serving()
        ports = [program.port, int(program.wait(r"standard on (\d+)")[1])]
        seen = []
        for port in ports:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
            headers = {"X-Some": "thing", "Host": "name", "Content-Type": "text/x"}
            client.request("POST", "/environ?a=b%20c", b"12", headers)
            seen.append(json.loads(client.getresponse().read()))
            client.close()
        assert seen[0].pop("SERVER_PORT") != seen[1].pop("SERVER_PORT")
        assert seen[0] == seen[1]
        os.kill(pid, 9)


def test_the_validator_has_no_complaint(tmp_path):
    code = APP.replace('return [b"" if', 'return [b"" if') + (
        "from wsgiref.validate import validator\napp = validator(app)\n"
    )
    with custom(tmp_path, code + SERVE.format("ThreadingWSGIServer", "Modern")) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        for _ in range(2):
            assert ask(client)[0] == 200
        client.close()
        program.stop(pid)
        assert "AssertionError" not in program.text


@pytest.mark.slow
def test_one_connection_goes_through_five_reloads(tmp_path):
    with modern(tmp_path) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        for generation in range(6):
            status, text, response = ask(client)
            assert (status, text) == (200, f"{generation} {pid} end".encode())
            assert response.getheader("Connection") is None
            if not generation:
                place = client.sock.getsockname()
            assert client.sock.getsockname() == place
            if generation < 5:
                pid = program.reload(generation + 1, pid)
                program.wait_alone(pid)
        client.close()
        program.stop(pid)


def test_a_stream_in_flight_finishes_whole_and_its_connection_migrates(tmp_path):
    with modern(tmp_path) as program:
        old = program.wait_serving()
        client = connect(program.port)
        client.request("GET", "/stream")
        response = client.getresponse()
        assert response.getheader("Transfer-Encoding") == "chunked"
        new = program.reload(1, old)
        program.wait("finishing ")
        (tmp_path / "go").touch()
        assert response.read() == f"0 {old} end".encode()
        program.wait_alone(new)
        assert ask(client)[1] == f"1 {new} end".encode()
        client.close()
        program.stop(new)


def test_every_kind_of_response_leaves_the_connection_in_step(tmp_path):
    with modern(tmp_path) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        client.connect()
        place = client.sock.getsockname()
        data = f"0 {pid} end".encode()
        for path, method, body, status, text in [
            ("/", "GET", None, 200, data),
            ("/", "HEAD", None, 200, b""),
            ("/nothing", "GET", None, 204, b""),
            ("/same", "GET", None, 304, b""),
            ("/body", "POST", b"x" * 100_000, 200, b"x" * 100_000),
            ("/body", "POST", iter([b"in ", b"chunks"]), 200, b"in chunks"),
            ("/", "POST", b"not read by the application", 200, data),
            ("/", "POST", iter([b"neither ", b"this"]), 200, data),
            ("/long", "GET", None, 200, b"four"),
            ("/raises", "GET", None, 500, b"A server error occurred.  Please contact the admin"),
            ("/", "GET", None, 200, data),
        ]:
            got = ask(client, path, method, body)
            assert got[0] == status, path
            assert got[1].startswith(text) if status == 500 else got[1] == text, path
            assert got[2].getheader("Connection") is None, path
            assert client.sock.getsockname() == place
        client.close()
        program.stop(pid)


@pytest.mark.parametrize("path", ["/short", "/breaks"])
def test_what_is_not_whole_ends_with_the_connection(path, tmp_path):
    with modern(tmp_path) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        client.request("GET", path)
        with pytest.raises(http.client.IncompleteRead):
            client.getresponse().read()
        client.close()
        assert get(program.port).startswith("0 ")
        program.stop(pid)


RAW = {
    "an HTTP/1.0 client": (b"GET / HTTP/1.0\r\n\r\n", [b"200", b"Connection: close"]),
    "one that keeps alive": (
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        [b"Connection: keep-alive", b"Connection: close"],
    ),
    "a stream for HTTP/1.0": (b"GET /stream HTTP/1.0\r\n\r\n", [b"200", b"Connection: close"]),
    "two at once": (
        b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        [b"200", b"200", b"Connection: close"],
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        [b"400", b"Connection: close"],
    ),
    "length and chunks": (
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nxx",
        [b"400", b"Connection: close"],
    ),
    "expects to be told": (
        b"POST /body HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
        b"Connection: close\r\n\r\nhi",
        [b"100 Continue", b"200", b"hi"],
    ),
    "a long line": (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", [b"414"]),
}


@pytest.mark.parametrize("name", RAW)
def test_on_the_wire(name, tmp_path):
    data, parts = RAW[name]
    (tmp_path / "go").touch()
    with modern(tmp_path) as program:
        pid = program.wait_serving()
        with socket.create_connection(("127.0.0.1", program.port), TIMEOUT) as client:
            client.sendall(data)
            answer = client.makefile("rb").read()
        for part in parts:
            before, found, answer = answer.partition(part)
            assert found, (part, before)
        program.stop(pid)


BOTTLE = """
import bottle
from endless_py.wsgiref.simple_server import WSGIServer, ThreadingWSGIServer

@bottle.route("/<path:path>")
@bottle.route("/")
def index(path=""):
    current = endless_py.state()
    return f"{current['generation']} {current['pid']} end"

bottle.run(host="127.0.0.1", port=0, quiet=True, server_class=ThreadingWSGIServer)
"""
PROMETHEUS = """
import prometheus_client
from prometheus_client import exposition

class Server(endless_py.GracefulMixIn, exposition.ThreadingWSGIServer):
    pass

prometheus_client.Gauge("generation", "of the server").set(endless_py.state()["generation"])
app = prometheus_client.make_wsgi_app()
with exposition.make_server("127.0.0.1", 0, app, Server, exposition._SilentHandler) as server:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    thread.join()
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [BOTTLE, PROMETHEUS], ids=["bottle", "prometheus_client"])
def test_other_peoples_servers(code, tmp_path):
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        stopping, lost, answers = threading.Event(), [], 0

        def ask_on():
            nonlocal answers
            while not stopping.is_set():
                try:
                    assert get(program.port, "/metrics")
                    answers += 1
                except Exception as error:
                    lost.append(error)

        threads = [threading.Thread(target=ask_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        for generation in range(1, 6):
            pid = program.reload(generation, pid)
        stopping.set()
        for thread in threads:
            thread.join(TIMEOUT)
        assert lost == []
        assert answers > 20
        program.wait_alone(pid)
        text = get(program.port, "/metrics")
        assert text.startswith("5 ") or "\ngeneration 5.0\n" in text
        program.stop(pid)
