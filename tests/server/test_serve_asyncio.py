"""serve_asyncio(): asyncio's own servers, uvicorn and hypercorn, reloaded under load."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
from harness import TIMEOUT, Program, environment, first, get, reloads_under_load, until

import endless_py

KINDS = ("asyncio", "uvicorn", "hypercorn")


def start(folder, kind, code=""):
    if importlib.util.find_spec(kind) is None:
        pytest.skip(f'{kind} is in the extra "third-party"')
    (folder / "code").write_text(code)
    return Program("serves_asyncio.py", folder, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_reloads_under_load_lose_nothing(kind, tmp_path):
    with start(tmp_path, kind) as program:
        text = reloads_under_load(program, 10, keep_alive=False)
        assert "Traceback" not in text
        assert text.count("cleaned up") >= 10


def status(pid):
    words = [sys.executable, "-m", "endless_py", "status", str(pid)]
    return subprocess.run(
        words, env=environment(), capture_output=True, text=True, timeout=TIMEOUT
    ).stdout


def ask(port, path, answers):
    try:
        answers.append(get(port, path))
    except (OSError, http.client.HTTPException) as error:
        answers.append(repr(error))


@pytest.mark.parametrize("kind", first(KINDS))
def test_what_is_active_is_counted_and_finished(kind, tmp_path):
    answers: list[str] = []
    with start(tmp_path, kind) as program:
        pid = program.wait_serving()
        thread = threading.Thread(target=ask, args=(program.port, "/hang", answers))
        thread.start()
        while not (tmp_path / "hangs").exists():
            assert thread.is_alive()
        assert " 1       0" in status(pid)
        os.kill(pid, signal.SIGHUP)
        program.wait("finishing 1 requests")
        new = program.wait_serving(1)
        until = time.monotonic() + TIMEOUT
        while not get(program.port).startswith("1 "):  # its loop has not heard of the drain yet
            assert time.monotonic() < until
        assert not answers
        (tmp_path / "go").touch()
        thread.join(TIMEOUT)
        assert answers == [f"0 {pid} end"]
        program.wait_alone(new)
        program.stop(new)


@pytest.mark.parametrize("kind", first(KINDS))
def test_at_a_stop_new_clients_are_refused_while_others_finish(kind, tmp_path):
    answers: list[str] = []
    with start(tmp_path, kind) as program:
        pid = program.wait_serving()
        thread = threading.Thread(target=ask, args=(program.port, "/hang", answers))
        thread.start()
        until((tmp_path / "hangs").exists)
        os.kill(pid, signal.SIGTERM)

        def refused():
            with contextlib.suppress(ConnectionResetError, http.client.RemoteDisconnected):
                try:
                    get(program.port)
                except ConnectionRefusedError:
                    return True

        until(refused)
        assert not answers
        (tmp_path / "go").touch()
        thread.join(TIMEOUT)
        assert answers == [f"0 {pid} end"]
        program.wait_alone(None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", first(KINDS))
def test_what_outlasts_the_drain_is_cut_and_named(kind, tmp_path):
    answers: list[str] = []
    with start(tmp_path, kind, "drain_timeout = 0.5") as program:
        pid = program.wait_serving()
        thread = threading.Thread(target=ask, args=(program.port, "/hang", answers))
        thread.start()
        while not (tmp_path / "hangs").exists():
            assert thread.is_alive()
        new = program.reload(1, pid)
        program.wait(rf"drain time is over: cuts 127.0.0.1:\d+ on tcp 127.0.0.1:{program.port}, ")
        thread.join(TIMEOUT)
        assert not answers[0].endswith("end")
        program.wait_alone(new)
        program.stop(new)


@pytest.mark.slow
def test_a_client_that_resets_leaves_nothing_behind(tmp_path):
    with start(tmp_path, "asyncio") as program:
        pid = program.wait_serving()
        for _ in range(20):
            client = socket.create_connection(("127.0.0.1", program.port), TIMEOUT)
            client.sendall(b"GET / HTTP/1.0\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        until = time.monotonic() + TIMEOUT
        while " 0       0" not in status(pid):
            assert time.monotonic() < until
        new = program.reload(1, pid)
        program.wait_alone(new)
        program.stop(new)


@pytest.mark.slow
def test_a_client_that_connected_just_before_the_drain_is_answered(tmp_path):
    with start(tmp_path, "uvicorn") as program:
        pid = program.wait_serving()
        with socket.create_connection(("127.0.0.1", program.port), TIMEOUT) as client:
            until = time.monotonic() + TIMEOUT
            while " 1       0" not in status(pid):
                assert time.monotonic() < until
            os.kill(pid, signal.SIGHUP)
            program.wait("finishing 1 requests")
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.makefile("rb").read().endswith(f"0 {pid} end".encode())
        new = program.wait_serving(1)
        program.wait_alone(new)
        program.stop(new)


def test_what_the_server_raises_comes_out(tmp_path):
    import asyncio

    async def broken(listener):
        raise OSError("no luck")

    with pytest.raises(OSError, match="no luck"):
        asyncio.run(endless_py.serve_asyncio(broken, ("127.0.0.1", 0)))
    assert endless_py.state()["servers"] == []  # nothing is left bound
