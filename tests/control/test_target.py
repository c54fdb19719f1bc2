"""TARGET is a pid file: whose it is, and for how long the commands wait."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import threading

import commands
import pytest
from commands import finish, start_command
from custom_code import IN_CODE, with_pid_file
from harness import (
    PROGRAMS,
    TIMEOUT,
    Program,
    get,
    session_pids,
    slow,
    until,
    until_written,
)

from endless_py._control import owner, target
from endless_py._control.client import Deadline, Failed, TimedOut, Unanswered
from endless_py._supervisor.pidfile import PidFile, read_pid
from endless_py._supervisor.pidrecord import look
from endless_py.exceptions import PidFileError

NOBODY = 65534
LONG = 3 * TIMEOUT  # seconds: thirty commands may run at once
command = functools.partial(commands.command, seconds=LONG)


@pytest.fixture
def folder(tmp_path):
    return with_pid_file(tmp_path, "one")


def end_session(path):
    """End what a start in the background has left."""
    pids = session_pids(os.getsid(read_pid(path)), watchers=True) if path.exists() else []
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


# -- a number is not a process ------------------------------------------------


@pytest.mark.slow
def test_a_stale_file_is_about_no_other_server(folder):
    """The number that a killed server has left is another one's by now."""
    stale = folder / "stale.pid"
    with Program("steps.py", folder) as other:
        its = other.wait_serving()
        until_written(folder / "pid")
        stale.write_text(f"{its}\n")
        for name in ("status", "reload", "stop"):
            status, output, errors = command(name, stale)
            assert (status, output) == (1, "")
            assert f"the pid file {stale} is stale: process {its}, " in errors
            assert f"is that of {folder}/pid" in errors
            assert len(errors.splitlines()) == 1
        words = ["start-or-reload", stale, "--", sys.executable, "-m", "endless_py", "0"]
        try:
            status, output, errors = command(*words)
            assert (status, errors) == (0, "")
            assert output.startswith(f"started: pid {read_pid(stale)} serves")
            assert read_pid(stale) != its
            assert command("stop", stale)[0] == 0
        finally:
            end_session(stale)
        assert get(other.port) == "one end"
        assert "generation 1" not in other.text
        other.stop(its)


@pytest.mark.slow
def test_who_else_may_write_a_file_for_a_server_without_one(tmp_path):
    """A script's `echo $! > pid` is as good, if the process was there when it was written."""
    path = tmp_path / "pid"
    with Program("http_server.py", "ThreadingHTTPServer", 0) as program:
        pid = program.wait_serving()
        path.write_text(f"{pid}\n")
        assert command("status", path)[0] == 0
        os.utime(path, (0, 0))
        status, _, errors = command("stop", path)
        assert status == 1
        assert f"stale: it is older than process {pid}, whose number it has" in errors
        if os.geteuid() == 0:
            path.write_text(f"{pid}\n")
            os.chown(path, NOBODY, NOBODY)
            status, _, errors = command("stop", path)
            assert status == 1
            assert f"user {NOBODY}, who owns it, is neither root nor user 0, whose" in errors
        assert get(program.port)
        program.stop(pid)


def record(path, locked):
    found = look(str(path))
    found.locked = locked
    return found


@pytest.mark.parametrize(
    ("locked", "kind"),
    [(True, owner.ALIVE), (False, owner.STALE), (None, owner.UNKNOWN)],
)
def test_what_a_process_is_that_cannot_be_asked(locked, kind, sleeper, tmp_path):
    path = tmp_path / "pid"
    path.write_text(f"{sleeper.pid}\n")
    found, why = owner.judge(record(path, locked), Deadline(TIMEOUT))
    assert found == kind
    assert f"process {sleeper.pid} does not serve with endless_py" in why
    assert bool(owner.why_not_its(record(path, locked))) is (kind == owner.STALE)
    os.utime(path, (0, 0))  # the clock may have been wrong: what is locked has an owner
    kinds = {True: owner.ALIVE, False: owner.STALE, None: owner.STALE}
    assert owner.judge(record(path, locked), Deadline(TIMEOUT))[0] == kinds[locked]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("locked", [True, False, None])
def test_a_file_of_another_users_is_not_believed(locked, sleeper, tmp_path):
    """Not even with a lock, which is that user's as well."""
    path = tmp_path / "pid"
    path.write_text(f"{sleeper.pid}\n")
    os.chown(path, NOBODY, NOBODY)
    assert owner.judge(record(path, locked), Deadline(TIMEOUT))[0] == owner.STALE
    assert owner.why_not_its(record(path, locked))


@pytest.mark.parametrize("locked", [True, False, None])
def test_a_strangers_process_does_not_get_a_file_by_its_word(
    locked, sleeper, tmp_path, monkeypatch
):
    """It has waited until the number was free, and answers as a server would."""
    path = tmp_path / "pid"
    path.write_text(f"{sleeper.pid}\n")
    monkeypatch.setattr(owner, "try_connect", lambda pid, deadline: object())
    monkeypatch.setattr(owner, "_ask", lambda client, record: {"owns": True})
    found = record(path, locked)
    assert owner.judge(found, Deadline(TIMEOUT))[0] == owner.OWNED
    monkeypatch.setattr(owner, "_user", lambda pid: NOBODY)
    kind = owner.STALE if locked is False else owner.OWNED
    assert owner.judge(found, Deadline(TIMEOUT))[0] == kind
    found.uid = NOBODY
    assert owner.judge(found, Deadline(TIMEOUT))[0] == owner.OWNED


# -- waiting ------------------------------------------------------------------


class Waiting(Deadline):
    """A deadline that does something when it is waited for the first time."""

    def __init__(self, act):
        super().__init__(TIMEOUT)
        self.acts = [act]

    def pause(self):
        if self.acts:
            self.acts.pop()()
        super().pause()


def test_who_asks_while_the_server_is_killed_in_a_reload_waits_for_the_new_one(folder):
    path = folder / "pid"
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        until_written(path)
        os.mkfifo(folder / "bound")
        os.kill(old, signal.SIGHUP)
        with open(folder / "bound", "w") as gate:
            os.kill(old, signal.SIGKILL)
            program.process.wait(TIMEOUT)
            with pytest.raises(
                TimedOut, match=f"there is no process {old}; the lock of .* is held"
            ):
                target.find(str(path), Deadline(0.1))
            found = target.find(str(path), Waiting(gate.close))
        new = program.wait_serving(1)
        assert found == new
        program.stop(new)


def test_who_asks_before_a_server_serves_waits_for_it(folder):
    """As root it has made an empty file; else the number is still that of the one before."""
    path = folder / "pid"
    (folder / "code").write_text(IN_CODE)
    os.mkfifo(folder / "bound")
    with Program("steps.py", folder) as program, open(folder / "bound", "w") as gate:
        if os.geteuid() == 0:
            with pytest.raises(TimedOut, match="is empty, and the server that made it"):
                target.find(str(path), Deadline(0.1))
            assert target.find(str(path), Waiting(gate.close)) == program.pid
        gate.close()
        program.stop(program.wait_serving())


@pytest.mark.parametrize("name", ["status", slow("start-or-reload")])
def test_a_server_that_is_stopped_is_waited_for_and_named(name, folder):
    path = folder / "pid"
    more = ["--", "false"] if name == "start-or-reload" else []
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        until_written(path)
        os.kill(pid, signal.SIGSTOP)
        status, _, errors = command(name, "--timeout", "0.5", path, *more)
        assert status == 3
        assert f"process {pid}, whose number {path} has, does not answer" in errors
        os.kill(pid, signal.SIGCONT)
        program.stop(pid)


def test_nobody_is_waited_for_where_nobody_holds_the_file(tmp_path, sleeper):
    path = tmp_path / "pid"
    for text, complaint in {
        "": "the pid file is empty",
        f"{sleeper.pid}\n": f"the pid file {path} is stale: process {sleeper.pid} does not serve",
    }.items():
        path.write_text(text)
        with pytest.raises((Failed, PidFileError), match=re.escape(complaint)):
            target.find(str(path), Deadline(None))
        assert target.running(str(path), Deadline(None)) is None


def test_a_lock_without_an_owner_does_not_keep_a_start_for_ever(tmp_path, monkeypatch):
    """A child that a killed server has left behind may hold it."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    path = tmp_path / "pid"
    child = PidFile(path)
    child.write(dead.pid)
    assert look(str(path)).locked
    monkeypatch.setattr(target, "_LOCK_GRACE", 0.1)
    assert target.running(str(path), Deadline(None)) is None
    child.close()


def test_the_one_that_answers_is_asked_again_when_another_one_did_not(tmp_path, sleeper):
    """A reload is sent on to a generation that ends, or starts anew, just then."""
    path = tmp_path / "pid"
    asked = []

    def act(pid):
        asked.append(pid)
        if len(asked) < 3:
            raise Unanswered("the one that it was sent on to has ended")
        return 0

    with Program("http_server.py", "ThreadingHTTPServer", 0) as program:
        pid = program.wait_serving()
        path.write_text(f"{pid}\n")
        for word in (str(pid), str(path)):
            asked.clear()
            assert target.run(word, Deadline(TIMEOUT), act) == 0
            assert asked == [pid] * 3
        program.stop(pid)
    for word in (str(pid), str(path), str(sleeper.pid)):
        asked.clear()
        with pytest.raises(Unanswered):
            target.run(word, Deadline(TIMEOUT), act)
        assert asked == [] or word != str(path)


# -- many at once -------------------------------------------------------------


@pytest.mark.slow
def test_of_several_starts_at_once_one_starts_it_and_the_others_reload(folder):
    path, log = folder / "pid", folder / "pid.log"
    words = ["start-or-reload", path, "--", sys.executable, PROGRAMS / "steps.py", folder]
    os.mkfifo(folder / "bound")
    try:
        processes = [start_command(*words, cwd=folder) for _ in range(5)]
        # All are there before it serves: one has the lock, the others look at it.
        until(lambda: sum(holds(p.pid, f"{path}.lock") for p in processes) == 1)
        with open(folder / "bound", "w"):
            (folder / "bound").unlink()
        results = [finish(process, LONG) for process in processes]
        assert [(status, errors) for status, _, errors in results] == [(0, "")] * 5
        said = sorted(output.split()[0] for _, output, _ in results)
        assert said == ["reloaded:"] * 4 + ["started:"]
        assert len(re.findall(r"generation 0: serves", log.read_text())) == 1
        assert not (folder / "pid.lock").exists()
        assert command("stop", path)[0] == 0
    finally:
        end_session(path)


def holds(pid, path):
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{name}") == path for name in os.listdir(folder))
    except OSError:
        return False


def test_a_start_waits_no_longer_than_it_is_told_to(tmp_path):
    from endless_py._control import launch

    path = str(tmp_path / "pid")
    with launch.one_at_a_time(path, Deadline(None)):
        status, _, errors = command("start-or-reload", "--timeout", "0.5", path, "--", "false")
        assert status == 3
        assert f"another command starts the server of {path}, and holds {path}.lock" in errors
    status, _, errors = command("start-or-reload", path, "--", "false")
    assert status == 1
    assert "exited with status 1" in errors
    assert os.listdir(tmp_path) == ["pid.log"]


def test_a_lock_that_was_left_behind_is_nobodys(tmp_path):
    from endless_py._control import launch

    (tmp_path / "pid.lock").touch()
    with launch.one_at_a_time(str(tmp_path / "pid"), Deadline(TIMEOUT)):
        assert (tmp_path / "pid.lock").exists()
    assert os.listdir(tmp_path) == []
    missing = launch.one_at_a_time(str(tmp_path / "missing" / "pid"), Deadline(TIMEOUT))
    with pytest.raises(Failed, match="cannot write the lock"), missing:
        pass


@pytest.mark.slow
def test_a_reload_that_the_bridge_does_is_done_when_the_kept_pid_serves(folder):
    """It comes while the kept pid drains, and is sent on to the bridge, which gets its own."""
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        request = threading.Thread(target=get, args=(program.port, "/gate"))
        request.start()
        until((folder / "in handler").exists)
        os.kill(pid, signal.SIGHUP)
        program.wait("finishing ")
        asking = start_command("reload", folder / "pid")
        bridge = program.wait(r"\[(\d+)\] generation 2 \(bridge\): serves")[1]
        (folder / "go").touch()
        request.join(TIMEOUT)
        status, output, errors = finish(asking, LONG)
        assert (status, errors) == (0, "")
        first, second = output.splitlines()
        assert first.endswith(f"pid {pid} is kept, {bridge} is the bridge until it has drained")
        assert second == f"drained: pid {pid} serves as generation 2"
        program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["a pid file", "a pid"])
def test_many_reloads_of_a_kept_pid_at_once(how, folder):
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        until_written(folder / "pid")
        word = folder / "pid" if how == "a pid file" else pid
        processes = [start_command("reload", word) for _ in range(30)]
        results = [finish(process, LONG) for process in processes]
        assert [(status, errors) for status, _, errors in results] == [(0, "")] * 30
        program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.slow
def test_many_reloads_at_once_that_change_the_pid(folder):
    with Program("steps.py", folder) as program:
        program.wait_serving()
        until_written(folder / "pid")
        processes = [start_command("reload", folder / "pid") for _ in range(30)]
        results = [finish(process, LONG) for process in processes]
        assert [(status, errors) for status, _, errors in results] == [(0, "")] * 30
        pid = read_pid(folder / "pid")
        program.wait_alone(pid)
        program.stop(pid)
