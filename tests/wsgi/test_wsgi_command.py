"""python -m endless_py wsgi, as an operator meets it."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
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
    reloads_under,
    slow,
    until,
)
from secure import SecureLoad, certificate
from secure import get as get_secure
from worker_team import all_answer

HERE = Path(__file__).resolve().parent
COMMAND = [sys.executable, "-m", "endless_py", "wsgi"]


def env():
    return environment(PYTHONPATH=f"{ROOT}{os.pathsep}{HERE}")


def wsgi(*words, **options):
    return Program(*words, command=COMMAND, env=env(), **options)


def run(*words):
    return subprocess.run(
        [*COMMAND, *map(str, words)], capture_output=True, text=True, env=env(), timeout=TIMEOUT
    )


@pytest.mark.parametrize("name", ["plain", slow("flask"), slow("django"), slow("bottle")])
@pytest.mark.timeout(120)
def test_reloads_under_load_lose_nothing(name):
    if name != "plain" and importlib.util.find_spec(name) is None:
        missing = f"{name} is not there: pip install '.[third-party]'"
        pytest.fail(missing) if "CI_RUN" in os.environ else pytest.skip(missing)
    port = free_port()
    factory = "applications:plain" if name == "plain" else f"applications:{name}_app()"
    with wsgi(factory, "-b", f"127.0.0.1:{port}") as program:
        assert "Traceback" not in reloads_under(
            Load(port), program, 3 if name == "plain" else often(20)
        )


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_few_threads_and_many_clients_lose_nothing():
    port = free_port()
    with wsgi("applications:plain", "-b", f"127.0.0.1:{port}", "--threads", "2") as program:
        assert "Traceback" not in reloads_under(Load(port), program, 3)


@pytest.mark.slow
def test_a_unix_socket(tmp_path):
    with wsgi("applications:plain", "-b", f"unix:{tmp_path}/socket") as program:
        assert "Traceback" not in reloads_under(Load(tmp_path / "socket"), program, 2)


@pytest.mark.slow
def test_tls(tmp_path):
    certificate(tmp_path)
    port = free_port()
    words = ["--certfile", tmp_path / "cert", "--keyfile", tmp_path / "key"]
    with wsgi("applications:environment", "-b", f"127.0.0.1:{port}", *words) as program:
        pid = program.wait_serving()
        assert get_secure(port).endswith("\nhttps")
        program.stop(pid)
    with wsgi("applications:plain", "-b", f"127.0.0.1:{port}", *words) as program:
        assert "Traceback" not in reloads_under(SecureLoad(port), program, 2)


@pytest.mark.slow
def test_one_connection_goes_through_reloads():
    port = free_port()
    with wsgi("applications:plain", "-b", f"127.0.0.1:{port}") as program:
        pid = program.wait_serving()
        client = connect(port)
        client.connect()
        place = client.sock.getsockname()
        for generation in range(3):
            client.request("GET", "/")
            assert client.getresponse().read() == f"{generation} {pid} end".encode()
            assert client.sock.getsockname() == place
            if generation < 2:
                pid = program.reload(generation + 1, pid)
                program.wait_alone(pid)
        client.close()
        program.stop(pid)


def test_several_addresses_and_a_pid_file(tmp_path):
    port = free_port()
    words = ["-b", f"127.0.0.1:{port}", "-b", f"unix:{tmp_path}/socket", "-p", tmp_path / "pid"]
    with wsgi("applications:plain", *words) as program:
        pid = program.wait_serving(count=2)
        until((tmp_path / "pid").exists)
        for generation in range(2):
            assert get(port) == get(tmp_path / "socket") == f"{generation} {pid} end"
            assert int((tmp_path / "pid").read_text()) == pid
            if not generation:
                pid = program.reload(1, pid, count=2)
                program.wait_alone(pid)
        os.kill(pid, signal.SIGINT)
        program.wait_alone(None)
        assert "Traceback" not in program.text
    assert not (tmp_path / "pid").exists()


def test_folder_environment_and_access_log(tmp_path):
    (tmp_path / "here.py").write_text("from applications import environment as application\n")
    port = free_port()
    words = ["-b", f"127.0.0.1:{port}", "--chdir", tmp_path, "-e", "COLOUR=blue=green"]
    with wsgi("here", *words, "--access-log", "log") as program:
        pid = program.wait_serving()
        assert get(port) == f"{tmp_path}\nblue=green\nhttp"
        log = tmp_path / "log"
        until(lambda: log.read_text().count("\n") == 1)
        log.rename(tmp_path / "old")
        pid = program.reload(1, pid)
        program.wait_alone(pid)
        get(port, "/again")
        until(lambda: '"GET /again HTTP/1.1" 200 ' in log.read_text())
        assert "/again" not in (tmp_path / "old").read_text()
        program.stop(pid)


@pytest.mark.slow
def test_watch(tmp_path):
    (tmp_path / "here.py").write_text("from applications import plain as application\n")
    port = free_port()
    words = ["-b", f"127.0.0.1:{port}", "--chdir", tmp_path, "--watch", "here.py"]
    with wsgi("here:application", *words) as program:
        pid = program.wait_serving()
        assert get(port) == f"0 {pid} end"
        (tmp_path / "here.py").write_text("from applications import flawed\n")
        program.wait("cannot import name 'flawed'")
        assert get(port) == f"0 {pid} end"  # code that does not start changes nothing
        (tmp_path / "here.py").write_text("from applications import plain as application  #\n")
        new = int(program.wait(r"\[(\d+)\] generation [12]: serves ")[1])
        program.wait_alone(new)
        program.stop(new)


def test_a_busy_connection_makes_way_for_one_that_waits():
    port = free_port()
    words = ["-b", f"127.0.0.1:{port}", "--threads", "1", "--keep-alive", "60"]
    ask = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with wsgi("applications:plain", *words) as program:
        pid = program.wait_serving()
        address = ("127.0.0.1", port)
        with (
            socket.create_connection(address, TIMEOUT) as busy,
            socket.create_connection(address, TIMEOUT) as waits,
        ):
            waits.sendall(ask)
            waits.settimeout(10)
            for _ in range(3):  # a look at the queue counts for a moment
                busy.sendall(ask)
                answer = busy.recv(1000)
                assert answer.startswith(b"HTTP/1.1 200 ")
                if b"Connection: close" in answer:
                    break
                time.sleep(0.1)
            assert waits.recv(1000).startswith(b"HTTP/1.1 200 ")
        program.stop(pid)


@pytest.mark.parametrize("idle", [0, 2])
def test_idle_connections_do_not_keep_others_from_the_threads_for_long(idle):
    port = free_port()
    words = ["-b", f"127.0.0.1:{port}", "--threads", "2", "--keep-alive", "0.3"]
    with wsgi("applications:plain", *words) as program:
        pid = program.wait_serving()
        clients = [socket.create_connection(("127.0.0.1", port), TIMEOUT) for _ in range(idle)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        start = time.monotonic()
        assert get(port) == f"0 {pid} end"
        assert time.monotonic() - start < 5
        for client in clients:
            client.close()
        program.stop(pid)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["no_such_module:app"], "there is no module 'no_such_module'"),
        (["applications.py:app"], "give its name, without .py"),
        (["applications:missing"], "applications has no 'missing'"),
        (["applications:holder.missing"], "applications:holder has no 'missing'"),
        (["applications:number"], "a int cannot be called"),
        (["applications:number()"], "applications:number is no factory"),
        (["applications:nothing()"], "has returned None"),
        (["applications:a b"], "is neither MODULE:NAME nor MODULE:FACTORY()"),
        (["applications:plain", "-b", "x:99999"], "'99999' is not a port"),
        (["applications:plain", "-b", "::1"], "an IPv6 address goes in brackets"),
        (["applications:plain", "--certfile", "/no/file"], "cannot read the certfile /no/file"),
        (["applications:plain", "--chdir", "/no/folder"], "cannot change to /no/folder"),
        (["applications:plain", "--forwarded-allow-ips", "me"], "'me' does not appear to be"),
        (["applications:plain", "--access-log", "/no/log"], "cannot write the access log /no/log"),
    ],
)
def test_what_cannot_be_served_is_one_line(words, text):
    done = run(*words)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("python -m endless_py wsgi: error: ")
    assert text in line


@pytest.mark.slow
def test_workers_are_told_of_each_other_and_reloaded_as_one():
    port = free_port()
    with wsgi("applications:plain", "-w3", "-b", f"127.0.0.1:{port}") as program:
        pid = program.wait_serving()
        all_answer(port)
        done = subprocess.run(
            [sys.executable, "-m", "endless_py", "status", str(pid)],
            capture_output=True,
            text=True,
            env=env(),
            timeout=TIMEOUT,
        )
        assert all(f"worker {number}, " in done.stdout for number in range(3)), done.stdout
        with Load(port) as load:
            load.wait_answer("0 ")
            new = program.reload(1, pid)
            load.wait_answer("1 ")
        assert load.lost == []
        os.kill(new, signal.SIGTERM)
        program.wait_alone(None)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("count", [2, slow(20)])
def test_workers_with_several_addresses(count, tmp_path):
    addresses = free_port(), str(tmp_path / "socket")
    binds = ["-b", f"127.0.0.1:{addresses[0]}", "-b", f"unix:{addresses[1]}"]
    health = free_port()
    words = [*binds, "--health", f"127.0.0.1:{health}", "-p", tmp_path / "pid"]
    with wsgi("applications:plain", "-w3", *words) as program:
        pid = program.wait_serving(count=3)
        for address in addresses:
            seen = set()
            until(lambda a=address, seen=seen: seen.add(get(a).split()[1]) or len(seen) == 3)
        with Load(addresses[0]) as load, Load(addresses[1]) as other:
            for generation in range(1, count + 1):
                for each in (load, other):
                    each.wait_answer(f"{generation - 1} ")
                pid = program.reload(generation, pid, count=3)
                assert get(health, "/readyz") == "ready\n"
        assert (load.lost, other.lost) == ([], [])
        until(lambda: program.process.poll() is not None and len(program.pids()) == 4)
        assert int((tmp_path / "pid").read_text()) == pid
        os.kill(pid, signal.SIGTERM)
        program.wait_alone(None)
        assert "Traceback" not in program.text
    assert not os.path.exists(addresses[1])


@pytest.mark.slow
def test_workers_of_several_addresses_that_cannot_begin(tmp_path):
    words = ["-w2", "-b", f"unix:{tmp_path}/1", "-b", f"unix:{tmp_path}/2"]
    code = "import endless_py\nfrom applications import plain\n"
    code += "@endless_py.on_worker_start\ndef fail(number):\n    assert not number\n"
    (tmp_path / "failing.py").write_text(code)
    done = run("failing:plain", "--chdir", tmp_path, *words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "python -m endless_py wsgi: error: worker 1 (pid"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-w", "0"], "workers must be 1 to 512 processes"),
        (["-t", "30"], "-t is not there"),
        (["--threads", "0"], "'0' is not a number of at least 1"),
        (["--keyfile", "x"], "--keyfile requires --certfile"),
        (["--env", "x"], "'x' is not NAME=VALUE"),
        ([], "the following arguments are required: MODULE:APPLICATION"),
    ],
)
def test_wrong_arguments(words, text):
    done = run(*words, *(["applications:plain"] if words else []))
    assert done.returncode == 2
    assert text in done.stderr.splitlines()[-1]


def test_a_module_that_cannot_be_imported_shows_its_traceback(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    done = run("broken:app", "--chdir", tmp_path)
    assert done.returncode == 1
    assert "broken.py" in done.stderr
    assert "No module named 'no_such_thing'" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("the traceback above says why")


@pytest.mark.slow
def test_dotted_names_and_a_taken_address():
    port = free_port()
    with wsgi("applications:holder.application", "-b", f"127.0.0.1:{port}") as program:
        pid = program.wait_serving()
        assert get(port) == f"0 {pid} end"
        done = run("applications:plain", "-b", f"127.0.0.1:{port}")
        assert done.returncode == 1
        assert "another program has it" in done.stderr
        program.stop(pid)
