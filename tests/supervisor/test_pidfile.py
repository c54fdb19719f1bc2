"""The pid file names the generation in charge, and touches nothing that is not a pid file."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest
from harness import ROOT, SUPPORT, TIMEOUT, Program, environment, get

from endless_py._supervisor import pidfile
from endless_py._supervisor.pidfile import PidFile, read_pid
from endless_py._supervisor.pidrecord import look
from endless_py._support import filelock
from endless_py.exceptions import PidFileError

IN_CODE = "import endless_py; endless_py.GracefulMixIn.pid_file = folder / {name!r}\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code").write_text(IN_CODE.format(name="pid"))
    (tmp_path / "version").write_text("v0")
    return tmp_path


@pytest.fixture
def dead():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


OWNER = """
import os, sys, time
from endless_py._supervisor.pidfile import PidFile
file = PidFile(sys.argv[1])
file.write(os.getpid())
if len(sys.argv) > 2:  # as a library in C forks, without a word to hooks of Python's
    if os.fork():
        os._exit(0)
    while os.getppid() == int(open(sys.argv[1]).read()):
        time.sleep(0.01)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner():
    """Start a process that writes a pid file and owns it until it is killed; return its pid."""
    processes = []

    def start(path, *more):
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(path), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        processes.append(process)
        return int(process.stdout.readline())

    yield start
    for process in processes:
        with process:
            process.kill()


def identity(path):
    status = os.lstat(path)
    return status.st_ino, status.st_mtime_ns, path.read_text()


def test_it_is_written_whole_and_removed_by_its_owner(tmp_path):
    path = tmp_path / "pid"
    file = PidFile(path)
    file.write(os.getpid())
    assert path.read_text() == f"{os.getpid()}\n"
    assert read_pid(path) == os.getpid()
    assert os.listdir(tmp_path) == ["pid"]
    file.remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["dead", "empty", "own"])
def test_a_stale_one_is_replaced(content, tmp_path, dead):
    path = tmp_path / "pid"
    path.write_text({"dead": f"{dead}\n", "empty": "", "own": f"{os.getpid()}"}[content])
    PidFile(path).write(os.getpid())
    assert read_pid(path) == os.getpid()


def test_one_of_a_living_process_is_an_error_unless_it_is_a_predecessor(tmp_path, owner):
    path = tmp_path / "pid"
    pid = owner(path)
    before = identity(path)
    with pytest.raises(PidFileError, match=f"process {pid}, which is alive"):
        PidFile(path).write(os.getpid())
    assert identity(path) == before
    PidFile(path).write(os.getpid(), {pid})
    assert read_pid(path) == os.getpid()


@pytest.mark.parametrize("content", ["12 13\n", "x" * 100, "0\n", "-5\n", "9" * 12, " " * 99])
def test_what_is_not_a_pid_file_is_left_alone(content, tmp_path):
    path = tmp_path / "pid"
    path.write_text(content)
    with pytest.raises(PidFileError, match="not a pid file"):
        PidFile(path).write(os.getpid())
    with pytest.raises(PidFileError, match="not a pid file"):
        read_pid(path)
    assert path.read_text() == content


@pytest.mark.parametrize("target", ["pid file", "anything", "nothing"])
def test_a_symlink_is_not_followed(target, tmp_path, dead):
    path, aim = tmp_path / "pid", tmp_path / "aim"
    if target != "nothing":
        aim.write_text(f"{dead}\n" if target == "pid file" else "precious")
    path.symlink_to(aim)
    text = aim.read_text() if aim.exists() else None
    for action in (lambda: PidFile(path).write(os.getpid()), lambda: read_pid(path)):
        with pytest.raises(PidFileError, match="symbolic link"):
            action()
    assert path.is_symlink()
    assert (aim.read_text() if aim.exists() else None) == text


def test_neither_a_fifo_nor_a_folder_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        with pytest.raises(PidFileError):
            PidFile(tmp_path / name).write(os.getpid())
    with pytest.raises(PidFileError, match="no such folder"):
        PidFile(tmp_path / "no" / "pid").check()
    with pytest.raises(PidFileError, match="no pid file"):
        read_pid(tmp_path / "none")


@pytest.mark.parametrize("by", ["another process", "the same pid", "a symlink"])
def test_what_was_put_in_its_place_is_not_removed(by, tmp_path):
    path, file = tmp_path / "pid", PidFile(tmp_path / "pid")
    file.write(os.getpid())
    other = tmp_path / "other"
    other.write_text(f"{os.getppid() if by == 'another process' else os.getpid()}\n")
    if by == "a symlink":
        path.unlink()
        path.symlink_to(other)
    else:
        other.rename(path)
    file.remove()
    assert path.exists()


def test_a_zombie_is_not_alive(tmp_path):
    """Its parent may be slow to notice its end: a container's may be so for ever."""
    path = tmp_path / "pid"
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    path.write_text(f"{process.pid}\n")
    PidFile(path).check()
    process.wait()


def test_a_number_whose_process_does_not_lock_the_file_is_stale(tmp_path):
    path = tmp_path / "pid"
    path.write_text(f"{os.getppid()}\n")
    file = PidFile(path)
    file.check()
    assert read_pid(path) == os.getppid()
    assert file.write(os.getpid()) == f"process {os.getppid()} does not own it"
    assert file.write(os.getpid()) == ""
    assert read_pid(path) == os.getpid()


def test_the_file_is_locked_before_it_has_its_name_and_ever_after(tmp_path, monkeypatch):
    path, seen = tmp_path / "pid", []

    def name(act):
        def noted(new, old):
            seen.append(look(new).locked)
            act(new, old)

        return noted

    monkeypatch.setattr(pidfile.os, "link", name(os.link))
    monkeypatch.setattr(pidfile.os, "rename", name(os.rename))
    file = PidFile(path)
    file.write(os.getpid())
    held = file.held
    file.write(os.getppid())
    file.write(os.getpid())
    assert seen == [True] * 3
    assert file.held == held  # it is handed on by number
    assert not os.get_inheritable(held)
    assert look(path).locked
    file.close()
    assert look(path).locked is False


def test_a_number_that_the_program_has_closed_and_used_is_left_to_it(tmp_path):
    file = PidFile(tmp_path / "pid")
    file.write(os.getpid())
    reader, writer = os.pipe()
    number = file.held
    os.close(number)
    used = os.dup2(writer, number)
    file.write(os.getpid())
    assert (file.lost, file.held != number) == (number, True)
    assert look(tmp_path / "pid").locked
    os.write(used, b"x")
    assert os.read(reader, 9) == b"x"
    file.close()
    for descriptor in {reader, writer, used}:
        os.close(descriptor)


def test_a_child_that_keeps_the_lock_of_a_dead_process_stops_nobody(tmp_path, owner):
    path = tmp_path / "pid"
    child = owner(path, "leaves a child")
    assert look(path).locked
    assert look(path).pid != child
    PidFile(path).write(os.getpid())
    assert read_pid(path) == os.getpid()


def test_where_there_are_no_locks_a_living_process_is_not_taken_for_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(filelock, "acquire", lambda descriptor: None)
    monkeypatch.setattr(filelock, "is_held", lambda descriptor: None)
    path = tmp_path / "pid"
    path.write_text(f"{os.getppid()}\n")
    with pytest.raises(PidFileError, match="which is alive"):
        PidFile(path).check()
    file = PidFile(tmp_path / "other")
    for pid in (os.getpid(), os.getppid(), os.getpid()):
        file.write(pid, {os.getppid()})
        assert read_pid(tmp_path / "other") == pid
    assert file.take()
    file.remove()
    assert os.listdir(tmp_path) == ["pid"]


RACE = """
import os, sys
from endless_py._supervisor import pidfile, pidrecord
from endless_py.exceptions import PidFileError
file = pidfile.PidFile(sys.argv[1])
look = file._read

def look_and_wait():
    found = look()
    file._read = look
    print("looked", flush=True)
    sys.stdin.readline()
    return found

file._read = look_and_wait
try:
    file.write(os.getpid())
    print("wrote", flush=True)
except PidFileError as error:
    print("refused", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("there", ["nothing", "dead", "alive"])
def test_of_several_that_find_it_free_at_once_one_gets_it(there, tmp_path, dead):
    path = tmp_path / "pid"
    if there != "nothing":
        path.write_text(f"{dead if there == 'dead' else os.getppid()}\n")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        for _ in range(5)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == b"looked\n"
        for process in processes:
            process.stdin.write(b"\n")
            process.stdin.flush()
        said = [process.stdout.readline().strip() for process in processes]
        assert sorted(said) == [b"refused"] * 4 + [b"wrote"]
        assert read_pid(path) == processes[said.index(b"wrote")].pid
        assert os.listdir(tmp_path) == ["pid"]
    finally:
        for process in processes:
            with process:
                process.kill()


def test_what_another_generation_wrote_for_this_one_is_taken(tmp_path):
    path = tmp_path / "pid"
    file, incumbents = PidFile(path), PidFile(path)
    assert not file.take()
    incumbents.write(os.getppid())
    assert not file.take()
    path.write_text(f"{os.getpid()}\n")
    assert not file.take()  # the incumbent has the lock, and it was not handed on
    assert file.take(os.dup(incumbents.held))
    incumbents.close()
    assert look(path).locked
    file.remove()
    assert not path.exists()


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(PidFileError, match="no such folder") as caught:
        PidFile(tmp_path / "missing" / "pid").write(os.getpid())
    assert caught.value.filename == str(tmp_path / "missing")


def test_a_relative_path_is_taken_from_where_the_process_is_now(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = PidFile("pid")
    monkeypatch.chdir("/")
    file.write(os.getpid())
    assert read_pid(tmp_path / "pid") == os.getpid()


def test_it_follows_the_generation_in_charge(folder):
    path = folder / "pid"
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        get(program.port)  # its loop runs
        before = identity(path)
        assert before[2] == f"{old}\n"
        good = (folder / "code").read_text()
        (folder / "code").write_text(good + "def")
        os.kill(old, signal.SIGHUP)
        program.wait("reload failed")
        assert identity(path) == before
        (folder / "code").write_text(good)
        new = program.reload(1, old)
        program.wait("finishing ")
        assert read_pid(path) == new
        program.wait_alone(new)
        assert read_pid(path) == new
        last = program.reload(2, new)
        program.wait_alone(last)
        program.stop(last)
        assert not path.exists()


@pytest.mark.slow
def test_the_incumbent_writes_it_again_when_its_successor_dies(folder):
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        with subprocess.Popen(
            [sys.executable, "-c", f"from harness import get; print(get({program.port}, '/slow'))"],
            env=environment(PYTHONPATH=str(SUPPORT)),
            stdout=subprocess.PIPE,
        ) as client:
            while not (folder / "slow").exists():
                assert client.poll() is None
            new = program.reload(1, old)
            program.wait("finishing ")
            assert read_pid(folder / "pid") == new
            os.kill(new, signal.SIGKILL)
            program.wait("accepts again")
            get(program.port)
            assert read_pid(folder / "pid") == old
            (folder / "go").touch()
            assert client.communicate(timeout=TIMEOUT)[0] == b"v0 end\n"
        program.wait_alone(old)
        program.stop(old)
        assert not (folder / "pid").exists()


def test_the_successor_of_a_killed_incumbent_writes_it(folder):
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        port = program.port
        os.mkfifo(folder / "gate")
        with (folder / "code").open("a") as code:
            code.write("open(sys.argv[1] + '/gate').read()")
        os.kill(old, signal.SIGHUP)
        with open(folder / "gate", "w"):
            os.kill(old, signal.SIGKILL)
            program.process.wait(TIMEOUT)
        new = program.wait_serving(1)
        program.wait(rf"generation 0 \(pid {old}\) has ended")
        get(port)
        assert read_pid(folder / "pid") == new
        program.stop(new)
        assert not (folder / "pid").exists()


@pytest.mark.parametrize("name", ["elsewhere", None])
def test_new_code_with_another_path_leaves_none_behind(name, folder):
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        (folder / "code").write_text(IN_CODE.format(name=name) if name else "")
        new = program.reload(1, old)
        program.wait_alone(new)
        get(program.port)
        assert not (folder / "pid").exists()
        assert name is None or read_pid(folder / name) == new
        program.stop(new)
        assert name is None or not (folder / name).exists()


def test_the_command_keeps_one_and_refuses_a_living_one(tmp_path):
    command = [sys.executable, "-m", "endless_py", "0", "-b", "127.0.0.1", "-d", str(tmp_path)]
    command += ["--pid-file", str(tmp_path / "pid")]
    with Program(command=command) as program:
        pid = program.wait_serving()
        get(program.port)
        assert read_pid(tmp_path / "pid") == pid
        second = subprocess.run(
            command, env=environment(), stderr=subprocess.PIPE, timeout=TIMEOUT, check=False
        )
        assert second.returncode == 1
        assert f"process {pid}, which is alive".encode() in second.stderr
        assert len(second.stderr.splitlines()) == 1
        assert read_pid(tmp_path / "pid") == pid
        program.stop(pid)
        assert not (tmp_path / "pid").exists()


class TestPrivilegesThatAreGivenUp:
    """Root's folder is closed to the program by the time that the file is to be written."""

    @pytest.fixture(params=[0o755, 0o700], ids=["all may look", "only root may look"])
    def path(self, request):
        if os.geteuid():
            pytest.skip("only root can give privileges up")
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, request.param)
            yield Path(folder, "pid")

    def as_nobody(self, do):
        """Do it in a process without privileges; what it raises is an error of the test."""
        child = os.fork()
        if child == 0:
            try:
                os.setgid(65534)
                os.setuid(65534)
                do()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        return child

    def test_before_the_server_serves(self, path):
        file = PidFile(path)
        file.check()
        file.hold()
        with pytest.raises(PidFileError, match="is empty"):
            read_pid(path)
        assert self.as_nobody(lambda: file.write(os.getpid())) == read_pid(path)
        assert os.stat(path).st_uid == 0

    def test_after_it_was_written_and_by_successors(self, path, dead):
        first = PidFile(path)
        first.write(os.getpid())
        mine = os.getpid()

        def go_on():
            successor = PidFile(path, first.held)
            successor.check({mine})
            successor.write(7, {mine})  # for its own successor
            assert os.pread(first.held, 64, 0) == b"7\n"
            os.pwrite(first.held, b"%d\n" % os.getpid(), 0)
            assert successor.take()
            successor.remove()
            assert os.fstat(first.held).st_size == 0

        self.as_nobody(go_on)
        assert path.read_bytes() == b""

    def test_another_file_in_its_place_is_left_alone(self, path):
        file = PidFile(path)
        file.write(os.getpid())
        path.unlink()
        path.write_text("1\n")
        looks = os.stat(path.parent).st_mode & 0o055

        def try_it():
            if looks:
                with pytest.raises(PidFileError, match="cannot be written to"):
                    file.write(os.getpid())

        self.as_nobody(try_it)
        assert path.read_text() == "1\n"

    def test_one_that_was_made_and_never_written_is_removed(self, path):
        file = PidFile(path)
        file.hold()
        file.remove()
        assert not path.exists()


def python_for_all():
    """Return an interpreter that every user can start."""
    code = "import os, subprocess, sys; os.setgid(65534); os.setuid(65534); import json; "
    code += "sys.exit(sys.version_info < (3, 9) or subprocess.call([sys.executable, '-c', '']))"
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", code], capture_output=True).returncode == 0:
                return python
    return pytest.skip("needs root and a Python that every user can start")


DROPS = """
import os, sys
sys.path.insert(0, sys.argv[2])
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Server(ThreadingHTTPServer):
    keep_pid = KEPT
    pid_file = sys.argv[1]

with Server(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    server.serve_forever()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True], ids=["a pid of its own", "the pid is kept"])
def test_a_server_that_gives_up_its_privileges_reloads(kept):
    python = python_for_all()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)
        shutil.copytree(ROOT / "endless_py", folder / "endless_py")
        (folder / "server.py").write_text(DROPS.replace("KEPT", str(kept)))
        path = folder / "app.pid"
        words = [python, str(folder / "server.py"), str(path), str(folder)]
        with Program(command=words, cwd=folder) as program:
            pid = program.wait_serving()
            deadline = time.monotonic() + TIMEOUT
            while not path.read_text():  # it is written a moment later
                assert time.monotonic() < deadline
            assert read_pid(path) == pid
            for generation in (1, 2):
                os.kill(pid, signal.SIGHUP)
                program.wait(rf"\] generation {generation}: generation .* has ended")
                pid = program.wait_serving(generation)
                assert read_pid(path) == pid
            assert os.stat(f"/proc/{pid}").st_uid == 65534
            program.stop(pid)
            assert path.read_text() == ""
