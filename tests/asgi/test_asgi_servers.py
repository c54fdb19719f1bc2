"""The programs of docs/asgi.md: uvicorn, hypercorn and aiohttp, with clients that keep on."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest
from harness import (
    ROOT,
    TIMEOUT,
    Load,
    Program,
    connect,
    environment,
    free_port,
    get,
    reloads_under,
    until,
)
from websocket import WebSocketClient
from worker_team import all_answer

HERE = Path(__file__).resolve().parent
KINDS = ("uvicorn", "hypercorn", "aiohttp")
with_websockets = pytest.mark.parametrize("kind", KINDS[:2])
each_kind = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.slow


def start(folder, kind, port, workers=1, **replaced):
    """The page's program, with other settings."""
    if importlib.util.find_spec(kind) is None:
        if kind == "aiohttp" and sys.version_info >= (3, 15):
            pytest.skip("it is not there for this Python")  # as the extra has it
        missing = f"{kind} is not there: pip install '.[third-party]'"
        pytest.fail(missing) if "CI_RUN" in os.environ else pytest.skip(missing)
    if kind == "aiohttp":
        shutil.copy(HERE / "shop.py", folder / "shop_asgi.py")
        shutil.copy(HERE / "shop_aiohttp.py", folder / "shop.py")
    else:
        shutil.copy(HERE / "shop.py", folder)
    text = (ROOT / "tests" / "examples" / f"{kind}_server.py").read_text()
    replaced = {"8000": port, "drain_timeout=30": "drain_timeout=30, keep_pid=False", **replaced}
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, str(new))
    if workers > 1:
        code, last = text.rstrip().rsplit("\n", 1)
        assert last.startswith("asyncio.run(")
        text = f"{code}\nendless_py.run_workers(lambda: {last}, {workers})\n"
    (folder / "serve.py").write_text(text)
    return Program(command=[sys.executable, "serve.py"], cwd=folder, env=environment())


@each_kind
@pytest.mark.timeout(120)
def test_reloads_under_load_lose_nothing_and_close_nothing(kind, tmp_path):
    port = free_port()
    with start(tmp_path, kind, port) as program:
        text = reloads_under(Load(port), program, 3 if kind == "uvicorn" else 5)
        assert "Traceback" not in text
        assert text.count("shutdown") == text.count("start-up done")


@each_kind
@pytest.mark.timeout(120)
def test_workers_are_reloaded_under_load(kind, tmp_path):
    port = free_port()
    with start(tmp_path, kind, port, workers=3) as program:
        pid = program.wait_serving()
        all_answer(port)
        with Load(port) as load:
            for generation in (1, 2, 3):
                load.wait_answer(f"{generation - 1} ")
                pid = program.reload(generation, pid)
            load.wait_answer("3 ")
        assert load.lost == []
        until(lambda: program.process.poll() is not None and len(program.pids()) == 4)
        program.stop(pid)
        assert "Traceback" not in program.text
        assert program.text.count("shutdown") == program.text.count("start-up done") == 12


@each_kind
def test_the_start_up_comes_before_ready_and_the_shutdown_after_the_drain(kind, tmp_path):
    port, answers = free_port(), []
    with start(tmp_path, kind, port) as program:
        pid = program.wait_serving()
        lines = program.lines
        assert lines.index("start-up done") < next(
            number for number, line in enumerate(lines) if "generation 0: serves" in line
        )
        thread = threading.Thread(target=lambda: answers.append(get(port, "/hang")))
        thread.start()
        until((tmp_path / "hangs").exists)
        os.kill(pid, signal.SIGHUP)
        new = program.wait_serving(1)
        assert "shutdown" not in program.text
        (tmp_path / "go").touch()
        thread.join(TIMEOUT)
        assert answers == [f"0 {pid} end"]
        program.wait_alone(new)
        assert lines.index("hangs no more") < lines.index("shutdown")
        program.stop(new)
        assert program.text.count("shutdown") == 2


def kept(port):
    client = connect(port)
    return client, told(client)


def told(client):
    client.request("GET", "/")
    response = client.getresponse()
    assert response.read().endswith(b" end")
    return response.getheader("Connection")


@each_kind
def test_a_kept_connection_ends_with_its_next_response_or_after_the_grace(kind, tmp_path):
    port = free_port()
    settings = {"drain_timeout=30": "drain_timeout=30, keep_pid=False, keepalive_grace=1.5"}
    with start(tmp_path, kind, port, **settings) as program:
        pid = program.wait_serving()
        (speaks, first), (silent, _) = kept(port), kept(port)
        assert first != "close"
        new = program.reload(1, pid)
        program.wait("finishing 2 requests")
        assert told(speaks) == "close"
        silent.sock.settimeout(TIMEOUT)
        assert silent.sock.recv(1) == b""  # in order, by a FIN
        program.wait_alone(new)
        for client in (speaks, silent):
            client.close()
        program.stop(new)
        assert "drain time is over" not in program.text


def test_a_start_up_that_fails_changes_nothing(tmp_path):
    port = free_port()
    with start(tmp_path, "uvicorn", port) as program:
        pid = program.wait_serving()
        (tmp_path / "broken").touch()
        os.kill(pid, signal.SIGHUP)
        program.wait("no database")
        program.wait(r"reload failed: .* exited with status 3")
        assert get(port) == f"0 {pid} end"
        (tmp_path / "broken").unlink()
        new = program.reload(1, pid)
        program.wait_alone(new)
        program.stop(new)


@with_websockets
def test_a_websocket_lives_on_and_is_closed_with_1012_at_last(kind, tmp_path):
    port = free_port()
    settings = {"drain_timeout=30": "drain_timeout=3, keep_pid=False, keepalive_grace=0.2"}
    with start(tmp_path, kind, port, **settings) as program:
        pid = program.wait_serving()
        with WebSocketClient(port) as client:
            assert client.receive() == "hello"
            new = program.reload(1, pid)
            until(lambda: get(port).startswith("1 "))  # its loop hears of the drain a moment later
            client.send("a")
            assert client.receive() == "0 a"
            program.wait("drain time is over: cuts 127.0.0.1")
            assert client.receive() == 1012
        program.wait("disconnect 1012" if kind == "uvicorn" else "disconnect")
        program.wait_alone(new)
        assert "Traceback" not in program.text
        assert "does not end" not in program.text
        assert program.text.count("shutdown") == 1
        with WebSocketClient(port) as client:  # a second order to stop does the same at once
            assert client.receive() == "hello"
            os.kill(new, signal.SIGTERM)
            program.wait("stops: SIGTERM|SIGTERM.*finishing")
            client.send("b")
            assert client.receive() == "1 b"
            os.kill(new, signal.SIGTERM)
            assert client.receive() == 1012
        program.wait_alone(None)


@with_websockets
def test_a_websocket_whose_client_leaves_ends_the_drain(kind, tmp_path):
    port = free_port()
    with start(tmp_path, kind, port) as program:
        pid = program.wait_serving()
        with WebSocketClient(port) as client:
            assert client.receive() == "hello"
            new = program.reload(1, pid)
            client.close(1001)
        program.wait_alone(new)
        assert "drain time is over" not in program.text
        program.stop(new)
