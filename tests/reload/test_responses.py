"""What clients see in a drain: responses of every form finish, and say what becomes of them."""

from __future__ import annotations

import http.client
import socket
import time

import pytest
from custom_code import SERVE, custom
from harness import TIMEOUT, connect

CODE = """
class Handler(Handler):
    migrates = (folder / "stays").exists() is False

    def wait(self, name):
        (folder / name).touch()
        while not (folder / "go").exists():
            time.sleep(0.01)

    def do_GET(self):
        generation = str(endless_py.state()["generation"])
        if self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"1\\r\\na\\r\\n")
            self.wait("in chunks")
            self.wfile.write(b"1\\r\\n" + generation.encode() + b"\\r\\n0\\r\\n\\r\\n")
        elif self.path == "/download":
            self.send_response(200)
            self.send_header("Content-Length", "3000001")
            self.end_headers()
            self.wfile.write(b"x" * 1500000)
            self.wait("in download")
            self.wfile.write(b"x" * 1500000 + generation.encode())
        elif self.path == "/same":
            self.send_response(304)
            self.end_headers()
        elif self.path == "/by-hand":
            self.wfile.write(b"HTTP/1.1 200 Fine\\r\\nContent-Length: 1\\r\\n")
            self.end_headers()
            self.wfile.write(generation.encode())
        elif self.path == "/says":
            self.send_response(200)
            self.send_header("Content-Length", "1")
            self.send_header("Connection", "keep-alive")
            self.end_headers()
            self.wfile.write(generation.encode())
        elif self.path == "/upgrade":
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "echo")
            self.end_headers()
            self.close_connection = True
            for line in self.rfile:
                self.wfile.write(generation.encode() + line)
        else:
            self.send_response(200)
            self.send_header("Content-Length", "1")
            self.end_headers()
            self.wfile.write(generation.encode())

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "77")
        self.end_headers()

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        data = self.rfile.read(length)
        self.wait("in post")
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)

class Server(ThreadingHTTPServer):
    keepalive_grace = 20
    drain_timeout = 20
""" + SERVE.replace("ThreadingHTTPServer", "Server")


def serve(folder, stays=False, extra=""):
    if stays:
        (folder / "stays").touch()
    return custom(folder, CODE.replace("class Server", extra + "class Server"))


def reload(program, folder, pid):
    """Reload, and be sure that the old generation drains by now."""
    new = program.reload(1, pid)
    program.wait("finishing ")
    return new


@pytest.mark.parametrize("path", ["/", "/by-hand", "/same", "HEAD"])
def test_close_is_said_where_the_connection_cannot_migrate(path, tmp_path):
    with serve(tmp_path, stays=True) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        client.request("GET", "/")
        assert client.getresponse().read() == b"0"
        new = reload(program, tmp_path, pid)
        client.request(*(("HEAD", "/") if path == "HEAD" else ("GET", path)))
        response = client.getresponse()
        assert response.getheader("Connection") == "close"
        assert response.read() in (b"0", b"")
        program.wait_alone(new)
        client.close()
        program.stop(new)


def test_what_the_handler_says_of_the_connection_stays(tmp_path):
    with serve(tmp_path, stays=True) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        client.request("GET", "/")
        client.getresponse().read()
        new = reload(program, tmp_path, pid)
        client.request("GET", "/says")
        response = client.getresponse()
        assert response.headers.get_all("Connection") == ["keep-alive"]
        assert response.read() == b"0"
        client.request("GET", "/")  # it was promised, so it is answered
        assert client.getresponse().read() == b"0"
        client.close()
        program.wait_alone(new)
        program.stop(new)


IN_FLIGHT = {"/chunked": "in chunks", "/download": "in download"}


@pytest.mark.parametrize("stays", [False, True], ids=["migrates", "stays"])
@pytest.mark.parametrize("path", IN_FLIGHT)
def test_a_response_in_flight_finishes_whole(path, stays, tmp_path):
    with serve(tmp_path, stays) as program:
        old = program.wait_serving()
        client = connect(program.port)
        client.request("GET", path)
        response = client.getresponse()
        assert response.getheader("Connection") is None
        if path == "/download":
            response.read(1_499_999)
        while not (tmp_path / IN_FLIGHT[path]).exists():
            time.sleep(0.01)
        new = reload(program, tmp_path, old)
        (tmp_path / "go").touch()
        assert response.read().endswith(b"0")
        if not stays:
            place = client.sock.getsockname()
            program.wait_alone(new)
            client.request("GET", "/")
            assert client.getresponse().read() == b"1"
            assert client.sock.getsockname() == place
        else:  # promised nothing: it is open for the grace, and told to close
            client.request("GET", "/")
            response = client.getresponse()
            assert (response.read(), response.getheader("Connection")) == (b"0", "close")
            program.wait_alone(new)
        client.close()
        program.stop(new)


def test_a_post_with_expect_in_flight(tmp_path):
    with serve(tmp_path) as program:
        old = program.wait_serving()
        client = socket.create_connection(("127.0.0.1", program.port), TIMEOUT)
        with client, client.makefile("rb") as stream:
            head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n"
            client.sendall(head)
            assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
            assert stream.readline() == b"\r\n"
            client.sendall(b"abc")
            new = reload(program, tmp_path, old)
            client.sendall(b"def")
            (tmp_path / "go").touch()
            response = b"".join(iter(stream.readline, b"\r\n"))
            assert response.startswith(b"HTTP/1.1 200")
            assert b"Connection: close" not in response
            assert stream.read(6) == b"abcdef"
            program.wait_alone(new)
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"".join(iter(stream.readline, b"\r\n")).startswith(b"HTTP/1.1 200")
            assert stream.read(1) == b"1"
        program.stop(new)


def test_pipelined_requests_are_answered_in_order_before_the_connection_migrates(tmp_path):
    with serve(tmp_path) as program:
        old = program.wait_serving()
        client = socket.create_connection(("127.0.0.1", program.port), TIMEOUT)
        with client, client.makefile("rb") as stream:
            request = b"GET %s HTTP/1.1\r\n\r\n"
            client.sendall(request % b"/chunked" + (request % b"/") * 3)
            while not (tmp_path / "in chunks").exists():
                time.sleep(0.01)
            new = reload(program, tmp_path, old)
            (tmp_path / "go").touch()
            assert b"".join(iter(stream.readline, b"\r\n")).startswith(b"HTTP/1.1 200")
            chunks = b"1\r\na\r\n1\r\n0\r\n0\r\n\r\n"
            assert stream.read(len(chunks)) == chunks
            answers = []
            for _ in range(3):
                b"".join(iter(stream.readline, b"\r\n"))
                answers.append(stream.read(1))
            assert answers == [b"0"] * 3
            program.wait_alone(new)
            client.sendall(request % b"/")
            b"".join(iter(stream.readline, b"\r\n"))
            assert stream.read(1) == b"1"
        program.stop(new)


def test_an_upgraded_connection_lasts_until_its_end(tmp_path):
    with serve(tmp_path) as program:
        old = program.wait_serving()
        client = socket.create_connection(("127.0.0.1", program.port), TIMEOUT)
        with client, client.makefile("rb") as stream:
            client.sendall(b"GET /upgrade HTTP/1.1\r\n\r\n")
            assert b"".join(iter(stream.readline, b"\r\n")).startswith(b"HTTP/1.1 101")
            new = reload(program, tmp_path, old)
            for _ in range(3):
                client.sendall(b"hello\n")
                assert stream.readline() == b"0hello\n"
            client.shutdown(socket.SHUT_WR)
            assert stream.read() == b""
        program.wait_alone(new)
        program.stop(new)


def test_an_upgraded_connection_ends_at_the_hammer(tmp_path):
    with serve(tmp_path, extra="ThreadingHTTPServer.drain = 0\n") as program:
        old = program.wait_serving()
        client = socket.create_connection(("127.0.0.1", program.port), TIMEOUT)
        with client, client.makefile("rb") as stream:
            client.sendall(b"GET /upgrade HTTP/1.1\r\n\r\n")
            assert b"".join(iter(stream.readline, b"\r\n")).startswith(b"HTTP/1.1 101")
            new = reload(program, tmp_path, old)
            program.process.send_signal(12)
            assert stream.read() == b""
        program.wait_alone(None)
        assert new != old


def test_the_handlers_own_time_out_is_kept(tmp_path):
    extra = "Handler.timeout = 0.3\n"
    with serve(tmp_path, extra=extra) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        client.request("GET", "/")
        assert client.getresponse().read() == b"0"
        assert client.sock.recv(1) == b""  # closed by the time-out, without a response
        client.close()
        program.stop(pid)


def test_a_time_out_does_not_end_with_a_migration(tmp_path):
    extra = "Handler.timeout = 0.6\n"
    with serve(tmp_path, extra=extra) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        client.request("GET", "/")
        assert client.getresponse().read() == b"0"
        new = reload(program, tmp_path, pid)
        assert client.sock.recv(1) == b""
        client.close()
        program.wait_alone(new)
        program.stop(new)


def test_a_client_that_has_left_makes_no_noise(tmp_path):
    with serve(tmp_path) as program:
        pid = program.wait_serving()
        clients = [connect(program.port) for _ in range(20)]
        for client in clients:
            client.request("GET", "/")
            client.getresponse().read()
        for client in clients[::2]:
            client.close()
        new = reload(program, tmp_path, pid)
        for client in clients[1::2]:
            client.close()
        program.wait_alone(new)
        client = http.client.HTTPConnection("127.0.0.1", program.port, timeout=TIMEOUT)
        client.request("GET", "/")
        assert client.getresponse().read() == b"1"
        client.close()
        program.stop(new)
        assert "Traceback" not in program.text
