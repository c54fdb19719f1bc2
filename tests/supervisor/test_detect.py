"""Whether the pid is kept: the setting comes first, then what watches the process."""

from __future__ import annotations

import io
import os

import pytest

from endless_py._supervisor import detect


@pytest.fixture(autouse=True)
def unwatched(monkeypatch):
    """A process that nothing watches, whatever runs the tests."""
    for name in ("SUPERVISOR_ENABLED", "INVOCATION_ID", "SYSTEMD_EXEC_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(detect, "_parent_name", lambda: "bash")
    monkeypatch.setattr(detect, "in_foreground", lambda: False)
    monkeypatch.setattr(os, "getpid", lambda: 4711)


@pytest.mark.parametrize("value", [True, False, "auto", 1, 0])
def test_a_setting_is_true_false_or_auto(value):
    assert detect.check(value) == value
    assert isinstance(detect.check(value), (bool, str))


@pytest.mark.parametrize("value", ["yes", None, 2, "", "AUTO"])
def test_any_other_setting_is_an_error_that_names_it(value):
    with pytest.raises(ValueError, match=r"keep_pid is .*; it must be True, False or"):
        detect.check(value)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [(["auto", True], True), (["auto", False], False), ([False, True], True), ([False], False)],
)
def test_an_explicit_setting_is_obeyed_whoever_watches(settings, kept, monkeypatch):
    monkeypatch.setenv("SUPERVISOR_ENABLED", "1")
    assert detect.decide(settings, False) == (kept, f"keep_pid = {kept}")


def test_without_any_sign_the_pid_changes():
    assert detect.decide(["auto"], False) == (False, "no supervisor was found")
    assert detect.decide([], True) == (
        False,
        "the manager that listens at NOTIFY_SOCKET is told the new one",
    )


def test_pid_1_is_kept(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert detect.decide(["auto"], True) == (True, "it is pid 1")


def test_supervisord_is_known_by_its_variable(monkeypatch):
    monkeypatch.setenv("SUPERVISOR_ENABLED", "1")
    assert detect.decide(["auto"], False)[0]


@pytest.mark.parametrize("name", ["runsv", "s6-supervise", "supervise", "tini", "dumb-init"])
def test_a_parent_that_watches_one_pid_is_known_by_its_name(name, monkeypatch):
    monkeypatch.setattr(detect, "_parent_name", lambda: name)
    kept, reason = detect.decide(["auto"], True)
    assert kept
    assert name in reason


def test_a_terminals_foreground_job(monkeypatch):
    monkeypatch.setattr(detect, "in_foreground", lambda: True)
    assert detect.decide(["auto"], True) == (True, "it runs in the foreground of a terminal")


@pytest.mark.parametrize(
    ("main", "ppid", "notifies", "kept"),
    [
        ("4711", 9, False, True),
        ("4711", 9, True, False),  # it can be told another pid
        ("4712", 1, False, False),  # what the unit's main process has started
        (None, 1, False, True),  # before systemd 248
        (None, 9, False, False),
    ],
)
def test_a_unit_keeps_its_pid_when_systemd_cannot_be_told_another(
    main, ppid, notifies, kept, monkeypatch
):
    monkeypatch.setenv("INVOCATION_ID", "a unit's")
    if main:
        monkeypatch.setenv("SYSTEMD_EXEC_PID", main)
    monkeypatch.setattr(os, "getppid", lambda: ppid)
    assert detect.decide(["auto"], notifies)[0] is kept


def test_the_variables_of_a_unit_without_its_id_say_nothing(monkeypatch):
    monkeypatch.setenv("SYSTEMD_EXEC_PID", "4711")
    assert detect.decide(["auto"], False)[0] is False


class TestTheParentsName:
    @pytest.fixture(autouse=True)
    def real(self, monkeypatch):
        monkeypatch.undo()

    def test_from_proc(self, monkeypatch):
        asked = []

        def opened(path, **_):
            asked.append(path)
            return io.StringIO("s6-supervise\n")

        monkeypatch.setattr("builtins.open", opened)
        assert detect._parent_name() == "s6-supervise"
        assert asked == [f"/proc/{os.getppid()}/comm"]

    def test_from_ps_where_there_is_no_proc(self, monkeypatch, tmp_path):
        def missing(path, **_):
            raise FileNotFoundError(path)

        (tmp_path / "ps").write_text('#!/bin/sh\necho "/usr/bin/runsv"\n')
        (tmp_path / "ps").chmod(0o755)
        monkeypatch.setattr("builtins.open", missing)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert detect._parent_name() == "runsv"
        monkeypatch.setenv("PATH", "")
        monkeypatch.chdir(tmp_path)  # an empty PATH may mean the current folder
        (tmp_path / "ps").unlink()
        assert detect._parent_name() == ""

    def test_no_terminal_is_no_foreground(self, monkeypatch):
        def none(descriptor):
            raise OSError(25, "not a terminal")

        monkeypatch.setattr(os, "tcgetpgrp", none)
        assert detect.in_foreground() is False

    @pytest.mark.parametrize("ours", [True, False])
    def test_the_first_terminal_among_the_standard_streams_decides(self, ours, monkeypatch):
        def group(descriptor):
            if descriptor == 0:
                raise OSError(25, "not a terminal")
            return os.getpgrp() if ours else os.getpgrp() + 1

        monkeypatch.setattr(os, "tcgetpgrp", group)
        assert detect.in_foreground() is ours
