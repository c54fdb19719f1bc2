"""The successor is started by the same command line, wherever that leads by now."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
import zipapp
from pathlib import Path

import pytest
from harness import Program, environment, get

from endless_py._handoff.child import describe

SERVER = """
import json, os, sys
{before}
from endless_py._reload import process
from endless_py.http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        flags = [sys.flags.dev_mode, sys.warnoptions, sys.flags.optimize]
        facts = [sys.argv, flags, sys.prefix, sys.executable, os.getcwd(), {version!r}]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(facts).encode())

    def log_message(self, *_):
        pass

with HTTPServer(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""


def code(version="", before=""):
    return SERVER.format(version=version, before=before)


def facts(program):
    return json.loads(get(program.port))


def plain(folder):
    (folder / "server.py").write_text(code())
    return [sys.executable, "server.py", "a b", "-x", ""]


def flags(folder):
    (folder / "server.py").write_text(code())
    return [sys.executable, "-X", "dev", "-W", "error", "-O", str(folder / "server.py"), "--port"]


def package(folder):
    (folder / "package").mkdir()
    (folder / "package" / "__main__.py").write_text(code())
    return [sys.executable, "-m", "package", "word"]


def module(folder):
    (folder / "name.py").write_text(code())
    return [sys.executable, "-mname", "word"]


def zipped(folder):
    (folder / "tree").mkdir()
    (folder / "tree" / "__main__.py").write_text(code())
    zipapp.create_archive(folder / "tree", folder / "server.pyz")
    return [sys.executable, "server.pyz", "word"]


def inline(folder):
    return [sys.executable, "-c", code(), "word"]


def environment_of_its_own(folder):
    venv.create(folder / "env", symlinks=True)
    (folder / "server.py").write_text(code())
    return ["env/bin/python", "server.py"]  # also a relative path to the interpreter


def script(folder):
    path = folder / "console-script"
    path.write_text(f"#!{sys.executable}\n" + code())
    path.chmod(0o755)
    return [str(path), "word"]


@pytest.mark.parametrize(
    "make", [plain, flags, package, module, zipped, inline, environment_of_its_own, script]
)
def test_the_successor_has_the_same_command_line(make, tmp_path):
    command = make(tmp_path)
    env = environment(PWD=str(tmp_path))
    with Program(command=command, cwd=tmp_path, env=env) as program:
        pid = program.wait_serving()
        before = facts(program)
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert facts(program) == before
        words = Path(f"/proc/{new}/cmdline").read_bytes().split(b"\0")[:-1]
        given = [os.fsencode(word) for word in command]
        assert words[-len(given) + 1 :] == given[1:] or words[-len(given) :] == given
        program.stop(new)


def test_a_console_script_from_the_package_itself(tmp_path):
    command = str(Path(sys.executable).parent / "endless-py")
    with Program("0", command=[command], cwd=tmp_path) as program:
        pid = program.wait_serving()
        new = program.reload(1, pid)
        program.wait_alone(new)
        program.stop(new)


@pytest.mark.parametrize("gone", [False, True], ids=["kept", "deleted"])
def test_a_current_link_is_followed_afresh(gone, tmp_path):
    for version in ("one", "two"):
        release = tmp_path / "releases" / version
        release.mkdir(parents=True)
        (release / "server.py").write_text(code(version, "os.chdir('/')"))
    current = tmp_path / "current"
    current.symlink_to("releases/one")
    env = environment(PWD=str(current))
    with Program(command=[sys.executable, "server.py"], cwd=current, env=env) as program:
        pid = program.wait_serving()
        assert facts(program)[-2:] == ["/", "one"]
        (tmp_path / "next").symlink_to("releases/two")
        (tmp_path / "next").replace(current)
        if gone:
            shutil.rmtree(tmp_path / "releases" / "one")
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert facts(program)[-1] == "two"
        program.stop(new)


def test_the_working_directory_is_gone(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "server.py").write_text(code("still"))
    command = [sys.executable, str(tmp_path / "server.py")]
    with Program(command=command, cwd=folder, env=environment(PWD=str(folder))) as program:
        pid = program.wait_serving()
        folder.rmdir()
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert facts(program)[-2:] == ["/", "still"]
        program.stop(new)


@pytest.mark.parametrize(
    ("replace", "reason"),
    [
        (None, "cannot be started: .*the interpreter is not there"),
        ("#!/bin/false\n", "exited with status 1 before it was ready"),
        ("\0nonsense", "cannot be started: .*Exec format error"),
    ],
    ids=["gone", "wrong", "nonsense"],
)
def test_a_bad_interpreter_changes_nothing(replace, reason, tmp_path):
    (tmp_path / "server.py").write_text(code("old"))
    interpreter = tmp_path / "env" / "bin" / "python"
    venv.create(tmp_path / "env", symlinks=True)
    with Program(command=[str(interpreter), "server.py"], cwd=tmp_path) as program:
        pid = program.wait_serving()
        target = os.readlink(interpreter)
        interpreter.unlink()
        if replace is not None:
            interpreter.write_text(replace)
            interpreter.chmod(0o755)
        os.kill(pid, signal.SIGHUP)
        program.wait(f"reload failed: generation 1 .*{reason}.*serving")
        program.wait_alone(pid)
        assert facts(program)[-1] == "old"
        interpreter.unlink(missing_ok=True)
        interpreter.symlink_to(target)
        new = program.reload(1, pid)
        program.wait_alone(new)
        program.stop(new)


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "exited with status 0"), (-9, "killed by SIGKILL"), (-60, "killed by signal 60")],
)
def test_an_exit_status_in_words(status, text):
    assert describe(status) == text


def test_where_orig_argv_is_missing_the_kernel_is_asked(tmp_path):
    program = (
        "import sys\nif hasattr(sys, 'orig_argv'): del sys.orig_argv\n"
        "from endless_py._handoff import command_line; print(command_line.capture().arguments[1:])"
    )
    words = ["-X", "utf8", "-c", program, "a b", ""]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout.strip() == str(words)


def test_a_bare_name_leads_where_the_path_of_the_start_leads_now(tmp_path):
    """The interpreter has moved, and what was started by a path that is gone would not start."""
    (tmp_path / "server.py").write_text(code("any", "os.environ['PATH'] = '/nowhere'"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "snake").symlink_to(os.path.realpath(sys.executable))
    path = f"{tmp_path / 'one'}:{tmp_path / 'two'}"
    command = ["/usr/bin/env", f"PATH={path}", "snake", "server.py"]
    with Program(command=command, cwd=tmp_path) as program:
        pid = program.wait_serving()
        assert facts(program)[3] == str(tmp_path / "one" / "snake")
        (tmp_path / "one" / "snake").unlink()
        pid = program.reload(1, pid)
        program.wait_alone(pid)
        assert facts(program)[3] == str(tmp_path / "two" / "snake")
        (tmp_path / "two" / "snake").rename(tmp_path / "one" / "snake")
        pid = program.reload(2, pid)
        program.wait_alone(pid)
        assert facts(program)[3] == str(tmp_path / "one" / "snake")
        program.stop(pid)


IMPORTS = """
import atexit, endless_py, os, sys
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
imported = set()

class Server(ThreadingHTTPServer):
    keep_pid = KEPT

@endless_py.before_reload
def now():
    imported.update(sys.modules)

@atexit.register
def say():
    if imported:
        text = f"imported for a reload: {sorted(set(sys.modules) - imported)}\\n"
        os.write(1, text.encode())  # in one piece: others write there too

with Server(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
    server.serve_forever()
"""


@pytest.mark.parametrize("kept", [False, True], ids=["a pid of its own", "the pid is kept"])
def test_nothing_is_imported_for_a_reload(kept, tmp_path):
    """Python itself may have been replaced on the disk since the start."""
    (tmp_path / "server.py").write_text(IMPORTS.replace("KEPT", str(kept)))
    with Program(command=[sys.executable, str(tmp_path / "server.py")]) as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            os.kill(pid, signal.SIGHUP)
            program.wait(rf"\] generation {generation}: generation .* has ended")
            pid = program.wait_serving(generation)
        program.stop(pid)
        # Another process's line may come between a line and its end.
        assert re.findall(r"imported for a reload: (\[.*?\])", program.text) == ["[]"] * 2
