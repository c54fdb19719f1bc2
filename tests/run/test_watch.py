"""`run --watch` reloads when a module that the program has imported changes."""

from __future__ import annotations

import re
import sys

import pytest
from harness import Program, first, get, until

RUN = [sys.executable, "-m", "endless_py", "run"]
APP = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import words

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/late":
            import late
        body = words.WORD.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments): pass

ThreadingHTTPServer(("127.0.0.1", 0), Handler).serve_forever()
"""


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    # Longer than what is written next: Python takes the compiled file of a text that is as long, if
    # it was written in the same second.
    (tmp_path / "words.py").write_text("WORD = 'one'  # the first\n")
    (tmp_path / "late.py").write_text("")
    return tmp_path


def watching(folder, *options):
    return Program(command=[*RUN, "--watch", *options, "app.py"], cwd=folder)


def reloaded(program, old):
    """Wait until another process than that one is alone; return its pid. It says nothing of it."""

    def alone():
        program.process.poll()
        found = program.pids()
        return len(found) == 1 and found != [old] and found[0]

    return until(alone)


@pytest.mark.parametrize("name", first(["words.py", "app.py"]))
def test_a_change_reloads(app, name):
    with watching(app) as program:
        pid = program.wait_serving()
        assert get(program.port) == "one"
        (app / name).write_text((app / name).read_text().replace("words.WORD", "'two'") + "\n")
        program.wait(f"watch: .*{name} has changed; reloads")
        pid = reloaded(program, pid)
        (app / "words.py").write_text("WORD = 'three'\n")
        pid = reloaded(program, pid)
        assert get(program.port) == ("two" if name == "app.py" else "three")
        program.stop(pid)
        assert program.text.count("has changed") == 2


@pytest.mark.slow
def test_a_reload_is_one_line(app):
    with watching(app) as program:
        pid = program.wait_serving()
        first = len(program.lines)
        for word in ("two", "three"):
            (app / "words.py").write_text(f"WORD = '{word}'\n")
            pid = reloaded(program, pid)
            assert get(program.port) == word
        (app / "words.py").write_text("WORD =\n")
        program.wait("reload failed: .*this one goes on serving")  # which is said, and why
        assert "SyntaxError" in program.text
        own = [line for line in program.lines[first:] if re.search("(?<!DEBUG) endless_py", line)]
        assert len(own) == 4
        assert all("words.py has changed; reloads" in line for line in own[:3])
        program.stop(pid)


@pytest.mark.slow
def test_a_module_that_is_imported_while_it_serves(app):
    with watching(app) as program:
        pid = program.wait_serving()
        get(program.port, "/late")
        (app / "late.py").write_text("x = 1\n")
        program.wait("watch: .*late.py has changed; reloads")
        program.stop(reloaded(program, pid))


@pytest.mark.slow
def test_new_code_that_fails_is_tried_again_when_the_module_that_failed_changes(app):
    with watching(app) as program:
        pid = program.wait_serving()
        (app / "other.py").write_text("this is no Python\n")
        (app / "words.py").write_text("import other\nWORD = other.WORD\n")
        program.wait("reload failed: .*this one goes on serving")
        assert get(program.port) == "one"
        (app / "other.py").write_text("WORD = 'two'\n")
        pid = reloaded(program, pid)
        assert get(program.port) == "two"
        program.stop(pid)


@pytest.mark.slow
def test_other_files_and_an_idle_process(app):
    with watching(app) as program:
        pid = program.wait_serving()
        (app / "data.txt").write_text("x")
        (app / "unknown.py").write_text("x = 1\n")
        (app / "words.py").write_text("WORD = 'two'\n")
        program.stop(reloaded(program, pid))
        changes = [line for line in program.lines if "has changed" in line]
        assert len(changes) == 1
        assert "words.py" in changes[0]


def test_a_system_that_tells_of_no_changes(app):
    """The modules are looked at from time to time."""
    code = (
        "import endless_py.upgrade.inotify as inotify, endless_py.__main__ as command\n"
        "def none(*_): raise OSError\n"
        "inotify.Inotify.__init__ = none\n"
        "command.main(['run', '--watch', '--watch-interval', '0.1', 'app.py'])\n"
    )
    with Program(command=[sys.executable, "-c", code], cwd=app) as program:
        pid = program.wait_serving()
        (app / "words.py").write_text("WORD = 'two'\n")
        program.wait("watch: .*words.py has changed; reloads")
        pid = reloaded(program, pid)
        assert get(program.port) == "two"
        program.stop(pid)


@pytest.mark.slow
def test_a_module_that_the_program_writes_and_then_imports_has_not_changed(app):
    text = APP.replace(
        "import words", "open('made.py', 'w').write('')\nimport made, time, words\ntime.sleep(1)"
    )
    (app / "app.py").write_text(text)
    with watching(app) as program:
        pid = program.wait_serving()
        (app / "words.py").write_text("WORD = 'two'\n")
        pid = reloaded(program, pid)
        program.stop(pid)
        changes = [line for line in program.lines if "has changed" in line]
        assert len(changes) == 1
        assert "words.py" in changes[0]


@pytest.mark.parametrize("options", [["--watch"], []])
def test_reloaders_stay_off(tmp_path, options):
    pytest.importorskip("werkzeug")
    (tmp_path / "app.py").write_text(
        "from werkzeug.serving import run_simple\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'one']\n"
        "run_simple('127.0.0.1', 0, app, use_reloader=True, threaded=True)\n"
    )
    with Program(command=[*RUN, *options, "app.py"], cwd=tmp_path) as program:
        pid = program.wait_serving()
        program.wait("the reloader of werkzeug._reloader stays off: ")
        assert program.pids() == [pid] == [program.pid]
        if options:
            (tmp_path / "app.py").write_text(
                (tmp_path / "app.py").read_text().replace("one", "two")
            )
            pid = reloaded(program, pid)
            assert get(program.port) == "two"
        program.stop(pid)
