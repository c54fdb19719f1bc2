"""The words after python -m endless_py: the version, a word that is misspelt, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import command
from harness import ROOT, TIMEOUT, environment

import endless_py


def test_the_version():
    assert command("--version") == (0, f"endless_py {endless_py.__version__}\n", "")


@pytest.mark.parametrize(
    ("word", "meant"), [("relaod", "reload"), ("stauts", "status"), ("wsig", "wsgi")]
)
def test_a_misspelt_command(word, meant):
    status, output, errors = command(word, "app.pid")
    assert (status, output) == (2, "")
    assert f"there is no command {word!r}; did you mean {meant}?" in errors


def test_what_is_no_command_at_all_is_no_port():
    status, _, errors = command("xyzzy")
    assert status == 2
    assert "'xyzzy' is not a port" in errors


@pytest.fixture
def script(tmp_path):
    """The console script, as pip writes it."""
    path = tmp_path / "endless-py"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom endless_py.__main__ import run\nsys.exit(run())\n"
    )
    path.chmod(0o755)
    return path


def run(script, *words, **variables):
    return subprocess.run(
        [str(script), *words],
        capture_output=True,
        text=True,
        env=environment(**variables),
        timeout=TIMEOUT,
    )


@pytest.mark.parametrize("words", [["status", "--help"], ["wsgi", "--help"], ["run", "--help"]])
def test_the_console_script_calls_itself_by_its_name(script, words):
    done = run(script, *words)
    assert done.stdout.startswith(f"usage: endless-py {words[0]}")
    assert command(*words)[1].startswith(f"usage: python -m endless_py {words[0]}")


def test_errors_name_the_console_script(script):
    assert run(script, "status", "999999").stderr.startswith(
        "endless-py: error: there is no process"
    )
    assert run(script, "relaod").stderr.startswith(
        "endless-py: error: there is no command 'relaod'"
    )


def test_completion_says_what_is_missing(script, tmp_path):
    (tmp_path / "argcomplete.py").write_text("raise ImportError('not there')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = run(script, "completion", "bash", PYTHONPATH=path)
    assert done.returncode == 1
    assert "pip install 'endless-py[completion]'" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_the_shell_needs(script, shell):
    pytest.importorskip("argcomplete")
    done = run(script, "completion", shell)
    assert done.returncode == 0
    assert "endless-py" in done.stdout
    assert "\\x" not in done.stdout


COMPLETE = """
eval "$({script} completion bash)"
COMP_WORDS=({words})
COMP_CWORD={position}
COMP_LINE="{words}"
COMP_POINT=${{#COMP_LINE}}
COMP_TYPE=9
$(complete -p endless-py | sed 's/.*-F \\([^ ]*\\).*/\\1/') endless-py
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("endless-py rel", {"reload"}),
        ("endless-py reload --w", {"--wait-drained"}),
        ("endless-py status --", {"--help", "--timeout", "--json", "--verbose", "--watch"}),
        ("endless-py w", {"wsgi"}),
    ],
)
def test_bash_completes(script, words, found):
    pytest.importorskip("argcomplete")
    code = COMPLETE.format(script=script, words=words, position=len(words.split()) - 1)
    done = subprocess.run(
        ["bash", "-c", code],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment(PATH=f"{Path(script).parent}{os.pathsep}{os.environ['PATH']}"),
    )
    assert set(done.stdout.split()) == found, done.stderr
