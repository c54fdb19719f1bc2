"""`python -m endless_py run`: programs of the standard library's classes reload, unchanged."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import xmlrpc.client

import pytest
from commands import command
from harness import (
    PROGRAMS,
    TIMEOUT,
    Load,
    Program,
    environment,
    free_port,
    get,
    reloads_under,
    slow,
    until_written,
)
from secure import SecureLoad, certificate

RUN = [sys.executable, "-m", "endless_py", "run"]
STANDARD = str(PROGRAMS / "standard.py")


def standard(kind, *options, cwd=None, **more):
    return Program(
        *(kind, free_port()),
        command=[*RUN, *options, "--", STANDARD],
        cwd=cwd,
        env=environment(**more),
    )


@pytest.mark.parametrize(
    "kind", ["threading", slow("forking"), slow("wsgiref"), slow("odd"), "sleeping"]
)
def test_a_reload_under_load_loses_nothing(kind):
    with standard(kind) as program:
        reloads_under(Load(program.port, keep_alive=kind in ("threading", "forking")), program)


@pytest.mark.slow
def test_tls_in_server_bind(tmp_path):
    certificate(tmp_path)
    with standard("tls", cwd=tmp_path) as program:
        reloads_under(SecureLoad(program.port), program)


def test_xml_rpc():
    with standard("xmlrpc") as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{program.port}") as proxy:
                assert proxy.answer() == f"{generation - 1} {pid} end"
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
        program.stop(pid)


def test_a_class_that_was_defined_before_is_one_of_ours_from_then_on(tmp_path):
    script = tmp_path / "before.py"
    script.write_text(
        "import socketserver, sys\n"
        "class Before(socketserver.ThreadingTCPServer): pass\n"
        "from endless_py._run import graft\n"
        "graft.graft()\n"
        "class Handler(socketserver.StreamRequestHandler):\n"
        "    def handle(self): self.wfile.write(b'hello')\n"
        "Before(('127.0.0.1', 0), Handler).serve_forever()\n"
    )
    with Program(command=[sys.executable, str(script)], cwd=tmp_path) as program:
        pid = program.wait_serving()
        program.stop(program.reload(1, pid))


def test_a_server_of_our_own_classes_is_not_made_replaceable_twice():
    with Program("HTTPServer", "0", command=[*RUN, str(PROGRAMS / "http_server.py")]) as program:
        pid = program.wait_serving()
        program.stop(program.reload(1, pid))
        assert program.text.count("serves tcp") == 2


def test_code_that_does_not_start_changes_nothing(tmp_path):
    text = f"import runpy\nrunpy.run_path({STANDARD!r}, {{}}, '__main__')\n"
    (tmp_path / "server.py").write_text(text)
    words = ["threading", free_port()]
    with Program(*words, command=[*RUN, "-m", "server"], cwd=tmp_path) as program:
        pid = program.wait_serving()
        (tmp_path / "server.py").write_text("this is no Python\n")
        os.kill(pid, signal.SIGHUP)
        program.wait("reload failed: .*this one goes on serving")
        assert get(program.port) == f"0 {pid} end"
        (tmp_path / "server.py").write_text(text)
        pid = program.reload(1, pid)
        program.wait_alone(pid)
        program.stop(pid)


# -- settings -----------------------------------------------------------------


def test_settings_come_from_options_and_variables(tmp_path):
    variables = {"ENDLESS_PY_DRAIN_TIMEOUT": "7", "ENDLESS_PY_KEEP_PID": "yes"}
    options = ["--keep-pid=no", "--pid-file", str(tmp_path / "pid")]
    with standard("threading", *options, **variables) as program:
        pid = program.wait_serving()
        until_written(tmp_path / "pid")
        assert int((tmp_path / "pid").read_text()) == pid
        new = program.reload(1, pid)
        assert new != pid
        program.wait(r"finishing \d+ requests, at most 7 s")
        program.wait_alone(new)
        assert int((tmp_path / "pid").read_text()) == new
        program.stop(new)


def test_variables_are_the_defaults_of_a_program_that_imports_us(tmp_path):
    with Program(
        "http_server.py", "HTTPServer", "0", env=environment(ENDLESS_PY_DRAIN_TIMEOUT="8.5")
    ) as program:
        pid = program.wait_serving()
        program.stop(pid)
        program.wait("at most 8.5 s")


def test_variables_are_the_defaults_of_what_listen_gives(monkeypatch):
    from endless_py import _api

    monkeypatch.setenv("ENDLESS_PY_DRAIN_TIMEOUT", "none")
    monkeypatch.setenv("ENDLESS_PY_READY_TIMEOUT", "9")
    owner = _api._Owner(5, {"ready_timeout": 3})
    assert (owner.drain_timeout, owner.ready_timeout) == (None, 3)
    monkeypatch.setenv("ENDLESS_PY_DRAIN_TIMEOUT", "-1")
    with pytest.raises(ValueError, match="ENDLESS_PY_DRAIN_TIMEOUT: drain_timeout must be 0 or"):
        _api._Owner(5, {})


def run(*words, **more):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--drain-timeout", "soon", "x.py"], "--drain-timeout: .* not 'soon'"),
        (["--max-handlers=0", "x.py"], "--max-handlers: .* at least 1, not 0"),
        (["--keep-pid=perhaps", "x.py"], "--keep-pid: .*'perhaps'"),
        (["--pid-file"], "--pid-file: its value is missing"),
        (["--watch=yes", "x.py"], "--watch takes no value"),
        (["--watch-interval", "0", "x.py"], "--watch-interval: .* more than 0"),
        (["--no-such", "x.py"], "no option --no-such"),
        (["--ready-on-serve=no", "x.py"], "no option --ready-on-serve"),
        ([], "which program to run is missing"),
        (["-m"], "which module is missing"),
        (["--", "no_such_file.py"], "can't open file 'no_such_file.py'"),
        (["no-such-command"], "neither a file nor a command 'no-such-command'"),
        (["sh"], "sh is no Python program"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(words, said):
    done = run("-m", "endless_py", "run", *words)
    assert done.returncode == 2
    assert re.fullmatch(f"python -m endless_py run: error: .*{said}.*\n", done.stderr), done.stderr


@pytest.mark.parametrize("words", [["run", STANDARD, "threading", "0"], ["0"]])
def test_a_variable_that_cannot_be_is_told_in_a_line(words):
    done = run("-m", "endless_py", *words, ENDLESS_PY_DRAIN_TIMEOUT="soon")
    assert done.returncode == 2
    assert "error: ENDLESS_PY_DRAIN_TIMEOUT: drain_timeout must be" in done.stderr.splitlines()[-1]


def test_a_program_that_imports_us_fails_by_a_variable_that_cannot_be():
    done = run(PROGRAMS / "http_server.py", "HTTPServer", "0", ENDLESS_PY_MAX_HANDLERS="many")
    assert done.returncode == 1
    assert "ValueError: ENDLESS_PY_MAX_HANDLERS: max_handlers must be" in done.stderr


def test_help_has_each_option():
    text = run("-m", "endless_py", "run", "--help").stdout
    for option in ("--drain-timeout SECONDS", "--keep-pid[=", "--watch ", "--take-hup "):
        assert option in text


# -- signals ------------------------------------------------------------------

OWN_HUP = """
import signal, threading, runpy, sys
def show(number, frame): print("the program's own", flush=True)
{before}
if {late}:
    from http.server import HTTPServer
    activate = HTTPServer.server_activate
    def server_activate(self):
        activate(self)
        import threading
        threading.Timer(0, lambda: None).start()
        self.late = True
    def service_actions(self):
        if self.__dict__.pop("late", False):
            signal.signal(signal.SIGHUP, show)
            print("handler set", flush=True)
    HTTPServer.server_activate, HTTPServer.service_actions = server_activate, service_actions
sys.argv[1:] = ["threading", {port!r}]
runpy.run_path({standard!r}, {{}}, "__main__")
"""


def own_hup(folder, late):
    before = "" if late else "signal.signal(signal.SIGHUP, show)"
    text = OWN_HUP.format(before=before, late=late, port=str(free_port()), standard=STANDARD)
    (folder / "own.py").write_text(text)


@pytest.mark.parametrize("late", [False, True])
def test_a_handler_of_the_programs_own_stays_and_one_line_says_so(tmp_path, late):
    own_hup(tmp_path, late)
    with Program(command=[*RUN, "own.py"], cwd=tmp_path) as program:
        pid = program.wait_serving()
        program.wait("SIGHUP handler of its own, which stays; run it with --take-hup")
        os.kill(pid, signal.SIGHUP)
        program.wait("the program's own")
        assert program.text.count("which stays") == 1
        assert command("reload", pid)[0] == 0
        pid = program.wait_serving(1)
        program.wait_alone(pid)
        program.stop(pid)


def test_a_handler_for_term_of_the_programs_own_stays_and_the_command_drains(tmp_path):
    own_hup(tmp_path, late=False)
    text = (tmp_path / "own.py").read_text().replace("SIGHUP", "SIGTERM")
    (tmp_path / "own.py").write_text(text)
    with Program(command=[*RUN, "own.py"], cwd=tmp_path) as program:
        pid = program.wait_serving()
        os.kill(pid, signal.SIGTERM)
        program.wait("the program's own")
        assert command("stop", pid)[0] == 0
        program.wait_alone(None)


@pytest.mark.parametrize("late", [False, True])
def test_take_hup(tmp_path, late):
    own_hup(tmp_path, late)
    with Program(command=[*RUN, "--take-hup", "own.py"], cwd=tmp_path) as program:
        pid = program.wait_serving()
        program.wait("own SIGHUP handler is put aside")
        pid = program.reload(1, pid)
        program.wait_alone(pid)
        program.stop(pid)
        assert "the program's own\n" not in program.text


# -- start-up -----------------------------------------------------------------


def cpu(*words):
    """Return the seconds of processor time that a command takes."""
    pid = os.spawnve(os.P_NOWAIT, sys.executable, [sys.executable, *words], environment())
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.slow
def test_starting_takes_at_most_30_ms_more(tmp_path):
    script = tmp_path / "imports.py"
    script.write_text("import http.server\n")
    words = [str(script)]
    # In turn, as the load of the machine may change.
    taken = [(cpu(*words), cpu("-m", "endless_py", "run", *words)) for _ in range(15)]
    plain, ours = map(min, zip(*taken))
    # On a machine that is busy everything takes longer; alone, the plain program takes 45 ms here.
    assert ours - plain < 0.030 * max(1.0, plain / 0.045), (plain, ours)
