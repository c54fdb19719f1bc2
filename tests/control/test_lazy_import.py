"""What `import endless_py` does at once, and what it leaves until it is asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from harness import ROOT, TIMEOUT, Program, environment

import endless_py

HEAVY = ("socketserver", "http.server", "endless_py._reload", "endless_py._server")


def run(*words, **options):
    options = {"env": environment(), "check": True, **options}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        **options,
    )


def evaluate(code, *words, **options):
    """Run code that prints JSON; return what it printed."""
    return json.loads(run("-c", code, *words, **options).stdout)


def heavy(modules):
    return [name for name in modules if name.startswith(HEAVY)]


def imported(*words):
    """Return the modules that such a command line imports."""
    done = run("-X", "importtime", *words, check=False)
    lines = [
        line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")
    ]
    return {line[2].strip() for line in lines}


# -- our own commands ---------------------------------------------------------


@pytest.mark.parametrize("name", ["status", "reload", "stop", "upgrade"])
def test_a_command_builds_no_server_process(name):
    modules = imported("-m", "endless_py", name, "/no/such/pid/file")
    assert "endless_py._control.commands" in modules
    assert not heavy(modules)


def test_status_of_a_server_imports_no_server(tmp_path):
    (tmp_path / "code").write_text("")
    (tmp_path / "version").write_text("v")
    with Program("steps.py", tmp_path) as program:
        pid = program.wait_serving()
        modules = imported("-m", "endless_py", "status", pid)
        assert "endless_py._handoff.channel" in modules
        assert not heavy(modules)
        assert "subprocess" not in modules
        program.stop(pid)


@pytest.mark.slow
def test_a_folder_server_and_other_modules_are_server_processes():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['-m', *sys.argv[1:]]\n"
        "import endless_py\n"
        "sys.stdout.write(str('endless_py._reload.process' in sys.modules).lower())\n"
    )
    assert evaluate(code, "status") is True  # -c, and not -m endless_py
    assert "endless_py._reload.process" in imported("-m", "endless_py", "--help")


@pytest.mark.parametrize(
    ("words", "is_command"),
    [
        (["-m", "endless_py", "status", "1"], True),
        (["-mendless_py", "stop", "1"], True),
        (["-Im", "endless_py", "stop", "1"], True),
        (["-Wdefault", "-Imendless_py", "reload", "1"], True),
        (["-m", "endless_py.__main__", "status", "1"], True),
        (["-m", "endless_py", "8000"], False),
        (["-m", "endless_py"], False),
        (["-m", "program", "status"], False),
        (["-m", "program", "endless_py", "status"], False),
        (["-m", "program", "-m", "endless_py", "status"], False),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["orig_argv", "proc"])
def test_the_command_line_tells_a_command(words, is_command, known, monkeypatch):
    from endless_py._control import entry

    at = next(i for i, word in enumerate(words) if "m" in word and word.startswith("-"))
    after = words[at + 1 :] if "mendless" in words[at] else words[at + 2 :]
    monkeypatch.setattr(sys, "argv", ["-m", *after])
    if known:
        monkeypatch.setattr(sys, "orig_argv", ["python", *words], raising=False)
    else:
        monkeypatch.setattr(entry, "original_arguments", lambda: ["python", *words])
    assert entry.runs_command() is is_command


@pytest.mark.parametrize(
    ("argv", "is_command"),
    [
        (["/usr/local/bin/endless-py", "status", "1"], True),
        (["endless-py.exe", "status", "1"], True),
        (["/usr/local/bin/endless-py", "8000"], False),
        (["/srv/program.py", "status"], False),
        (["-c", "status"], False),
        (["", "status"], False),
        ([], False),
    ],
)
def test_the_console_script_is_known_by_its_name(argv, is_command, monkeypatch):
    from endless_py._control import entry

    monkeypatch.setattr(sys, "argv", argv)
    assert entry.runs_command() is is_command


def test_the_console_script_runs_a_command(tmp_path):
    script = tmp_path / "endless-py"
    script.write_text("from endless_py.__main__ import run\nrun()\n")
    modules = imported(script, "status", "/no/such/pid/file")
    assert "endless_py._control.commands" in modules
    assert not heavy(modules)


VARIABLES = {
    "NOTIFY_SOCKET": "@nobody",
    "WATCHDOG_USEC": "1000000",
    "WATCHDOG_PID": "1",
    "LISTEN_PID": "1",
    "LISTEN_FDS": "1",
    "LISTEN_FDNAMES": "web",
    "ENDLESS_PY_ANYTHING": "1",
}


def test_a_started_command_has_the_environment_as_it_came(tmp_path):
    show = (
        f"import json, os; print(json.dumps({{n: os.environ.get(n) for n in {list(VARIABLES)}}}))"
    )
    words = ["start-or-reload", tmp_path / "pid", "--", sys.executable, "-c", show + "; exit(7)"]
    done = run("-m", "endless_py", *words, env=environment(**VARIABLES), check=False)
    assert done.returncode == 1
    assert "exited with status 7" in done.stderr
    assert json.loads((tmp_path / "pid.log").read_text()) == VARIABLES


# -- programs -----------------------------------------------------------------


def test_a_plain_import_captures_the_start_at_once(tmp_path):
    code = (
        "import sys, os, endless_py\n"
        "process = sys.modules['endless_py._reload.process']\n"
        "assert 'socketserver' not in sys.modules and 'http.server' not in sys.modules\n"
        "os.chdir('/')\n"
        "sys.argv[:] = []\n"
        "import json\n"
        "command = process.current.spawn.command\n"
        "print(json.dumps([command.directory, command.arguments[-1], sorted(os.environ)]))\n"
    )
    folder = os.path.realpath(tmp_path)
    env = environment(NOTIFY_SOCKET="/nowhere")
    directory, last, variables = evaluate(code, "word", cwd=folder, env=env)
    assert (os.path.realpath(directory), last) == (folder, "word")
    assert "NOTIFY_SOCKET" not in variables


@pytest.mark.parametrize(
    "statement",
    [
        "import endless_py.http.server",
        "import endless_py.socketserver",
        "import endless_py.wsgiref.simple_server",
        "import endless_py.xmlrpc.server",
        "from endless_py import EndlessError",
        "from endless_py import ThreadingHTTPServer",
        "import endless_py; endless_py.reload",
        "import endless_py; endless_py.socketserver",
    ],
)
def test_after_a_wrong_guess_the_process_comes_with_the_first_name(statement):
    code = (
        "import sys\n"
        "sys.argv[:] = ['endless-py', 'status']\n"
        "import endless_py\n"
        "before = 'endless_py._reload.process' in sys.modules\n"
        f"{statement}\n"
        "import json; print(json.dumps([before, 'endless_py._reload.process' in sys.modules]))\n"
    )
    assert evaluate(code) == [False, True]


def test_a_star_import_leaves_the_standard_modules_alone():
    code = (
        "import socketserver, http.server, wsgiref.simple_server, xmlrpc.server\n"
        "standard = [socketserver, http, wsgiref, xmlrpc]\n"
        "from endless_py import *\n"
        "assert [socketserver, http, wsgiref, xmlrpc] == standard\n"
        "assert issubclass(HTTPServer, GracefulMixIn)\n"
        "import json; print(json.dumps(sorted(globals())))\n"
    )
    bound = evaluate(code)
    assert set(endless_py.__all__) <= set(bound)
    assert not {"os", "sys", "socket", "importlib"} & set(bound)


def test_the_mirrors_are_attributes():
    code = (
        "import endless_py\n"
        "names = [endless_py.http.server.HTTPServer, endless_py.socketserver.TCPServer,\n"
        "         endless_py.wsgiref.simple_server.WSGIServer,\n"
        "         endless_py.xmlrpc.server.SimpleXMLRPCServer,\n"
        "         endless_py.exceptions.EndlessError]\n"
        "import json; print(json.dumps([name.__module__ for name in names]))\n"
    )
    assert evaluate(code) == [
        "endless_py.http.server",
        "endless_py.socketserver",
        "endless_py.wsgiref.simple_server",
        "endless_py.xmlrpc.server",
        "endless_py.exceptions",
    ]


def test_every_name_is_there_and_is_that_of_its_module():
    names = endless_py.__all__
    assert len(names) == len(set(names))
    assert set(names) <= set(dir(endless_py))
    assert set(names) <= set(endless_py._MODULE_OF)
    for name in names:
        found = getattr(endless_py, name)
        assert getattr(sys.modules[endless_py._MODULE_OF[name]], name) is found
    mirrored = set(endless_py.socketserver.__all__) | set(endless_py.http.server.__all__)
    assert mirrored <= set(names)
    with pytest.raises(AttributeError, match="module 'endless_py' has no attribute 'nothing'"):
        endless_py.nothing  # noqa: B018


@pytest.mark.slow
def test_a_type_checker_sees_every_name(tmp_path):
    if shutil.which("mypy", path=os.path.dirname(sys.executable)) is None:
        pytest.skip("mypy is not there: pip install mypy")
    names = endless_py.__all__
    (tmp_path / "explicit.py").write_text(
        f"from endless_py import {', '.join(names)}\nimport endless_py\n"
        "class A(ThreadingHTTPServer): pass\n"
        "class B(endless_py.ThreadingWSGIServer): pass\n"
        "class C(endless_py.http.server.HTTPServer): pass\n"
        "class D(endless_py.socketserver.TCPServer): pass\n"
        "n: int = generation()\n"
    )
    (tmp_path / "star.py").write_text(
        "import socketserver, http.server\nfrom endless_py import *\n"
        f"everything = [{', '.join(names)}]\n"
        "class Plain(socketserver.TCPServer): pass\n"
        "def is_standard(server: socketserver.TCPServer) -> None: ...\n"
        "wrong: int = is_reloaded\n"
    )
    done = run(
        *["-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", "--config-file", os.devnull],
        *[tmp_path / "explicit.py", tmp_path / "star.py"],
        env=environment(MYPYPATH=str(ROOT)),
        check=False,
    )
    lines = done.stdout.splitlines()
    errors = [line for line in lines if ": error: " in line]
    assert len(errors) == 1, done.stdout + done.stderr  # the one that is asked for
    assert "star.py:6" in errors[0]
