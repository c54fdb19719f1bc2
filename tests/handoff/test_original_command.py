"""How a process was started, told from inside it, and what is started in its place."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from endless_py._handoff import command_line
from endless_py._handoff.command_line import CommandLine


@pytest.fixture
def started(monkeypatch):
    """Makes this process look as if it had been started so."""

    def started(*arguments, executable="/usr/bin/python3", script=None):
        monkeypatch.setattr(sys, "orig_argv", list(arguments), raising=False)
        monkeypatch.setattr(sys, "executable", executable)
        monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=script))

    return started


def test_a_bare_name_is_started_as_the_interpreter_that_it_led_to(started):
    started("python3", "-X", "dev", "app.py", "a b")
    found = command_line.capture()
    assert found.executable == "/usr/bin/python3"
    assert found.arguments == ["python3", "-X", "dev", "app.py", "a b"]


def test_a_path_is_found_afresh_as_it_was_typed(started):
    started("venv/bin/python", "app.py", executable="/real/venv/bin/python")
    assert command_line.capture().executable == "venv/bin/python"


def test_what_the_kernel_says_counts_where_the_interpreter_does_not_tell(monkeypatch):
    monkeypatch.delattr(sys, "orig_argv", raising=False)
    with open("/proc/self/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    assert command_line.capture().arguments == words


class TestTheDirectory:
    @pytest.fixture(autouse=True)
    def release(self, tmp_path, monkeypatch):
        (tmp_path / "v1").mkdir()
        (tmp_path / "v2").mkdir()
        (tmp_path / "current").symlink_to("v1")
        monkeypatch.chdir(tmp_path / "current")
        return tmp_path

    def test_a_symlink_is_kept_as_the_shell_had_it(self, release, started, monkeypatch):
        started("python3", "app.py")
        monkeypatch.setenv("PWD", str(release / "current"))
        assert command_line.capture().directory == str(release / "current")

    @pytest.mark.parametrize("pwd", ["elsewhere", "relative", None])
    def test_a_pwd_that_is_another_directorys_counts_for_nothing(
        self, pwd, release, started, monkeypatch
    ):
        started("python3", "app.py")
        if pwd is None:
            monkeypatch.delenv("PWD")
        else:
            monkeypatch.setenv("PWD", str(release / "v2") if pwd == "elsewhere" else ".")
        assert command_line.capture().directory == str(release / "v1")

    def test_a_program_that_has_gone_elsewhere_before_is_known_by_its_script(
        self, release, started, monkeypatch
    ):
        started("python3", "bin/app.py", script=str(release / "v2" / "bin" / "app.py"))
        monkeypatch.setenv("PWD", str(release / "current"))
        assert command_line.capture().directory == str(release / "v2")

    def test_one_that_is_gone_is_none(self, release, started, monkeypatch):
        (release / "gone").mkdir()
        monkeypatch.chdir(release / "gone")
        (release / "gone").rmdir()
        started("python3", "app.py")
        monkeypatch.setenv("PWD", str(release / "gone"))
        assert command_line.capture().directory == ""


class TestWhatIsStarted:
    def test_pwd_names_the_directory(self, tmp_path):
        variables = {"PWD": "/old"}
        found = CommandLine("/bin/sh", ["/bin/sh", "-c"], str(tmp_path)).locate(variables)
        assert found == ("/bin/sh", str(tmp_path), ["/bin/sh", "-c"])
        assert variables == {"PWD": str(tmp_path)}

    def test_a_directory_that_is_gone_is_replaced_by_the_root(self, tmp_path):
        variables = {}
        command = CommandLine("/bin/sh", ["/bin/sh"], str(tmp_path / "gone"))
        assert command.locate(variables) == ("/bin/sh", "/", ["/bin/sh"])
        assert variables == {"PWD": "/"}

    def test_one_that_was_never_known_is_not_named(self):
        variables = {"PWD": "/as it was"}
        assert CommandLine(sys.executable, ["python3"], "").locate(variables)[1] == "/"
        assert variables == {"PWD": "/as it was"}

    def test_a_relative_interpreter_is_looked_for_where_it_was(self, tmp_path):
        command = CommandLine("venv/bin/python", ["venv/bin/python"], str(tmp_path))
        with pytest.raises(FileNotFoundError, match="the interpreter is not there") as caught:
            command.locate({})
        assert caught.value.filename == str(tmp_path / "venv/bin/python")
        (tmp_path / "venv" / "bin").mkdir(parents=True)
        (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
        assert command.locate({})[0] == "venv/bin/python"

    def test_a_bare_name_is_looked_for_in_the_path(self, tmp_path, monkeypatch):
        (tmp_path / "snake").write_text("#!/bin/sh\n")
        (tmp_path / "snake").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        found = CommandLine("/usr/bin/snake", ["snake", "-x"], "/").locate({})
        assert found == (str(tmp_path / "snake"), "/", ["snake", "-x"])
        other = {"PATH": "/nowhere"}  # of the start; the program may have another one by now
        found = CommandLine(sys.executable, ["snake"], "/").locate(other)
        assert found == (sys.executable, "/", [sys.executable])
        assert CommandLine("worm", ["worm"], "/").locate({})[0] == "worm"

    def test_a_command_line_that_nobody_knows_cannot_be_started(self):
        with pytest.raises(OSError, match="not known on this platform"):
            CommandLine("python3", [], "/").locate({})
