"""python -m endless_py, as an operator meets it."""

from __future__ import annotations

import mimetypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from harness import TIMEOUT, Program, connect, environment, get

COMMAND = [sys.executable, "-m", "endless_py"]


def run(*words, **options):
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=TIMEOUT,
        **options,
    )


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_it_serves_a_folder_and_is_reloaded(protocol, tmp_path):
    (tmp_path / "file").write_text("content")
    words = ["0", "--bind", "127.0.0.1", "--directory", tmp_path, "--protocol", protocol]
    with Program(*words, command=COMMAND) as program:
        pid = program.wait_serving()
        assert get(program.port, "/file") == "content"
        start = program.lines[:2]
        assert f"Serving {tmp_path} on 127.0.0.1 port {program.port}" in start[0]
        assert f"kill -HUP {pid}" in start[1]
        assert f"kill -TERM {pid}" in start[1]
        with socket.create_connection(("127.0.0.1", program.port)) as client:
            client.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.makefile("rb").read().startswith(protocol.encode())
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert get(program.port, "/file") == "content"
        os.kill(new, signal.SIGINT)
        program.wait_alone(None)
        assert "Traceback" not in program.text


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="Python has no CGI any more")
def test_a_cgi_script_finishes_while_the_next_generation_serves():
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are closed to nobody
        folder = Path(name)
        script, gate = folder / "cgi-bin" / "slow", folder / "gate"
        script.parent.mkdir()
        script.write_text(f"#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n'\ncat {gate}\n")
        os.mkfifo(gate)
        for path in (script, folder, gate):
            path.chmod(0o755)  # started by root it is run as nobody
        _reload_during_the_script(folder, gate)


def _reload_during_the_script(folder, fifo):
    words = ["0", "--bind", "127.0.0.1", "--directory", folder, "--cgi"]
    with Program(*words, command=COMMAND) as program:
        pid = program.wait_serving()
        address = ("127.0.0.1", program.port)
        with (
            socket.create_connection(address, TIMEOUT) as asks,
            socket.create_connection(address, TIMEOUT) as waits,
        ):
            asks.sendall(b"GET /cgi-bin/slow HTTP/1.0\r\n\r\n")
            program.wait(r"GET /cgi-bin/slow")
            new = program.reload(1, pid)
            program.wait("finishing ")
            waits.sendall(b"GET /cgi-bin/none HTTP/1.0\r\n\r\n")
            assert b" 404 " in waits.makefile("rb").readline()
            with fifo.open("w") as gate:
                gate.write("whole")
            assert asks.makefile("rb").read().endswith(b"\n\nwhole")
        program.wait_alone(new)
        program.stop(new)


def test_the_current_folder_and_ctrl_c(tmp_path):
    (tmp_path / "here").write_text("yes")
    with Program("0", "-b", "127.0.0.1", command=COMMAND, cwd=tmp_path) as program:
        program.wait_serving()
        assert get(program.port, "/here") == "yes"
        os.kill(program.pid, signal.SIGINT)
        assert program.process.wait(TIMEOUT) == 0


def test_ipv6():
    with Program("0", "--bind", "::1", command=COMMAND) as program:
        pid = program.wait_serving()
        with socket.create_connection(("::1", program.port)):
            pass
        new = program.reload(1, pid)
        program.wait_alone(new)
        program.stop(new)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nonsense"], "'nonsense' is not a port; give a number from 0 to 65535"),
        (["65536"], "'65536' is not a port; give a number from 0 to 65535"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--protocol", "HTTP/2"], "invalid choice: 'HTTP/2'"),
    ],
)
def test_bad_arguments(words, text):
    done = run(*words)
    assert done.returncode == 2
    assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_taken_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(port, "--bind", "127.0.0.1")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert f"cannot serve on 127.0.0.1, port {port}" in lines[0]
    assert "Address already in use" in lines[0]


@pytest.mark.parametrize("address", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours(address):
    done = run(0, "--bind", address)
    assert done.returncode == 1
    assert f"cannot serve on {address}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_folder(tmp_path):
    done = run(0, "--directory", tmp_path / "none")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"python -m endless_py: error: there is no folder '{tmp_path / 'none'}'; "
        "give one with --directory"
    ]


def test_headers_and_the_content_type_are_those_of_newer_pythons(tmp_path):
    (tmp_path / "README").write_text("text")
    (tmp_path / "page.html").write_text("<p>")
    (tmp_path / "program.exe").write_text("MZ")
    words = ["0", "-b", "127.0.0.1", "-H", "X-One", "1", "--header", "X-Two", "a b"]
    with Program(*words, "--content-type", "text/plain", command=COMMAND, cwd=tmp_path) as program:
        pid = program.wait_serving()
        types = {"/README": "text/plain", "/page.html": "text/html"}
        types["/program.exe"] = mimetypes.guess_type("program.exe")[0]
        for path, kind in types.items():
            found = heads(program.port, path)
            assert (found["Content-type"], found["X-One"], found["X-Two"]) == (kind, "1", "a b")
        assert heads(program.port, "/")["X-One"] == "1"  # of a listing as well
        assert heads(program.port, "/none")["X-One"] is None
        program.stop(pid)


def heads(port, path):
    connection = connect(port)
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.headers


def test_every_option_of_the_standard_command_is_there():
    done = subprocess.run(
        [sys.executable, "-m", "http.server", "--help"], capture_output=True, text=True, check=True
    )
    newest = {"--header", "--content-type", "--tls-cert", "--tls-key", "--tls-password-file"}
    theirs = set(re.findall(r"(?<!\w)--?[\w-]+", done.stdout.partition("options")[2])) | newest
    ours = set(re.findall(r"(?<!\w)--?[\w-]+", run("--help").stdout))
    assert theirs <= ours


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-H", "X Y", "1"], "'X Y' cannot be the name of a header"),
        (["-H", "X", "1\r\nY: 2"], r"'1\r\nY: 2' cannot be the value of a header"),
        (["--content-type", "text/plain\n"], "cannot be a content type"),
        (["-H", "X"], "expected 2 arguments"),
    ],
)
def test_a_header_that_is_none_is_refused(words, text):
    done = run(*words)
    assert done.returncode == 2
    assert text in done.stderr


@pytest.mark.slow
def test_watching_what_is_not_there_is_said(tmp_path):
    words = ["0", "-b", "127.0.0.1", "--watch", str(tmp_path / "none")]
    with Program(*words, command=COMMAND) as program:
        pid = program.wait_serving()
        program.wait(rf"watch: there is no {tmp_path}/none yet; looks for it")
        (tmp_path / "none").touch()
        new = program.wait_serving(1)
        program.wait_alone(new)
        assert new != pid
        program.stop(new)
