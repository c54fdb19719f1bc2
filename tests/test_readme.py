"""Every command and snippet in the README is run, or is part of a file that a test runs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from harness import ROOT, TIMEOUT, Program, environment, get, session_pids

README = (ROOT / "README.md").read_text()
EXAMPLES = ROOT / "tests" / "examples"
BLOCKS = re.findall(r"(?:<!-- ([\w-]+) -->\n)?```(\w+)\n(.*?)```", README, re.S)
MARKED = {marker: text.strip() for marker, _, text in BLOCKS if marker}


def test_every_block_is_a_tested_one():
    files = [path for path in (ROOT / "tests").rglob("*") if path.is_file()]
    texts = [path.read_text(errors="replace") for path in files if path.suffix != ".pyc"]
    for marker, _, text in BLOCKS:
        if marker:
            assert marker in ("main-command", "test-command", "commands")
        else:
            assert any(text in other for other in texts), text


def test_every_example_is_shown_and_run():
    shown = [text for _, language, text in BLOCKS if language == "python"]
    names = {path.name for path in EXAMPLES.glob("*.py") if path.read_text() in shown}
    assert names == {path.name for path in EXAMPLES.glob("*.py")}
    assert names <= {*SERVERS, "hooks.py", "asyncio_server.py", "updater.py", "source.py"}


def test_every_link_leads_somewhere():
    headings = re.findall(r"^#+ (.*)$", README, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", README)) <= anchors
    for path in re.findall(r"`(tests/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path


def test_the_main_command_serves_from_a_bare_checkout_and_survives_a_hup(tmp_path):
    shutil.copytree(ROOT / "endless_py", tmp_path / "endless_py")
    words = MARKED["main-command"].split()
    assert words == ["python3", "-m", "endless_py"]
    env = environment()
    del env["PYTHONPATH"]
    words = [sys.executable, "-S", "-E", *words[1:], "0", "--bind", "127.0.0.1"]
    with Program(command=words, cwd=tmp_path, env=env) as program:
        pid = program.wait_serving()
        assert int(program.wait(r"kill -HUP (\d+) ")[1]) == pid
        assert "endless_py/" in get(program.port)
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert "endless_py/" in get(program.port)
        os.kill(new, signal.SIGTERM)
        program.wait_alone(None)


def test_the_test_command_is_the_one_that_makes_its_own_environment():
    assert MARKED["test-command"].startswith("python3 -m venv .venv && ")
    assert MARKED["test-command"].endswith("-m pytest")


def test_the_commands_do_what_they_say(tmp_path):
    script = MARKED["commands"].replace("python3", sys.executable).replace(" 8000 ", " 0 ")
    session = 0
    try:
        done = subprocess.run(
            ["sh", "-e"],
            input=script,
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=4 * TIMEOUT,  # six commands and three servers start one after the other
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        session = int(re.search(r"started: pid (\d+) serves", done.stdout)[1])
        for line in ("generation 1 serves", "drained", "generation 2 serves", '"pid":', "stopped"):
            assert line in done.stdout
        assert session_pids(session) == []
    finally:
        for pid in session_pids(session) if session else []:
            os.kill(pid, signal.SIGKILL)


class Example:
    """An example, on a free port."""

    def __init__(self, name: str, folder: Path, **replaced: str):
        text = (EXAMPLES / name).read_text().replace("8000", "0")
        for old, new in replaced.items():
            text = text.replace(old, new)
        (folder / name).write_text(text)
        self.path = folder / name

    def run(self):
        return Program(command=[sys.executable, self.path.name], cwd=self.path.parent)


SERVERS = ("hello.py", "wsgi.py", "third_party.py")


@pytest.mark.parametrize("name", SERVERS)
def test_an_example_is_replaced(name, tmp_path):
    with Example(name, tmp_path).run() as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
            assert get(program.port) == "hello\n"
        program.stop(pid)


def test_the_hooks_are_called(tmp_path):
    with Example("hooks.py", tmp_path).run() as program:
        pid = program.wait_serving()
        program.wait("generation 0 serves, reloaded: False")
        os.kill(pid, signal.SIGUSR1)
        program.wait("USR1: logs are rotated")
        new = program.reload(1, pid)
        for line in (
            "before the successor is started",
            "generation 1 serves, reloaded: True",
            "accepts no more",
            "nothing is active",
            "no older generation is left",
        ):
            program.wait(f"(?<!this one ){line}")  # print() writes a line and its end apart
        assert program.text.count("before this generation says ready") == 2
        program.wait_alone(new)
        program.stop(new)


def test_the_asyncio_server_keeps_its_clients_answers(tmp_path):
    with Example("asyncio_server.py", tmp_path).run() as program:
        pid = program.wait_serving()
        lost: list[str] = []
        stopping = threading.Event()

        def ask():
            while not stopping.is_set():
                try:
                    with socket.create_connection(("127.0.0.1", program.port), TIMEOUT) as client:
                        client.sendall(b"line\n")
                        assert client.makefile("rb").readline() == b"line\n"
                except (OSError, AssertionError) as error:
                    lost.append(repr(error))

        client = threading.Thread(target=ask)
        client.start()
        for generation in range(1, 6):
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
        stopping.set()
        client.join(TIMEOUT)
        assert lost == []
        program.stop(pid)


def test_the_updater_fetches_checks_and_replaces_its_program(tmp_path):
    def build(path, note):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo("__main__.py"), f"{source}\nprint({note!r})\n")

    shelf, folder = tmp_path / "shelf", tmp_path / "app"
    shelf.mkdir()
    folder.mkdir()
    words = [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with Program(command=words, cwd=shelf, env=environment()) as published:
        port = published.wait(r"port (\d+)")[1]
        example = Example("updater.py", folder, **{"9000": port, "interval=300": "interval=0.1"})
        source = example.path.read_text()
        build(folder / "app.pyz", "one")
        build(shelf / "new.pyz", "two")
        digest = hashlib.sha256((shelf / "new.pyz").read_bytes()).hexdigest()
        (shelf / "SHA256SUMS").write_text(f"{digest}  app.pyz\n")
        with Program(command=[sys.executable, "app.pyz"], cwd=folder) as program:
            pid = program.wait_serving()
            os.rename(shelf / "new.pyz", shelf / "app.pyz")
            new = program.wait_serving(1)
            assert new != pid
            program.wait_alone(new)
            program.wait("upgrade: .* serves")
            program.stop(new)


def test_a_source_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from endless_py import upgrade

    source = __import__("source").Share(tmp_path / "shelf")
    for name in ("shelf", "into"):
        (tmp_path / name).mkdir()
    (tmp_path / "shelf" / "app-1.0.pyz").write_text("one")
    found = source.fetch(None, tmp_path / "into", ())
    assert found.path.read_text() == "one"
    assert source.fetch(upgrade.Known(marks=found.marks), tmp_path / "into", ()) is None
