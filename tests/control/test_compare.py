"""start-or-reload of something else than what runs: it is said, and not taken for a success."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from harness import PROGRAMS, TIMEOUT, Program, environment, session_pids

from endless_py._control import compare

STEPS = [sys.executable, str(PROGRAMS / "steps.py")]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code").write_text("")
    (tmp_path / "version").write_text("one")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def start_or_reload(folder, *command, cwd=None, target=None, **variables):
    words = ["start-or-reload", str(target or folder / "app.pid"), "--", *map(str, command)]
    done = subprocess.run(
        [sys.executable, "-m", "endless_py", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd or folder,
        env=environment(**{**variables, "PYTEST_CURRENT_TEST": ""}),
        timeout=TIMEOUT,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def session(folder):
    assert start_or_reload(folder, *STEPS, folder, MODE="blue")[0] == 0
    pid = int((folder / "app.pid").read_text())
    yield pid
    for other in session_pids(pid):
        os.kill(other, signal.SIGKILL)


@pytest.mark.slow
def test_what_it_was_started_as_counts_through_reloads(session, folder):
    for _ in range(2):
        status, output, errors = start_or_reload(folder, *STEPS, folder, MODE="blue")
        assert (status, errors) == (0, "")
        assert "note:" not in output
        before = int((folder / "app.pid").read_text())
        status, output, errors = start_or_reload(folder, *STEPS, folder, "--other", MODE="blue")
        assert (status, output) == (1, "")
        assert "which differs from" in errors
        assert "--other" in errors
        assert "Nothing was done" in errors
        status, output, errors = start_or_reload(
            folder, *STEPS, folder, MODE="blue", cwd=folder / "elsewhere"
        )
        assert (status, output) == (1, "")
        assert f"it was started in {folder}, not in {folder / 'elsewhere'}" in errors
        assert int((folder / "app.pid").read_text()) == before


def test_variables_that_differ_are_named(session, folder):
    variables = {"MODE": "green", "SSH_TTY": "/dev/pts/9"}
    status, output, errors = start_or_reload(folder, *STEPS, folder, **variables)
    assert (status, errors) == (0, "")
    assert "note: a reload keeps the environment of the first start; MODE differ" in output
    assert "reloaded: generation 1 serves" in output


def test_one_that_was_started_by_hand(folder):
    env = environment(PWD=str(folder))
    command = [*STEPS, folder]
    with Program(command=[*map(str, command)], cwd=folder, env=env) as program:
        pid = program.wait_serving()
        (folder / "by hand").write_text(f"{pid}\n")
        target = folder / "by hand"
        status, _, errors = start_or_reload(folder, *command, "more", target=target)
        assert status == 1
        assert "differs from" in errors
        assert start_or_reload(folder, *command, target=target)[0] == 0
        new = program.wait_serving(1)
        program.wait_alone(new)
        program.stop(new)


@pytest.mark.parametrize(
    ("command", "same"),
    [
        (["python3", "-m", "app", "80"], True),
        (["/usr/bin/python3.11", "-m", "app", "80"], True),
        (["python3", "-m", "app", "81"], False),
        (["poetry", "run", "app", "80"], True),  # nobody can know
    ],
)
def test_the_interpreters_own_words(command, same):
    words = ["/venv/bin/python", "-m", "app", "80"]
    origin = {"words": None, "arguments": words, "directory": "/"}
    assert compare._is_same_command(origin, command) is same


def test_a_script_with_an_interpreter_line(tmp_path):
    script = tmp_path / "app"
    script.write_text("#!/usr/bin/env python3\n")
    words = ["python3", "app", "80"]
    origin = {"words": None, "arguments": words, "directory": str(tmp_path)}
    assert compare._is_same_command(origin, [str(script), "80"])
    assert not compare._is_same_command(origin, [str(script), "81"])
