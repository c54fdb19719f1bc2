"""Health checks, and the delay of a stop, where asyncio's loop serves: command and program."""

from __future__ import annotations

import contextlib
import http.client
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
    PROGRAMS,
    ROOT,
    TIMEOUT,
    Load,
    Program,
    connect,
    environment,
    first,
    free_port,
    get,
)

if importlib.util.find_spec("uvicorn") is None and "CI_RUN" not in os.environ:
    pytest.skip("uvicorn is not there: pip install '.[test]'", allow_module_level=True)
HERE = Path(__file__).resolve().parent
COMMAND = [sys.executable, "-m", "endless_py", "asgi"]
DELAY = 1.5


def env(**more):
    return environment(PYTHONPATH=f"{ROOT}{os.pathsep}{HERE}", **more)


def asgi(folder, port, *words, **more):
    words = ["shop:app", "-b", f"127.0.0.1:{port}", *words]
    return Program(*words, command=COMMAND, env=env(**more), cwd=folder)


def ask(port, path="/readyz"):
    client = connect(port)
    try:
        client.request("GET", path)
        response = client.getresponse()
        return response.status, response.read().decode()
    finally:
        client.close()


class Looks(threading.Thread):
    """Asks without a pause whether it is ready."""

    def __init__(self, port):
        super().__init__()
        self.port, self.answers, self.over = port, [], threading.Event()

    def run(self):
        while not self.over.is_set():
            try:
                self.answers.append(ask(self.port))
            except (OSError, http.client.HTTPException) as error:
                self.answers.append(repr(error))

    def end(self):
        self.over.set()
        self.join(TIMEOUT)
        return set(self.answers)


def accepts(port):
    try:
        assert get(port).endswith(" end")
    except (ConnectionError, http.client.RemoteDisconnected):
        return False
    return True


@pytest.mark.timeout(120)
@pytest.mark.parametrize("keep_pid", first(["no", "yes"]))
def test_it_is_ready_over_reloads_and_not_during_the_delay_of_a_stop(keep_pid, tmp_path):
    port, where = free_port(), free_port()
    words = ["--health", f"127.0.0.1:{where}", "--stop-delay", DELAY]
    with asgi(tmp_path, port, *words, ENDLESS_PY_KEEP_PID=keep_pid) as program:
        pid = program.wait_serving(count=2)
        program.wait(f"Serving shop:app on http://127.0.0.1:{port}$")
        looks = Looks(where)
        looks.start()
        with Load(port) as load:
            for generation in (1, 2, 3):
                load.wait_answer(f"{generation - 1} ")
                pid = program.reload(generation, pid, count=2)
                if keep_pid == "yes":
                    program.wait(rf"\[{pid}\] generation {generation}: generation .* has ended")
            load.wait_answer("3 ")
        assert (load.lost, looks.end()) == ([], {(200, "ready\n")})
        program.wait_alone(pid)
        kept = connect(port)
        kept.request("GET", "/")
        kept.getresponse().read()
        os.kill(pid, signal.SIGTERM)
        program.wait(rf"SIGTERM; goes on accepting for {DELAY} s \(stop_delay\)")
        began = time.monotonic()
        assert ask(where) == (503, "not ready: it was told to stop\n")
        assert ask(where, "/livez") == (200, "alive\n")
        kept.request("GET", "/")
        response = kept.getresponse()
        assert (response.status, response.getheader("Connection")) == (200, None)
        response.read()
        while accepts(port):
            assert time.monotonic() < began + TIMEOUT
        assert time.monotonic() - began > DELAY / 2
        kept.close()
        program.wait("the stop_delay is over; finishing ")
        program.wait_alone(None)
        assert "Traceback" not in program.text
        assert program.text.count("shutdown") == 4 + 3 * (keep_pid == "yes")
        for each in (port, where):
            with pytest.raises(ConnectionRefusedError):
                ask(each)


@pytest.mark.slow
def test_a_second_order_ends_the_delay_and_a_third_what_is_active(tmp_path):
    port, where, answers = free_port(), free_port(), []

    def hang():
        with contextlib.suppress(OSError, http.client.HTTPException):
            answers.append(get(port, "/hang"))

    words = ["--health", f"127.0.0.1:{where}", "--stop-delay", "60"]
    with asgi(tmp_path, port, *words) as program:
        pid = program.wait_serving(count=2)
        thread = threading.Thread(target=hang)
        thread.start()
        while not (tmp_path / "hangs").exists():
            assert thread.is_alive()
        os.kill(pid, signal.SIGTERM)
        program.wait("SIGTERM; goes on accepting for 60 s")
        assert accepts(port)
        os.kill(pid, signal.SIGTERM)
        program.wait("SIGTERM; finishing [12] requests")
        while accepts(port):
            pass
        os.kill(pid, signal.SIGTERM)
        program.wait("drain time is over: cuts ")
        thread.join(TIMEOUT)
        assert answers == []
        program.wait_alone(None)


@pytest.mark.slow
def test_an_address_in_use_fails_the_start_in_one_line_and_a_reload(tmp_path):
    port, where = free_port(), free_port()
    with asgi(tmp_path, port, "--health", f"127.0.0.1:{where}") as program:
        pid = program.wait_serving(count=2)
        words = ["shop:app", "-b", "127.0.0.1:0", "--health", f"127.0.0.1:{where}"]
        done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=env())
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            "python -m endless_py asgi: error: cannot answer health checks on "
            f"127.0.0.1:{where}: [Errno 98] Address already in use"
        ]
        program.stop(pid)


def test_what_is_no_address_is_a_wrong_argument():
    words = ["shop:app", "--health", "nowhere"]
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=env())
    assert done.returncode == 2
    assert "argument --health: health must be HOST:PORT" in done.stderr


@pytest.mark.slow
def test_a_program_on_serve_asyncio_has_them_by_the_environment(tmp_path):
    where = free_port()
    (tmp_path / "code").touch()
    more = {"ENDLESS_PY_HEALTH": f"127.0.0.1:{where}", "ENDLESS_PY_STOP_DELAY": "1"}
    words = [sys.executable, PROGRAMS / "serves_asyncio.py", tmp_path, "asyncio"]
    with Program(command=list(map(str, words)), env=environment(**more)) as program:
        pid = program.wait_serving(count=2)
        assert ask(where) == (200, "ready\n")
        pid = program.reload(1, pid, count=2)
        program.wait_alone(pid)
        assert ask(where) == (200, "ready\n")
        os.kill(pid, signal.SIGTERM)
        program.wait("goes on accepting for 1 s")
        assert ask(where)[0] == 503
        program.wait_alone(None)
        assert "Traceback" not in program.text
