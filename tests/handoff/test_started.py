"""A reload is a fresh start: the new code has what the command was started with."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from custom_code import custom, slow_request
from harness import ROOT, TIMEOUT, Program, environment, get, is_watcher

from endless_py._handoff.started import Started

KEPT = pytest.mark.parametrize("kept", [False, True], ids=["a pid of its own", "the pid is kept"])

# What it was started with is answered; then the program changes all of it.
FACTS = """
import json, os, signal, time
facts = [
    dict(os.environ), os.getcwd(), os.umask(0o077), os.getpriority(os.PRIO_PROCESS, 0),
    [n for n in (17, 10, 12, 1) if signal.getsignal(n) is signal.SIG_IGN],
    sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
]
os.umask(facts[2])

class Facts(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(facts).encode())
    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    keep_pid = KEPT

def change():
    os.environ["GREETING"] = "changed"
    os.environ["PATH"] = "/opt/app/bin:" + os.environ["PATH"]
    os.environ.pop("SECRET", None)
    os.chdir("/")
    os.umask(0o027)
    os.nice(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])

with Server(("127.0.0.1", 0), Facts) as server:
    change()
    server.serve_forever()
"""


def reload(program, generation, pid, kept):
    """HUP, and wait until everything of the older generation is gone; return who serves."""
    os.kill(pid, signal.SIGHUP)
    if kept:
        new = program.wait_serving(generation)
        program.wait(rf"\[{pid}\] generation {generation}: generation .* has ended")
        assert new == pid
    else:
        new = program.wait_serving(generation)
    program.wait_alone(new)
    no_watcher_is_left(program)
    return new


def no_watcher_is_left(program):
    deadline = time.monotonic() + TIMEOUT
    while [
        pid
        for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
        if is_watcher(pid) and session_of(pid) == program.pid
    ]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def session_of(pid):
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


@pytest.mark.slow
@KEPT
def test_what_the_program_changes_about_itself_ends_with_it(kept, tmp_path):
    env = environment(SECRET="s", PWD=str(tmp_path), GREETING="first")
    env.pop("LC_CTYPE", None)
    code = FACTS.replace("KEPT", str(kept))
    with custom(tmp_path, code, cwd=tmp_path, env=env) as program:
        pid = program.wait_serving()
        first = json.loads(get(program.port))
        for generation in (1, 2, 3):
            pid = reload(program, generation, pid, kept)
            assert json.loads(get(program.port)) == first
        program.stop(pid)
        assert "Traceback" not in program.text


@pytest.mark.slow
@KEPT
def test_signals_that_were_ignored_from_the_start_still_are(kept, tmp_path):
    command = ["/bin/sh", "-c", f'trap "" USR1 HUP; exec "{sys.executable}" "$@"', "sh"]
    (tmp_path / "code").write_text(
        FACTS.replace("KEPT", str(kept)).replace("SIG_IGN)\n    s", "SIG_DFL)\n    s")
    )
    words = [str(ROOT / "tests" / "programs" / "custom.py"), str(tmp_path)]
    with Program(command=[*command, *words]) as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            pid = reload(program, generation, pid, kept)
            ignored = json.loads(get(program.port))[4]
            assert int(signal.SIGUSR1) in ignored
            assert int(signal.SIGCHLD) not in ignored
        program.stop(pid)


INHERITS = """
import fcntl, os
numbers = [int(word) for word in os.environ["NUMBERS"].split()]
os.write(numbers[1], b"started\\n")
os.close(numbers[1])
assert os.readlink(f"/proc/self/fd/{numbers[0]}").endswith("/lock")
spare = os.open("/dev/zero", os.O_RDONLY)
os.set_inheritable(spare, True)  # the program's own, and none of the start

class Server(ThreadingHTTPServer):
    keep_pid = KEPT

with Server(("127.0.0.1", 0), Handler) as server:
    links = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
    lead = [os.readlink(link) for link in links if os.path.lexists(link)]
    os.write(1, f"zeros {lead.count('/dev/zero')}\\n".encode())
    server.serve_forever()
"""


@pytest.mark.slow
@KEPT
def test_what_a_run_script_has_opened_goes_on(kept, tmp_path):
    """A lock stays held; a notification that was sent, and closed, does no harm the next time."""
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    reader, writer = os.pipe()
    env = environment(NUMBERS=f"{lock} {writer}")
    code = INHERITS.replace("KEPT", str(kept))
    with custom(tmp_path, code, env=env, pass_fds=(lock, writer)) as program:
        pid = program.wait_serving()
        os.close(lock)
        os.close(writer)
        assert os.read(reader, 100) == b"started\n"
        assert os.read(reader, 100) == b""  # nobody else has it
        for generation in (1, 2, 3):
            pid = reload(program, generation, pid, kept)
            with open(tmp_path / "lock") as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert get(program.port).startswith(f"{generation} ")
        program.stop(pid)
        assert set(re.findall("zeros .*", program.text)) == {"zeros 1"}
        with open(tmp_path / "lock") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(reader)


CHILDREN = """
import atexit, os, signal, subprocess, sys
helper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

def children(pid):
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            for child in map(int, file.read().split()):
                yield child
                yield from children(child)

@atexit.register
def no_child_is_left():
    for pid in list(children(os.getpid())):
        os.kill(pid, signal.SIGKILL)

class Server(ThreadingHTTPServer):
    keep_pid = KEPT

with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""


@pytest.mark.slow
@KEPT
def test_a_program_that_ends_its_children_does_not_end_the_service(kept, tmp_path):
    with custom(tmp_path, CHILDREN.replace("KEPT", str(kept))) as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            os.kill(pid, signal.SIGHUP)
            program.wait(rf"\] generation {generation}: generation .* has ended")
            pid = program.wait_serving(generation)
            assert get(program.port).startswith(f"{generation} ")
        program.stop(pid)
        assert "instead of" not in program.text


REAPS = """
import os, signal
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
HOW
(folder / "second").exists() and os._exit(7)
with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""


@pytest.mark.parametrize("how", ["reap", "signal.SIG_IGN"])
def test_how_new_code_ended_is_told_whoever_reaps_children(how, tmp_path):
    code = REAPS.replace("HOW", f"signal.signal(signal.SIGCHLD, {how})")
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        (tmp_path / "second").touch()
        os.kill(pid, signal.SIGHUP)
        program.wait(r"reload failed: generation 1 \(pid \d+\) exited with status 7 before")
        (tmp_path / "second").unlink()
        pid = reload(program, 1, pid, False)
        program.stop(pid)


@pytest.mark.parametrize("at", ["while it starts", "in the drain"])
def test_no_watcher_outlives_an_incumbent_that_is_killed(at, tmp_path):
    code = """
if (folder / "second").exists():
    (folder / "starts").touch()
    while not (folder / "serve").exists():
        time.sleep(0.01)
with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""
    with custom(tmp_path, code) as program:
        old = program.wait_serving()
        (tmp_path / "second").touch()
        thread = slow_request(tmp_path, program.port, [])
        os.kill(old, signal.SIGHUP)
        while not (tmp_path / "starts").exists():
            time.sleep(0.01)
        if at == "while it starts":
            os.kill(old, signal.SIGKILL)
            no_watcher_is_left(program)
            (tmp_path / "serve").touch()
        else:
            (tmp_path / "serve").touch()
            program.wait("is ready after")
            os.kill(old, signal.SIGKILL)
            no_watcher_is_left(program)
        new = program.wait_serving(1)
        program.process.wait(TIMEOUT)
        program.wait_alone(new)
        (tmp_path / "go").touch()
        thread.join(TIMEOUT)
        program.stop(new)


class TestTheEnvironment:
    def look(self, **variables):
        code = "from endless_py._handoff import started; print(started.Started().environment)"
        env = environment(**variables)
        done = subprocess.run(
            [sys.executable, "-c", "import os; os.environ['A'] = 'set'; " + code],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def test_it_is_that_of_the_start_however_late_the_package_is_imported(self):
        assert "'A': 'first\\nline'" in self.look(A="first\nline")
        assert "'A'" not in self.look()

    @pytest.mark.parametrize("data", [b"", b"python: a title\0\0\0", b"a title", b"A=1\0le=2"])
    def test_one_that_a_title_was_written_over_does_not_count(self, data, monkeypatch, tmp_path):
        (tmp_path / "environ").write_bytes(data)
        look = open
        monkeypatch.setattr(
            "builtins.open",
            lambda name, *rest: look(str(name).replace("/proc/self", str(tmp_path)), *rest),
        )
        environment = Started().environment
        monkeypatch.undo()
        assert (environment == dict(os.environ)) is (data != b"A=1\0le=2")


@pytest.mark.slow
def test_nothing_of_a_handoff_is_taken_for_what_a_run_script_has_opened(tmp_path):
    """A bridge that had the kept pid's socket for commands would hold it open beyond its end."""
    with custom(tmp_path, INHERITABLE) as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            pid = reload(program, generation, pid, True)
        program.stop(pid)
        assert set(re.findall("inheritable: .*", program.text)) == {"inheritable: []"}


INHERITABLE = """
import atexit

class Server(ThreadingHTTPServer):
    keep_pid = True

@atexit.register
def say():
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    there = [n for n in numbers if os.path.exists(f"/proc/self/fd/{n}")]
    ours = [n for n in there if n > 2 and os.get_inheritable(n)]
    os.write(1, f"inheritable: {ours}\\n".encode())  # in one piece: others write there too

with Server(("127.0.0.1", 0), Handler) as server:
    say()
    server.serve_forever()
"""
