"""HTTPS: reloads, certificates, and clients that are silent, slow or confused."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from harness import PROGRAMS, TIMEOUT, Program, environment, first, often, slow
from secure import SERVE, SecureLoad, ask, certificate, client_context, get, https, secure, serial


@pytest.mark.parametrize("kind", first(["ThreadingHTTPSServer", "ForkingHTTPSServer"], 0))
def test_many_reloads_under_load_lose_nothing(kind, tmp_path):
    with https(tmp_path, kind) as program:
        pid = program.wait_serving()
        with SecureLoad(program.port) as load:
            for generation in range(1, often(20) + 1):
                pid = program.reload(generation, pid)
                load.wait_answer(f"{generation} ")
        assert load.lost == []
        program.wait_alone(pid)
        program.stop(pid)
        assert "Traceback" not in program.text


def test_a_connection_is_told_to_close_and_an_answer_in_flight_is_whole(tmp_path):
    with https(tmp_path, settings="keepalive_grace = 0.2") as program:
        old = program.wait_serving()
        kept, slow, idle = (secure(program.port) for _ in range(3))
        assert ask(kept)[1] is None
        assert ask(idle)[1] is None
        answers = []
        thread = threading.Thread(target=lambda: answers.append(ask(slow, "/slow")))
        thread.start()
        while not (tmp_path / "slow").exists():
            pass
        new = program.reload(1, old)
        program.wait("finishing ")
        (tmp_path / "go").touch()
        thread.join(TIMEOUT)
        assert answers[0][0].startswith("0 ")
        program.wait_alone(new)
        # Closed unasked after the grace, with TLS's own good-bye: no error, an empty read.
        assert idle.sock.recv(1) == b""
        for client in (kept, slow, idle):
            client.close()
        program.stop(new)


def test_a_request_during_the_drain_is_answered_with_close(tmp_path):
    with https(tmp_path, settings="keepalive_grace = 30") as program:
        old = program.wait_serving()
        kept = secure(program.port)
        assert ask(kept)[1] is None
        new = program.reload(1, old)
        program.wait("finishing ")
        text, connection = ask(kept)
        assert text.startswith("0 ")
        assert connection == "close"
        program.wait_alone(new)
        kept.close()
        program.stop(new)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ThreadingHTTPSServer", slow("ForkingHTTPSServer")])
def test_silent_and_slow_clients_delay_nobody_and_are_closed(kind, tmp_path):
    with https(tmp_path, kind, "handshake_timeout = 1.5; request_queue_size = 100") as program:
        pid = program.wait_serving()
        silent = [socket.create_connection(("127.0.0.1", program.port)) for _ in range(51)]
        for client in silent[1:]:
            client.sendall(b"\x16\x03\x01")  # the beginning of a handshake
        for _ in range(5):
            assert get(program.port).startswith("0 ")
        new = program.reload(1, pid)
        assert get(program.port).split()[0] in "01"
        for client in silent:
            client.settimeout(TIMEOUT)
            assert client.recv(1) == b""
            client.close()
        program.wait(
            r"no TLS handshake with 127.0.0.1:\d+: not complete within 1.5 s; it is closed"
        )
        program.wait_alone(new)
        program.stop(new)
        assert "Traceback" not in program.text


def test_a_plain_server_waits_for_a_silent_client_no_longer_than_the_timeout(tmp_path):
    with https(tmp_path, "HTTPSServer", "handshake_timeout = 0.2") as program:
        pid = program.wait_serving()
        with socket.create_connection(("127.0.0.1", program.port)):
            assert get(program.port).startswith("0 ")
        program.stop(pid)


def test_the_new_generation_reads_the_certificate_afresh_and_a_broken_one_changes_nothing(tmp_path):
    with https(tmp_path) as program:
        pid = program.wait_serving()
        before = serial(program.port)
        (tmp_path / "cert").write_text("broken")
        os.kill(pid, signal.SIGHUP)
        program.wait("reload failed: .*exited with status 1.*goes on serving")
        assert serial(program.port) == before
        certificate(tmp_path)
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert serial(program.port) != before
        program.stop(new)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", b"", b"\x16\x03\x01\x00\x01\xff"])
def test_what_is_no_handshake_costs_one_line(data, tmp_path):
    with https(tmp_path, settings="handshake_timeout = 0.5") as program:
        pid = program.wait_serving()
        with socket.create_connection(("127.0.0.1", program.port)) as client:
            client.sendall(data)
            if not data:
                client.shutdown(socket.SHUT_WR)
            program.wait(rf"no TLS handshake with 127.0.0.1:{client.getsockname()[1]}: ")
        assert get(program.port).startswith("0 ")
        program.stop(pid)
        assert "Traceback" not in program.text


def test_protocols_are_negotiated(tmp_path):
    with https(tmp_path) as program:
        pid = program.wait_serving()
        plain = socket.create_connection(("127.0.0.1", program.port))
        with client_context(["h2", "http/1.1"]).wrap_socket(plain) as client:
            assert client.selected_alpn_protocol() == "http/1.1"
        program.stop(pid)


@pytest.mark.slow
def test_the_hammer_ends_an_encrypted_answer(tmp_path):
    with https(tmp_path, settings="drain_timeout = 0.3") as program:
        pid = program.wait_serving()
        client = secure(program.port)
        client.request("GET", "/slow")
        new = program.reload(1, pid)
        program.wait("drain time is over: cuts 127.0.0.1:")
        program.wait_alone(new)
        client.close()
        program.stop(new)


FAKE = """
import http.server, socketserver

class HTTPSServer(http.server.HTTPServer):
    def __init__(self, server_address, RequestHandlerClass, bind_and_activate=True, *,
                 certfile, keyfile=None, password=None, alpn_protocols=None):
        self.theirs = certfile
        super().__init__(server_address, RequestHandlerClass, bind_and_activate)
    def server_activate(self):
        raise AssertionError("would wrap the listener")

class ThreadingHTTPSServer(socketserver.ThreadingMixIn, HTTPSServer):
    daemon_threads = True

http.server.HTTPSServer, http.server.ThreadingHTTPSServer = HTTPSServer, ThreadingHTTPSServer
"""


def test_they_are_true_subclasses_where_the_library_has_such_classes(tmp_path):
    """Python 3.14's classes, simulated by their signature."""
    certificate(tmp_path)
    (tmp_path / "code").write_text(SERVE.format(kind="ThreadingHTTPSServer", settings="pass"))
    check = (
        "import endless_py\n"
        "assert issubclass(endless_py.ThreadingHTTPSServer, http.server.ThreadingHTTPSServer)\n"
        "assert issubclass(endless_py.HTTPSServer, http.server.HTTPSServer)\n"
    )
    program = (PROGRAMS / "custom.py").read_text()
    with Program(FAKE + check + program, tmp_path, command=[sys.executable, "-c"]) as program:
        pid = program.wait_serving()
        assert get(program.port).startswith("0 ")
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert get(program.port).startswith("1 ")
        program.stop(new)


def command(*words):
    return [sys.executable, "-m", "endless_py", "0", "--bind", "127.0.0.1", *map(str, words)]


def test_the_command_serves_https(tmp_path):
    certificate(tmp_path, password="secret")
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "file").write_text("content")
    words = ["--tls-cert", "cert", "--tls-key", "key", "--tls-password-file", "password"]
    with Program(command=command(*words), cwd=tmp_path) as program:
        pid = program.wait_serving()
        assert get(program.port, "/file") == "content"
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert get(program.port, "/file") == "content"
        program.stop(new)


BAD = {
    "key alone": (["--tls-key", "key"], 2, "--tls-key requires --tls-cert"),
    "password alone": (["--tls-password-file", "x"], 2, "--tls-password-file requires --tls-cert"),
    "no password file": (["--tls-cert", "cert", "--tls-password-file", "none"], 2, "No such file"),
    "no certificate": (["--tls-cert", "none"], 1, "read the TLS certificate none: No such file"),
    "no password": (["--tls-cert", "cert", "--tls-key", "key"], 1, "cannot use the TLS cert"),
    "not a certificate": (["--tls-cert", "text"], 1, "cannot use the TLS certificate text"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_command_refuses(name, tmp_path):
    words, status, text = BAD[name]
    certificate(tmp_path, password="secret")
    (tmp_path / "text").write_text("text")
    done = subprocess.run(
        command(*words),
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == status
    assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_python_without_ssl_is_told_when_the_server_is_made(tmp_path):
    code = (
        "import sys; sys.modules['ssl'] = sys.modules['_ssl'] = None\n"
        "import endless_py\n"
        "endless_py.HTTPSServer(('127.0.0.1', 0), None, certfile='x')"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    line = "RuntimeError: this Python has no ssl module, so it cannot serve HTTPS"
    assert done.stderr.splitlines()[-1] == line
