"""python -m endless_py asgi --workers N: uvicorn in each of several processes, reloaded as one."""

from __future__ import annotations

import collections
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
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
    often,
    slow,
    until,
)
from secure import SecureLoad, certificate
from websocket import WebSocketClient
from worker_team import all_answer, wait_settled

if importlib.util.find_spec("uvicorn") is None and "CI_RUN" not in os.environ:
    pytest.skip("uvicorn is not there: pip install '.[test]'", allow_module_level=True)
HERE = Path(__file__).resolve().parent
COMMAND = [sys.executable, "-m", "endless_py", "asgi"]


def env(**more):
    return environment(PYTHONPATH=f"{ROOT}{os.pathsep}{HERE}", **more)


def asgi(folder, *words, workers=3, **more):
    words = ["shop:app", "-w", str(workers), *words]
    return Program(*words, command=COMMAND, env=env(**more), cwd=folder)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("count", "keep_pid"), [slow(often(20), "no"), slow(often(20), "yes")])
def test_reloads_under_load_lose_nothing(count, keep_pid, tmp_path):
    addresses, health = (free_port(), tmp_path / "socket"), free_port()
    words = ["-b", f"127.0.0.1:{addresses[0]}", "-b", "unix:socket", "-p", "pid"]
    words += ["--health", f"127.0.0.1:{health}", "--access-log", "log"]
    with asgi(tmp_path, *words, ENDLESS_PY_KEEP_PID=keep_pid) as program:
        pid = program.wait_serving(count=3)
        seen = []
        for address in addresses:
            until(lambda a=address: seen.append((a, get(a).split()[1])) or len({*seen}) % 3 == 0)
        with Load(addresses[0]) as load, Load(addresses[1]) as other:
            for generation in range(1, count + 1):
                for each in (load, other):
                    each.wait_answer(f"{generation - 1} ")
                pid = program.reload(generation, pid, count=3)
                if keep_pid == "yes":
                    pid = program.pid
                    program.wait(rf"\[{pid}\] generation {generation}: generation .* has ended")
                assert get(health, "/readyz") == "ready\n"
            load.wait_answer(f"{count} ")
        assert (load.lost, other.lost) == ([], [])
        wait_settled(program, pid)
        assert int((tmp_path / "pid").read_text()) == pid
        asked = len(load.answers) + len(other.answers) + len(seen)
        until(lambda: (tmp_path / "log").read_text().count(" 200 ") == asked)
        os.kill(pid, signal.SIGTERM)
        program.wait_alone(None)
        assert "Traceback" not in program.text
        assert program.text.count("shutdown") == program.text.count("start-up done")
        assert program.text.count("Serving shop:app") == (1 + (keep_pid == "yes")) * count + 1


def test_kept_connections_are_shared_out(tmp_path):
    port = free_port()
    with asgi(tmp_path, "-b", f"127.0.0.1:{port}", workers=4) as program:
        pid = program.wait_serving()
        all_answer(port, 4)  # all are told to accept
        kept, counts = [connect(port) for _ in range(64)], collections.Counter()
        for connection in kept:
            connection.request("GET", "/")
            counts[connection.getresponse().read()] += 1
        assert len(counts) == 4
        assert all(8 <= count <= 32 for count in counts.values()), counts
        for connection in kept:
            connection.close()
        program.stop(pid)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_reloads_of_https_lose_nothing(tmp_path):
    certificate(tmp_path)
    port = free_port()
    words = ["--certfile", "cert", "--keyfile", "key", "-b", f"127.0.0.1:{port}"]
    with asgi(tmp_path, *words) as program:
        pid = program.wait_serving()
        with SecureLoad(port) as load:
            for generation in range(1, 6):
                load.wait_answer(f"{generation - 1} ")
                pid = program.reload(generation, pid)
            load.wait_answer("5 ")
        assert load.lost == []
        wait_settled(program, pid)
        program.stop(pid)
        assert "Traceback" not in program.text


@pytest.mark.slow
def test_websockets_of_all_are_closed_with_1012_at_a_second_order(tmp_path):
    port = free_port()
    with asgi(tmp_path, "-b", f"127.0.0.1:{port}") as program:
        pid = program.wait_serving()
        clients = [WebSocketClient(port) for _ in range(6)]
        for client in clients:
            assert client.receive() == "hello"
        program.reload(1, pid)
        for client in clients:
            client.send("a")
            assert client.receive() == "0 a"
        os.kill(pid, signal.SIGUSR2)
        for client in clients:
            assert client.receive() == 1012
            client.__exit__()
        program.wait_alone(None)  # that order is for the successor as well
        assert "Traceback" not in program.text


@pytest.mark.slow
def test_the_delay_of_a_stop_is_one(tmp_path):
    port, health = free_port(), free_port()
    words = ["-b", f"127.0.0.1:{port}", "--health", f"127.0.0.1:{health}", "--stop-delay", "1.5"]
    with asgi(tmp_path, *words) as program:
        pid = program.wait_serving(count=2)
        began = time.monotonic()
        os.killpg(pid, signal.SIGTERM)
        program.wait(r"SIGTERM; goes on accepting for 1.5 s")
        all_answer(port)
        assert get(health, "/readyz").startswith("not ready")
        program.wait("the stop_delay is over; finishing ")
        assert time.monotonic() - began > 1.4
        program.wait_alone(None)


@pytest.mark.slow
def test_a_start_up_that_fails_in_a_worker(tmp_path):
    (tmp_path / "broken").touch()
    port = free_port()
    done = subprocess.run(
        [*COMMAND, "shop:app", "-w2", "-b", f"127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        env=env(),
        cwd=tmp_path,
        timeout=TIMEOUT,
    )
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("python -m endless_py asgi: error: worker 1 (pid ")
    assert line.endswith(" has ended, before it could serve")
    (tmp_path / "broken").unlink()
    with asgi(tmp_path, "-b", f"127.0.0.1:{port}") as program:
        pid = program.wait_serving()
        (tmp_path / "broken").touch()
        with Load(port, keep_alive=False) as load:
            os.kill(pid, signal.SIGHUP)
            program.wait(r"reload failed: .* exited with status 1")
        assert load.lost == []
        (tmp_path / "broken").unlink()
        new = program.reload(1, pid)
        wait_settled(program, new)
        program.stop(new)


@pytest.mark.slow
def test_sigkill_of_a_worker_and_of_the_leader(tmp_path):
    port = free_port()
    with asgi(tmp_path, "-b", f"127.0.0.1:{port}") as program:
        pid = program.wait_serving()
        pids = {int(answer.split()[1]) for answer in all_answer(port)}
        victim = (pids - {pid}).pop()
        with Load(port) as load:
            os.kill(victim, signal.SIGKILL)
            program.wait(rf"lost worker \d \(pid {victim}\), killed by SIGKILL")
            all_answer(port)
        assert len(load.lost) <= 6
        answers = []
        thread = threading.Thread(target=lambda: answers.append(get(port, "/slow?1")))
        thread.start()
        os.kill(pid, signal.SIGKILL)
        program.process.wait()
        until(lambda: not program.pids())
