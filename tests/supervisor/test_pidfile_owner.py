"""A server owns its pid file for as long as it lives, whatever it does, and no longer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from custom_code import IN_CODE, with_pid_file
from harness import TIMEOUT, Program, environment, get, slow, until, until_written

from endless_py._control import client
from endless_py._supervisor.pidfile import read_pid
from endless_py._supervisor.pidrecord import look


@pytest.fixture
def folder(tmp_path):
    return with_pid_file(tmp_path, "v0")


def serve(path, *more):
    """The words of a server of its own with this pid file."""
    words = [sys.executable, "-m", "endless_py", "0", "--bind", "127.0.0.1"]
    return [*words, "--directory", str(path.parent), "--pid-file", str(path), *more]


def refused(path):
    """Start another server with this pid file, which must not be; return what it says."""
    done = subprocess.run(
        serve(path), env=environment(), stderr=subprocess.PIPE, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 1
    return done.stderr


def test_a_start_takes_over_a_file_whose_number_another_program_has_by_now(tmp_path, sleeper):
    path = tmp_path / "pid"
    path.write_text(f"{sleeper.pid}\n")
    with Program(command=serve(path)) as program:
        pid = program.wait_serving()
        found = program.wait(r"the pid file (\S+) was stale: process (\d+) .*; it is taken over$")
        assert found.groups() == (str(path), str(sleeper.pid))
        assert read_pid(path) == pid
        assert look(path).locked
        program.stop(pid)
        assert program.text.count("was stale") == 1


def test_a_start_takes_over_a_file_whose_number_another_server_has_by_now(tmp_path):
    with Program(command=serve(tmp_path / "other")) as other:
        its = other.wait_serving()
        get(other.port)
        (tmp_path / "pid").write_text(f"{its}\n")
        with Program(command=serve(tmp_path / "pid")) as program:
            pid = program.wait_serving()
            text = rf"was stale: process {its}, whose number it has, is that of {tmp_path}/other;"
            program.wait(text)
            assert read_pid(tmp_path / "pid") == pid
            program.stop(pid)
        other.stop(its)


@pytest.mark.parametrize("how", ["stopped", "without its socket", "its file was copied"])
def test_a_server_that_lives_is_not_taken_for_dead(how, tmp_path):
    """One that is stopped, or has no socket, proves it by the lock; without that it is asked."""
    path = tmp_path / "pid"
    with Program(command=serve(path)) as program:
        pid = program.wait_serving()
        get(program.port)
        if how == "stopped":
            os.kill(pid, signal.SIGSTOP)
        elif how == "without its socket":
            (address,) = client.addresses(pid)
            os.unlink(address)
        else:
            (tmp_path / "copy").write_text(path.read_text())
            (tmp_path / "copy").rename(path)
            assert look(path).locked is False
        assert f"process {pid}, which is alive" in refused(path)
        assert read_pid(path) == pid
        os.kill(pid, signal.SIGCONT)
        program.stop(pid)


def test_each_generation_has_the_lock_and_the_last_one_leaves_none(folder):
    path = folder / "pid"
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        until_written(path)
        for generation in (1, 2):
            os.mkfifo(folder / "bound")
            os.kill(pid, signal.SIGHUP)
            program.wait(f"started generation {generation}")
            assert look(path).locked
            with open(folder / "bound", "w"):
                (folder / "bound").unlink()
            pid = program.wait_serving(generation)
            program.wait_alone(pid)
            assert read_pid(path) == pid
            assert look(path).locked
        os.kill(pid, signal.SIGKILL)
        program.wait_alone(None)
        assert look(path).locked is False


def test_the_lock_of_a_killed_incumbent_is_with_the_successor_that_starts(folder):
    path = folder / "pid"
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        until_written(path)
        os.mkfifo(folder / "bound")
        os.kill(old, signal.SIGHUP)
        with open(folder / "bound", "w"):
            os.kill(old, signal.SIGKILL)
            program.process.wait(TIMEOUT)
            assert read_pid(path) == old
            assert look(path).locked
        new = program.wait_serving(1)
        until(lambda: read_pid(path) == new)
        assert look(path).locked
        program.stop(new)


@pytest.mark.slow
def test_a_kept_pid_that_starts_anew_is_not_taken_for_dead(folder):
    path = folder / "pid"
    with Program("kept.py", folder) as program:
        pid = program.wait_serving()
        until_written(path)
        gate = folder / "gate"
        os.mkfifo(gate)
        code = f"if os.getpid() == {pid}: open({str(gate)!r}).read()\n"
        (folder / "start").write_text(code + IN_CODE)
        os.kill(pid, signal.SIGHUP)
        program.wait("starts its program anew in place")
        with gate.open("w"):  # it has begun, and is before its import of this package
            assert f"process {pid}, which is alive" in refused(path)
        assert program.wait_serving(1) == pid
        program.wait_alone(pid)
        assert read_pid(path) == pid
        assert look(path).locked
        program.stop(pid)


FORKS = f"""{IN_CODE}
import subprocess
class Server(ForkingHTTPServer):
    keep_pid = False
with Server(("127.0.0.1", 0), Handler) as server:
    # What it has started keeps every descriptor that it is given.
    child = subprocess.Popen(["sleep", "600"], close_fds=False)
    server.serve_forever()
"""


def test_a_child_of_a_killed_server_does_not_keep_its_file_locked(folder):
    path = folder / "pid"
    (folder / "code").write_text(FORKS)
    with Program("custom.py", folder) as program:
        pid = program.wait_serving()
        until_written(path)
        client_thread = threading.Thread(target=ask_in_vain, args=(program.port,))
        client_thread.start()
        until((folder / "slow").exists)
        os.kill(pid, signal.SIGKILL)
        program.process.wait(TIMEOUT)
        assert len(program.pids()) == 2  # the handler, and what was started
        assert look(path).locked is False
        (folder / "go").touch()
        client_thread.join(TIMEOUT)


def ask_in_vain(port):
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
        sock.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        while sock.recv(1000):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["elsewhere", slow(None)])
def test_new_code_with_another_path_locks_that_one(name, folder):
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        until_written(folder / "pid")
        (folder / "code").write_text(IN_CODE.replace("'pid'", repr(name)) if name else "")
        new = program.reload(1, old)
        program.wait_alone(new)
        assert not (folder / "pid").exists()
        assert name is None or look(folder / name).locked
        # A file that is there afterwards is anybody's.
        with Program(command=serve(folder / "pid")) as another:
            another.stop(another.wait_serving())
        program.stop(new)
