"""python -m endless_py asgi, as an operator meets it; docs/asgi.md says what it does."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
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
    slow,
    until,
)
from option_table import assert_complete
from secure import SecureLoad, certificate
from secure import get as get_secure
from websocket import WebSocketClient

from endless_py._asgi.by_uvicorn import _shut
from endless_py._asgi.options import parser

if importlib.util.find_spec("uvicorn") is None and "CI_RUN" not in os.environ:
    pytest.skip("uvicorn is not there: pip install '.[test]'", allow_module_level=True)
HERE = Path(__file__).resolve().parent
COMMAND = [sys.executable, "-m", "endless_py", "asgi"]
PAGE = (ROOT / "endless_py" / "docs" / "asgi.md").read_text()
SHOWN = """\
python3 -m endless_py asgi shop.web:app --bind 127.0.0.1:8000
"""


WRONG = [
    (1, ["no_such_module:app"], "there is no module 'no_such_module'"),
    (1, ["shop:missing"], "shop has no 'missing'"),
    (1, ["shop:app", "-b", "::1"], "an IPv6 address goes in brackets"),
    (1, ["shop:app", "-b", "192.0.2.1:1"], "it is the address of no interface here"),
    (1, ["shop:app", "--certfile", "/no/file"], "cannot read the certfile /no/file"),
    (1, ["shop:app", "--certfile", "/etc/passwd"], "cannot use the certificate /etc/passwd"),
    (1, ["shop:app", "--http", "h9"], "uvicorn cannot load what --http h9"),
    (2, ["shop:app", "--workers", "0"], "workers must be 1 to 512 processes"),
    (2, ["shop:app", "--port=80"], "use --bind HOST:PORT"),
    (2, ["shop:app", "--keyfile", "x"], "--keyfile requires --certfile"),
]


def env(**more):
    return environment(PYTHONPATH=f"{ROOT}{os.pathsep}{HERE}", **more)


def asgi(folder, *words, **options):
    return Program(*words, command=COMMAND, env=env(), cwd=folder, **options)


def run(*words, **more):
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        env=env(**more),
        timeout=TIMEOUT,
    )


def test_the_table_has_every_option_and_its_default():
    assert_complete(PAGE, parser())


@pytest.mark.slow
def test_the_command_of_the_page(tmp_path):
    assert f"```sh\n{SHOWN}```" in PAGE
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "web.py").write_text((HERE / "shop.py").read_text())
    port = free_port()
    words = SHOWN.replace("8000", str(port)).split()[1:]
    with Program(command=[sys.executable, *words], cwd=tmp_path, env=environment()) as program:
        pid = program.wait_serving()
        assert get(port) == f"0 {pid} end"
        pid = program.reload(1, pid)
        program.wait_alone(pid)
        assert get(port) == f"1 {pid} end"
        program.stop(pid)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("http", ["auto", slow("h11")])
def test_reloads_under_load_lose_nothing_and_close_nothing(http, tmp_path):
    port = free_port()
    with asgi(tmp_path, "shop:make('x')", "-b", f"127.0.0.1:{port}", "--http", http) as program:
        text = reloads_under(Load(port), program, 3)
        assert "Traceback" not in text
        assert text.count("made x") == text.count("shutdown") == 4


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_tls_and_a_unix_socket(tmp_path):
    certificate(tmp_path)
    port = free_port()
    words = ["--certfile", "cert", "--keyfile", "key", "-b", f"127.0.0.1:{port}"]
    with asgi(tmp_path, "shop:app", *words, "--root-path", "/here") as program:
        pid = program.wait_serving()
        assert get_secure(port, "/scope") == "https 127.0.0.1 /here"
        program.stop(pid)
    with asgi(tmp_path, "shop:app", *words) as program:
        assert "Traceback" not in reloads_under(SecureLoad(port), program, 2)
    with asgi(tmp_path, "shop:app", "-b", "unix:socket") as program:
        assert "Traceback" not in reloads_under(Load(tmp_path / "socket"), program, 2)


@pytest.mark.slow
def test_several_addresses_a_pid_file_and_an_access_log(tmp_path):
    port = free_port()
    words = ["-b", f"127.0.0.1:{port}", "-b", f"unix:{tmp_path}/socket", "-p", "pid"]
    with asgi(tmp_path, "shop:app", *words, "--access-log", "log") as program:
        pid = program.wait_serving(count=2)
        program.wait(rf"Serving shop:app on http://127.0.0.1:{port} and unix:{tmp_path}/socket")
        until((tmp_path / "pid").exists)
        for generation in range(2):
            assert get(port, "/?a=b") == get(tmp_path / "socket") == f"{generation} {pid} end"
            assert int((tmp_path / "pid").read_text()) == pid
            if not generation:
                pid = program.reload(1, pid, count=2)
                program.wait_alone(pid)
        with WebSocketClient(port, "/chat") as client:
            assert client.receive() == "hello"
            client.close(1000)
            assert client.receive() == 1000
        os.kill(pid, signal.SIGINT)
        program.wait_alone(None)
        assert "Traceback" not in program.text
        log = (tmp_path / "log").read_text()
        assert log.count('"GET /?a=b HTTP/1.1" 200 ') == 2
        assert log.count('"GET /chat HTTP/1.1" 101 ') == 1
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "https 10.1.2.3 "),
        slow(["--forwarded-allow-ips", "192.0.2.1"], "http 127.0.0.1 "),
    ],
)
def test_proxies_that_are_believed(words, expected, tmp_path):
    port = free_port()
    with asgi(tmp_path, "shop:app", "-b", f"127.0.0.1:{port}", *words) as program:
        pid = program.wait_serving()
        client = connect(port)
        headers = {"X-Forwarded-For": "bad, 10.1.2.3", "X-Forwarded-Proto": "https"}
        client.request("GET", "/scope", headers=headers)
        assert client.getresponse().read().decode() == expected
        client.close()
        program.stop(pid)


@pytest.mark.slow
def test_no_connection_is_kept_with_keep_alive_0(tmp_path):
    port = free_port()
    with asgi(tmp_path, "shop:app", "-b", f"127.0.0.1:{port}", "--keep-alive", "0") as program:
        pid = program.wait_serving()
        client = connect(port)
        client.request("GET", "/")
        assert client.getresponse().getheader("Connection") == "close"
        client.close()
        program.stop(pid)


@pytest.mark.slow
def test_watch_and_code_that_does_not_start(tmp_path):
    (tmp_path / "here.py").write_text("from shop import app\n")
    port = free_port()
    words = ["-b", f"127.0.0.1:{port}", "--chdir", tmp_path, "--watch", "here.py"]
    with asgi(None, "here:app", *words) as program:
        pid = program.wait_serving()
        (tmp_path / "here.py").write_text("from shop import flawed\n")
        program.wait("cannot import name 'flawed'")
        assert get(port) == f"0 {pid} end"
        (tmp_path / "here.py").write_text("from shop import app  #\n")
        new = int(program.wait(r"\[(\d+)\] generation [12]: serves ")[1])
        program.wait_alone(new)
        program.stop(new)


@pytest.mark.slow
def test_a_start_up_that_fails_is_said(tmp_path):
    (tmp_path / "broken").touch()
    with asgi(tmp_path, "shop:app", "-b", f"127.0.0.1:{free_port()}") as program:
        program.wait("error: the start-up of shop:app has failed; the lines above say why")
        assert program.process.wait(TIMEOUT) == 1


@pytest.mark.slow
def test_without_uvicorn_one_line_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['uvicorn'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    path = os.pathsep.join(map(str, (tmp_path, ROOT, HERE)))
    done = subprocess.run(
        [*COMMAND, "shop:app"], capture_output=True, text=True, env=environment(PYTHONPATH=path)
    )
    assert done.returncode == 1
    assert done.stderr == (
        "python -m endless_py asgi: error: uvicorn is not there: "
        "python3 -m pip install 'endless-py[asgi]'\n"
    )


@pytest.mark.parametrize(
    ("status", "words", "text"),
    [*WRONG[:2], *(slow(*each) for each in WRONG[2:])],
)
def test_what_cannot_be_is_one_line(status, words, text):
    done = run(*words)
    assert done.returncode == status
    line = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert line.startswith("python -m endless_py asgi: error: ")
    assert text in line


def test_a_websocket_is_told_goodbye_once():
    """uvicorn does so again at its own end, and wsproto raises for a second close."""

    class Connection:
        told = 0

        def shutdown(self):
            self.told += 1

    connection = Connection()
    _shut(connection)
    connection.shutdown()
    assert connection.told == 1
