"""README.md and endless_py/docs/*.md: commands and snippets are run, links lead somewhere."""

from __future__ import annotations

import ast
import collections
import contextlib
import functools
import hashlib
import http.client
import inspect
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import xmlrpc.client
import zipfile
from pathlib import Path

import pytest
import state_diagram
from harness import ROOT, TIMEOUT, Program, environment, get, session_pids, until
from secure import certificate, client_context

from endless_py import GracefulMixIn
from endless_py._support import log

DOCS = ROOT / "endless_py" / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
TEXTS = {path: path.read_text() for path in PAGES}
EXAMPLES = ROOT / "tests" / "examples"
BLOCK = re.compile(r"(?:<!-- ([\w-]+) -->\n)?```(\w+)\n(.*?)```", re.S)
BLOCKS = [block for text in TEXTS.values() for block in BLOCK.findall(text)]
MARKED = {marker: text.strip() for marker, _, text in BLOCKS if marker}
LOGS = ("log-reload", "log-failed", "log-stop", "log-kept")
COMMANDS = ("main-command", "test-command", "install-command", "commands", "tool")


def test_every_block_is_a_tested_one():
    files = [path for path in (ROOT / "tests").rglob("*") if path.is_file()]
    texts = [path.read_text(errors="replace") for path in files if path.suffix != ".pyc"]
    for marker, language, text in BLOCKS:
        if marker:
            assert marker in (*COMMANDS, *LOGS)
        elif language == "mermaid":
            continue  # see test_the_diagram_is_that_of_the_table
        else:
            assert any(text in other for other in texts), text
    assert MARKED.keys() == {*COMMANDS, *LOGS}
    fences = sum(text.count("```") for text in TEXTS.values())
    assert fences == 2 * len(BLOCKS)  # each one has a language, or it would not be looked at


def test_every_example_is_shown_and_run():
    shown = [text for _, language, text in BLOCKS if language == "python"]
    names = {path.name for path in EXAMPLES.glob("*.py") if path.read_text() in shown}
    assert names == {path.name for path in EXAMPLES.glob("*.py")}
    assert names <= {*SERVERS, *OTHERS}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page):
    def anchors(path):
        headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", path.read_text()), re.M)
        return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}

    for link in re.findall(r"\]\(([^)]*)\)", TEXTS[page]):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link
    for path, _, name in re.findall(r"`(tests/[\w./-]+)(::(\w+))?`", TEXTS[page]):
        assert (ROOT / path).exists(), path
        if name:
            assert f"def {name}(" in (ROOT / path).read_text(), name


def test_pages_of_the_package_link_to_each_other_only():
    for page in DOCS.glob("*.md"):
        assert "](../" not in TEXTS[page]  # an installed package has nothing there


def test_the_readme_is_short_and_links_every_page():
    readme = TEXTS[ROOT / "README.md"]
    assert readme.count("\n") <= 150
    for page in DOCS.glob("*.md"):
        assert f"](endless_py/docs/{page.name}" in readme, page.name


def test_the_settings_are_those_of_the_class():
    table = TEXTS[ROOT / "README.md"].partition("## Settings")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.M))
    documented = re.findall(r"^(\w+)  +\S", inspect.getdoc(GracefulMixIn), re.M)
    assert list(rows) == documented
    for name, default in rows.items():
        value = ast.literal_eval(default.strip("`").replace(" s", ""))
        assert value == getattr(GracefulMixIn, name), name


def test_every_file_that_the_design_names_is_there():
    names = re.findall(r"`(_\w+/\w+\.py)`", TEXTS[DOCS / "design.md"])
    assert names
    for name in names:
        assert (ROOT / "endless_py" / name).exists(), name


def test_the_diagram_is_that_of_the_table():
    """python tests/support/state_diagram.py draws it anew."""
    text = TEXTS[state_diagram.PAGE]
    assert text == state_diagram.page(text)


def _strings():
    """Every text in the package's code; the values of an f-string are left out."""
    for path in (ROOT / "endless_py").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "\0".join(
                    part.value if isinstance(part, ast.Constant) else "" for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@functools.cache
def _log_calls():
    """Every call that writes a line: where it is, its templates, and the name of its event."""
    found = []
    for path in {*(ROOT / "endless_py").rglob("*.py")} - {Path(log.__file__)}:
        tree = ast.parse(path.read_text())
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            texts = collections.defaultdict(set)  # what a name stands for since its last use
            nodes = [node for node in ast.walk(function) if hasattr(node, "lineno")]
            for node in sorted(nodes, key=lambda node: node.lineno):
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    texts[node.targets[0].id].add(getattr(node.value, "value", None))
                if not isinstance(node, ast.Call):
                    continue
                name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
                if name not in ("log", "_say", "log_line") or not node.args:
                    continue
                if re.match(r"log\.[A-Z]|level$", ast.unparse(node.args[0])):
                    template = node.args[1] if len(node.args) > 1 else None
                    templates = {getattr(template, "value", None)}
                    if isinstance(template, ast.Name):
                        templates = texts.pop(template.id, set())
                    event = node.args[2] if len(node.args) > 2 else None
                    place = f"{path.name}:{node.lineno}"
                    found.append((place, templates, event, node.keywords))
    return found


def _shown(template):
    """As the tables have it."""
    return re.sub(r"(\.\.\.)+", "...", re.sub(r"%\(\w+\)[.\d]*[a-z]", "...", template))


def test_every_line_is_an_event_with_a_constant_template_and_fields():
    calls = _log_calls()
    assert len(calls) > 60
    reserved = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
    for place, templates, event, keywords in calls:
        if not templates and any(key.arg is None for key in keywords):
            continue  # passes on what it was called with
        assert all(isinstance(text, str) for text in templates), place
        assert event is not None, f"{place}: the event has no name"
        if isinstance(event, ast.Constant):
            assert re.fullmatch("[a-z_]+", event.value), place
        fields = {key.arg for key in keywords}
        assert not fields & reserved, place
        for text in templates:
            assert set(re.findall(r"%\((\w+)\)", text)) <= fields, place


def test_the_tables_have_every_log_line_and_no_other():
    texts = list(_strings())

    def written(part):
        """Whether the code has these words, in one text or in two that it puts together."""
        words = part.strip(" :;()").split()
        halves = [(" ".join(words[:n]), " ".join(words[n:])) for n in range(len(words))]
        return not words or any(
            all(any(half in text for text in texts) for half in pair) for pair in halves
        )

    table = TEXTS[DOCS / "operations.md"].partition("## Log lines")[2]
    lines = re.findall(r"^\| `([^`]*)` \|", table, re.M)
    templates = {_shown(text) for _, found, _, _ in _log_calls() for text in found}
    templates.add(_shown(log._DROPPED))
    assert len(lines) > 20
    for line in lines:
        known = any(text.startswith(line) for text in templates)
        assert known or all(map(written, line.split("..."))), line
    for text in templates:
        if text.replace(".", "").strip():  # else it is a reason alone, which has a row of its own
            start = text.rstrip(". ")
            assert any(text.startswith(row) or row.startswith(start) for row in lines), text


@pytest.mark.slow  # pip builds it
def test_an_installed_package_runs_and_has_the_pages(tmp_path):
    words = MARKED["install-command"].split()
    assert words == ["python3", "-m", "pip", "install", "."]
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    shutil.copytree(
        ROOT / "endless_py", source / "endless_py", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    done = subprocess.run(
        [sys.executable, *words[1:], "-q", "--no-deps", "--target", str(site)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "No matching distribution found for setuptools" in done.stderr:
        (pytest.fail if os.environ.get("CI_RUN") else pytest.skip)("setuptools is out of reach")
    assert done.returncode == 0, done.stderr
    installed = site / "endless_py"
    pictures = {path.name for path in (ROOT / "endless_py" / "docs").glob("*.png")}
    found = {path.name for path in (installed / "docs").iterdir()}
    assert found == {p.name for p in PAGES[1:]} | pictures
    assert (installed / "py.typed").exists()
    env = environment(PYTHONPATH=str(site))
    words = [sys.executable, "-m", "endless_py", "0", "--bind", "127.0.0.1"]
    with Program(command=words, cwd=tmp_path, env=env) as program:
        pid = program.wait_serving()
        assert "site/" in get(program.port)
        program.stop(pid)


@pytest.mark.parametrize("words", [text.split() for marker, _, text in BLOCKS if marker == "tool"])
def test_a_tool_says_how_it_is_used(words):
    # What it does is tried beside it, in tests/faults and tests/test_bench.py.
    assert words[0] == "python3"
    subprocess.run(
        [sys.executable, *words[1:], "--help"], cwd=ROOT, check=True, capture_output=True
    )


@pytest.mark.slow
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
        env = environment(PYTHONUNBUFFERED="1")  # they print as programs do, and flush nothing
        return Program(command=[sys.executable, self.path.name], cwd=self.path.parent, env=env)


SERVERS = ("hello.py", "server.py", "wsgi.py", "third_party.py")
OTHERS = ("hooks.py", "asyncio_server.py", "updater.py", "source.py", "https.py", "calls.py")
OTHERS += ("datagrams.py", "forking.py", "workers.py", "replaced.py", "asyncio_workers.py")
OTHERS += ("uvicorn_server.py", "hypercorn_server.py", "aiohttp_server.py")  # see tests/asgi
# Run in tests/server/test_health_page.py.
OTHERS += ("health_listener.py", "health_mounted.py", "health_wsgi.py")
OTHERS += ("metrics.py",)  # see tests/workers/test_metrics.py


@pytest.mark.parametrize("name", SERVERS)
def test_an_example_is_replaced(name, tmp_path):
    with Example(name, tmp_path).run() as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
            assert get(program.port) == "hello\n"
        program.stop(pid)


def replaced_under_load(program: Program, ask) -> None:
    """Two reloads while a client asks without a pause, and a stop."""
    pid = program.wait_serving()
    port, lost, stopping = program.port, [], threading.Event()

    def client():
        while not stopping.is_set():
            try:
                ask(port)
            except Exception as error:
                lost.append(repr(error))

    thread = threading.Thread(target=client)
    thread.start()
    try:
        for generation in (1, 2):
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
    finally:
        stopping.set()
        thread.join(TIMEOUT)
    assert lost == []
    program.stop(pid)


@pytest.mark.slow
def test_https(tmp_path):
    def ask(port):
        client = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=TIMEOUT, context=client_context()
        )
        client.request("GET", "/")
        assert "https.py" in client.getresponse().read().decode()
        client.close()

    certificate(tmp_path)
    with Example("https.py", tmp_path).run() as program:
        replaced_under_load(program, ask)


def test_xml_rpc_keeps_its_connection(tmp_path):
    with Example("calls.py", tmp_path).run() as program:
        pid = program.wait_serving()
        with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{program.port}") as proxy:
            assert proxy.pow(2, 10) == 1024
            connection = proxy("transport")._connection[1].sock
            new = program.reload(1, pid)
            program.wait_alone(new)
            assert proxy.pow(2, 11) == 2048
            assert proxy("transport")._connection[1].sock is connection
        program.stop(new)


def test_datagrams(tmp_path):
    def ask(port):
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(TIMEOUT)
            client.sendto(b"datagram", ("127.0.0.1", port))
            assert client.recv(100) == b"datagram"

    with Example("datagrams.py", tmp_path).run() as program:
        replaced_under_load(program, ask)


@pytest.mark.slow
def test_forked_handlers(tmp_path):
    def ask(port):
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
            client.sendall(b"line\n")
            assert client.makefile("rb").readline().endswith(b": line\n")

    with Example("forking.py", tmp_path).run() as program:
        replaced_under_load(program, ask)


def test_workers(tmp_path):
    with Example("workers.py", tmp_path).run() as program:
        pid = program.wait_serving()
        answers: set[str] = set()
        until(lambda: answers.add(get(program.port)) or len(answers) == 3)
        assert {line.split()[-1] for line in answers} == {"0", "1", "2"}
        assert len({line.split()[1] for line in answers}) == 3
        new = program.reload(1, pid)
        for number in range(3):
            program.wait(f"worker {number} has served")
        assert get(program.port).startswith("pid ")
        os.kill(new, signal.SIGTERM)
        program.wait_alone(None)


def test_workers_that_have_served_enough(tmp_path):
    example = Example("replaced.py", tmp_path, **{"10000\n": "20\n", "1000\n": "0\n"})
    with example.run() as program:
        program.wait_serving()
        line = r"worker \d \(pid \d+\) has handled 20 requests \(max_requests\): pid \d+ takes"
        while not re.search(line, program.text) or "started generation 1" not in program.text:
            get(program.port)
        program.wait_serving(1)
        stopped: set[str] = set()

        def nobody_is_left():  # these questions may have been enough for one more reload
            for pid in re.findall(r"\[(\d+)\] generation \d+: serves ", program.text):
                if pid not in stopped:
                    stopped.add(pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGTERM)
            program.process.poll()
            return not program.pids()

        until(nobody_is_left)


def test_workers_of_an_asyncio_server(tmp_path):
    def ask(port):
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
            client.sendall(b"line\n")
            return client.makefile("rb").readline()

    def all_that_answer(port):
        seen = set()
        while len(seen) < 3:  # each begins in its own time
            seen.add(ask(port))
        return seen

    with Example("asyncio_workers.py", tmp_path).run() as program:
        pid = program.wait_serving()
        old = all_that_answer(program.port)
        new = program.reload(1, pid)
        program.process.wait(TIMEOUT)
        assert not all_that_answer(program.port) & old
        os.kill(new, signal.SIGTERM)
        program.wait_alone(None)


def log_of(program: Program, since: int, pids: dict[int, int]) -> str:
    """What it has logged since that line, as the documentation shows it."""
    shown = []
    for line in program.lines[since:]:
        line = re.sub(r"^[\d-]+ [\d:]+ (?=[A-Z]+ endless_py)", "", line)
        if re.match("(?!DEBUG)[A-Z]+ endless_py", line) or re.match(r"\w+Error: ", line):
            for pid, name in pids.items():
                line = re.sub(rf"\b{pid}\b", str(name), line)
            line = line.replace(f":{program.port};", ":8000;").replace(
                f":{program.port} ", ":8000 "
            )
            shown.append(re.sub(r"\d+\.\d+ s", "0.1 s", line))
    return "\n".join(shown)


def test_the_log_of_a_reload_of_one_that_fails_and_of_a_stop(tmp_path):
    example = Example("hello.py", tmp_path)
    with example.run() as program:
        pids = {program.wait_serving(): 100}
        since = len(program.lines)
        new = program.reload(1, program.pid)
        pids[new] = 101
        program.wait(rf"generation 0 \(pid {program.pid}\) has ended", since)
        assert log_of(program, since, pids) == MARKED["log-reload"]

        since = len(program.lines)
        example.path.write_text("raise RuntimeError('no database')\n")
        os.kill(new, signal.SIGHUP)
        pids[int(program.wait(r"generation 2 \(pid (\d+)\)", since)[1])] = 102
        program.wait("reload failed", since)
        assert log_of(program, since, pids) == MARKED["log-failed"]

        since = len(program.lines)
        program.stop(new)
        assert log_of(program, since, pids) == MARKED["log-stop"]


def test_the_log_of_a_reload_that_keeps_the_pid(tmp_path):
    example = Example("hello.py", tmp_path)
    text = example.path.read_text()
    example.path.write_text(text.replace("\nwith ", "\nThreadingHTTPServer.keep_pid = True\nwith "))
    with example.run() as program:
        pids = {program.wait_serving(): 100}
        since = len(program.lines)
        os.kill(program.pid, signal.SIGHUP)
        bridge = int(program.wait(r"bridge, pid (\d+)\)", since)[1])
        pids[bridge] = 101
        program.wait(rf"generation 1 \(pid {bridge}\) has ended", since)
        assert log_of(program, since, pids) == MARKED["log-kept"]
        program.stop(program.pid)


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


@pytest.mark.slow
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
    with Program(command=words, cwd=shelf, env=environment(PYTHONUNBUFFERED="1")) as published:
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
