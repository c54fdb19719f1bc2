"""Two servers behind a real HAProxy, and behind a real nginx: each is stopped and started again."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from harness import ROOT, TIMEOUT, Program, environment, free_port, tool, until

PAGE = (ROOT / "endless_py" / "docs" / "several_machines.md").read_text()
FILES = Path(__file__).parent
COMMANDS = """\
python3 -m endless_py wsgi shop:app --bind 127.0.0.1:8001 --health 127.0.0.1:9101 --stop-delay 5
python3 -m endless_py wsgi shop:app --bind 127.0.0.1:8002 --health 127.0.0.1:9102 --stop-delay 5
"""
SHOP = """
import os, time
def app(environ, start_response):
    size = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(size)
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.5)
    data = b"%s %d %d end" % (environ["SERVER_PORT"].encode(), os.getpid(), len(body))
    start_response("200 OK", [("Content-Length", str(len(data)))])
    return [data]
"""


class Machines:
    """Two servers in a folder, and which ports stand for those of the page."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "shop.py").write_text(SHOP)
        self.ports = {page: free_port() for page in (8000, 8001, 8002, 9101, 9102)}
        self.running: dict[int, Program] = {}

    def text(self, text: str) -> str:
        return re.sub(r"\b(8000|8001|8002|9101|9102)\b", lambda m: str(self.ports[int(m[0])]), text)

    def start(self, number: int, **replaced: str) -> Program:
        line = self.text(COMMANDS.splitlines()[number])
        for old, new in replaced.items():
            line = re.sub(rf"--{old}-delay \d+", f"--{old}-delay {new}", line)
        words = [sys.executable, *shlex.split(line)[1:]]
        program = Program(command=words, cwd=self.folder, env=environment())
        self.running[number] = program
        program.wait_serving(count=2)
        return program

    def stop(self, number: int) -> float:
        """TERM, as a deploy does; return how many seconds it takes."""
        program, began = self.running.pop(number), time.monotonic()
        os.kill(program.pid, signal.SIGTERM)
        program.wait_alone(None)
        program.__exit__(None, None, None)
        return time.monotonic() - began

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *what: object) -> None:
        for program in self.running.values():
            program.__exit__(*what)


class Clients:
    """Who asks the proxy without a pause: each time anew, over one connection, slowly, by POST."""

    def __init__(self, port: int):
        self.port = port
        self.lost: list[str] = []
        self.answers: list[str] = []
        self._over = threading.Event()
        kinds = (self._new, self._new, self._kept, self._slow, self._post)
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in kinds]

    def _run(self, kind) -> None:
        while not self._over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
            try:
                kind(connection)
            except Exception as error:
                self.lost.append(f"{kind.__name__}: {error!r}")
            finally:
                connection.close()

    def _ask(self, connection, path="/", method="GET", body=None) -> bool:
        connection.request(method, path, body)
        response = connection.getresponse()
        text = response.read().decode()
        if response.status != 200 or not text.endswith(" end"):
            raise AssertionError(f"{response.status} {text!r}")
        self.answers.append(text)
        self._over.wait(0.005)
        return response.getheader("Connection") != "close"

    def _new(self, connection) -> None:
        self._ask(connection)

    def _slow(self, connection) -> None:
        self._ask(connection, "/slow")

    def _post(self, connection) -> None:
        self._ask(connection, "/", "POST", b"order" * 100)

    def _kept(self, connection) -> None:
        while self._ask(connection) and not self._over.is_set():
            pass

    def wait_for(self, port: int, pid: int) -> None:
        """Wait until this server answers one of them."""
        start, seen = f"{port} {pid} ", len(self.answers)
        until(lambda: any(answer.startswith(start) for answer in self.answers[seen:]))

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(TIMEOUT)


@contextlib.contextmanager
def proxy(words: list[str], port: int):
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            until(lambda: process.poll() is not None or _accepts(port))
            assert process.poll() is None, process.stdout.read()
            yield
        finally:
            process.terminate()
            process.stdout.read()
            process.wait(TIMEOUT)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def haproxy(machines: Machines, retries: bool = True):
    config = (FILES / "haproxy.cfg").read_text()
    assert config in PAGE
    if not retries:
        config = config.replace("    mode http\n", "    mode http\n    retries 0\n")
    # A test may not be root, and looks at what HAProxy thinks of the servers.
    stats = f"global\n    stats socket {machines.folder}/stats mode 600\n\n"
    path = machines.folder / "haproxy.cfg"
    path.write_text(stats + machines.text(config))
    words = [tool("haproxy"), "-db", "-q", "-f", str(path)]
    return proxy(words, machines.ports[8000])


def state(machines: Machines, name: str) -> str:
    """Return what HAProxy says of a server: UP, DOWN, and what is between them."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        client.connect(f"{machines.folder}/stats")
        client.sendall(b"show stat\n")
        text = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    rows = [line.split(",") for line in text.splitlines() if line]
    return next(row[17] for row in rows if row[:2] == ["app", name])


def nginx(machines: Machines):
    config = (FILES / "nginx.conf").read_text()
    assert config in PAGE
    folder = machines.folder
    places = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = folder / "nginx.conf"
    path.write_text(
        f"daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\n    access_log off;\n{places}{machines.text(config)}}}\n"
    )
    words = [tool("nginx"), "-p", str(folder), "-c", str(path), "-e", f"{folder}/error.log"]
    return proxy(words, machines.ports[8000])


def rolling(machines: Machines, clients: Clients, is_up) -> list[float]:
    """Stop and start each in turn; return how long each stop took."""
    took = []
    for number in (0, 1):
        clients.wait_for(machines.ports[8001 + number], machines.running[number].pid)
        took.append(round(machines.stop(number), 1))
        program = machines.start(number)
        is_up(number)
        clients.wait_for(machines.ports[8001 + number], program.pid)
    return took


def test_the_commands_are_those_of_the_page():
    assert f"```sh\n{COMMANDS}```" in PAGE


@pytest.mark.slow
def test_a_rolling_restart_behind_haproxy_loses_nothing(tmp_path):
    """Without a single retry of HAProxy's."""
    with Machines(tmp_path) as machines:
        for number in (0, 1):
            machines.start(number)
        with haproxy(machines, retries=False), Clients(machines.ports[8000]) as clients:

            def is_up(number):
                until(lambda: state(machines, "ab"[number]) == "UP")

            took = rolling(machines, clients, is_up)
    print(f"{len(clients.answers)} requests, {len(clients.lost)} lost; stops {took}")
    assert clients.lost == []
    assert all(seconds >= 5 for seconds in took)


@pytest.mark.slow
def test_without_the_delay_haproxy_would_lose_some(tmp_path):
    """So the test above shows something."""
    with Machines(tmp_path) as machines:
        for number in (0, 1):
            machines.start(number, stop="0")
        with haproxy(machines, retries=False), Clients(machines.ports[8000]) as clients:
            clients.wait_for(machines.ports[8001], machines.running[0].pid)
            machines.stop(0)
            until(lambda: state(machines, "a").startswith("DOWN"))
    print(f"{len(clients.answers)} requests, {len(clients.lost)} lost")
    assert clients.lost


@pytest.mark.slow
def test_a_rolling_restart_behind_nginx_loses_nothing(tmp_path):
    with Machines(tmp_path) as machines:
        for number in (0, 1):
            machines.start(number)
        with nginx(machines), Clients(machines.ports[8000]) as clients:
            took = rolling(machines, clients, lambda _: None)
    print(f"{len(clients.answers)} requests, {len(clients.lost)} lost; stops {took}")
    assert clients.lost == []


@pytest.mark.slow
@pytest.mark.parametrize("behind", [haproxy, nginx])
def test_reloads_behind_a_proxy_lose_nothing(behind, tmp_path):
    with Machines(tmp_path) as machines:
        programs = [machines.start(number) for number in (0, 1)]
        with behind(machines), Clients(machines.ports[8000]) as clients:
            pids = [program.pid for program in programs]
            for generation in range(1, 6):
                for number, program in enumerate(programs):
                    pids[number] = program.reload(generation, pids[number], count=2)
                    clients.wait_for(machines.ports[8001 + number], pids[number])
            if behind is haproxy:
                assert state(machines, "a") == state(machines, "b") == "UP"
    print(f"{len(clients.answers)} requests, {len(clients.lost)} lost")
    assert clients.lost == []
