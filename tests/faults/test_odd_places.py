"""Odd places: interpreter flags, no /proc, a read-only file system, few descriptors, forks."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PROGRAMS, ROOT, Load, Program, environment, reloads_under_load, slow, tool
from processes import wait_until
from trial import read_pid_file

CODE = """
class Server({kind}):
    drain_timeout, request_queue_size = 10, 128
class Wide(Handler):
    def do_GET(self):
        time.sleep(min(float(self.path.partition("?")[2] or 0), 0.1))
        super().do_GET()
{before}
with Server(("127.0.0.1", 0), Wide) as server:
    {after}
    server.serve_forever()
"""


@pytest.fixture
def folder(tmp_path):
    shutil.copy(PROGRAMS / "custom.py", tmp_path)

    def write(kind="ThreadingHTTPServer", before="", after="pass"):
        (tmp_path / "code").write_text(CODE.format(kind=kind, before=before, after=after))
        return tmp_path

    return write


@pytest.mark.parametrize("kind", ["ThreadingHTTPServer", slow("ForkingHTTPServer")])
@pytest.mark.parametrize(
    "flags",
    [slow(["-O"]), slow(["-OO", "-B"]), ["-X", "dev", "-W", "error"], ["-I"], slow(["-s", "-E"])],
    ids=" ".join,
)
def test_interpreter_flags(flags, kind, folder):
    path = folder(kind)
    if {"-I", "-E"} & set(flags):  # PYTHONPATH does not count with these
        text = (path / "custom.py").read_text()
        (path / "custom.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{text}")
    command = [sys.executable, *flags, str(path / "custom.py"), str(path)]
    with Program(command=command) as program:
        text = reloads_under_load(program)
    assert not re.search("Warning|Traceback|Exception ignored", text), text


@pytest.mark.parametrize("seed", [slow("0"), slow("4711"), "random"])
def test_a_hash_seed(seed, folder):
    with Program("custom.py", folder(), env=environment(PYTHONHASHSEED=seed)) as program:
        reloads_under_load(program, 1)


def test_a_minimal_environment(folder):
    """As cron and containers start things: no PATH, no HOME, no locale."""
    words = [sys.executable, str(PROGRAMS / "custom.py"), str(folder())]
    clean = [tool("env", "coreutils"), "-i", f"PYTHONPATH={ROOT}", *words]
    with Program(command=clean, cwd="/") as program:
        reloads_under_load(program, 1)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def unshared(script, *words):
    """The command behind a script that changes mounts of its own."""
    shell = f"{script} && exec {shlex.join(map(str, words))}"
    command = [tool("unshare", "util-linux"), "-m", "sh", "-ec", shell]
    probe = [command[0], "-m", "sh", "-c", script]
    done = subprocess.run(probe, stderr=subprocess.PIPE, text=True, timeout=10, check=False)
    if done.returncode:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    return command


@needs_root
def test_a_read_only_folder(folder):
    path = folder()
    script = f"mount --bind {path} {path} && mount -o remount,ro,bind {path}"
    words = [sys.executable, path / "custom.py", path]
    with Program(command=unshared(script, *words), cwd=path) as program:
        text = reloads_under_load(program)
    assert "Traceback" not in text


@needs_root
def test_a_pid_file_on_a_read_only_file_system_is_one_clear_line(folder):
    path = folder(before="Server.pid_file = folder / 'pid'")
    script = f"mount --bind {path} {path} && mount -o remount,ro,bind {path}"
    words = [sys.executable, path / "custom.py", path]
    with Program(command=unshared(script, *words)) as program:
        program.wait(r"PidFileError: .*(Read-only|cannot be written).*pid")
        assert program.process.wait(30) == 1


FULL = """
import logging
logging.raiseExceptions = False
handlers = [logging.StreamHandler(), logging.FileHandler(folder / "disk" / "log")]
logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers)
Server.pid_file = folder / "disk" / "pid"
"""


def fill(path):
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    assert os.statvfs(path).f_bavail == 0


@pytest.mark.slow
@needs_root
def test_a_full_disk(folder):
    """The pid file comes when there is room again; until then serving and reloads go on."""
    path = folder(before=FULL)
    (path / "disk").mkdir()
    script = f"mount -t tmpfs -o size=64k none {path}/disk"
    words = [sys.executable, path / "custom.py", path]
    with Program(command=unshared(script, *words)) as program:
        pid = program.wait_serving()
        disk = Path(f"/proc/{pid}/root{path}/disk")
        wait_until((disk / "pid").exists, "a pid file")
        with Load(program.port) as load:
            load.wait_answer("0 ")
            fill(disk / "filler")
            pid = program.reload(1, pid)
            program.wait(r"the pid file cannot be written \(No space left on device\).*goes on")
            program.wait_alone(pid)
            disk = Path(f"/proc/{pid}/root{path}/disk")
            # The old one took its own away; the new one may have used the room of that at once.
            assert not (disk / "pid").exists() or read_pid_file(disk) == f"{pid}\n"
            os.unlink(disk / "filler")
            wait_until(lambda: read_pid_file(disk) == f"{pid}\n", "the pid file")
            pid = program.reload(2, pid)
            load.wait_answer("2 ")
        assert load.lost == []
        program.wait_alone(pid)
        left = {entry.name for entry in Path(f"/proc/{pid}/root{path}/disk").iterdir()}
        assert left == {"log", "pid"}
        program.stop(pid)


@needs_root
@pytest.mark.parametrize("kind", ["ThreadingHTTPServer", slow("ForkingHTTPServer")])
def test_no_proc(kind, folder):
    path = folder(kind)
    words = [sys.executable, path / "custom.py", path]
    with Program(command=unshared("mount -t tmpfs none /proc", *words)) as program:
        reloads_under_load(program)


def limited(count, path):
    words = [sys.executable, PROGRAMS / "custom.py", path]
    return ["sh", "-c", f"ulimit -n {count}; exec {shlex.join(map(str, words))}"]


@pytest.mark.parametrize("kind", ["ThreadingHTTPServer", slow("ForkingHTTPServer")])
def test_few_descriptors(kind, folder):
    """Thirty-two are enough for a reload under this load, handed-on connections included."""
    with Program(command=limited(32, folder(kind))) as program:
        reloads_under_load(program)


@pytest.mark.parametrize("count", [slow(6), slow(8), 10, slow(12), slow(14)])
def test_too_few_descriptors_are_said_in_one_line(count, folder):
    """Whatever cannot be done is named; what serves goes on serving."""
    with Program(command=limited(count, folder())) as program:
        found = program.wait(
            r"^(?!.*cannot be asked).*(OSError: \[Errno 24\]|Too many open files|Traceback|"
            r"generation 0: serves)"
        )
        if "serves" not in found.string:
            assert program.process.wait(30) == 1  # as the standard library's server would
            program.wait(r"^(OSError|ImportError|SystemError|\w*Error): .*")
            return
        pid = program.wait_serving()
        os.kill(pid, 1)
        outcome = program.wait(r"generation 1: serves|reload failed: generation 1")
        if "serves" in outcome.string:
            pid = program.wait_serving(1)
        program.wait_alone(pid)
        program.stop(pid)


FORKS = """
stop = threading.Event()
busy = [threading.Thread(target=stop.wait, daemon=True) for _ in range(4)]
for thread in busy:
    thread.start()
def fork():
    while not stop.is_set():
        child = os.fork()
        if child == 0:
            time.sleep(0.02)
            os._exit(0)
        os.waitpid(child, 0)
forker = threading.Thread(target=fork, daemon=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ThreadingHTTPServer", slow("ForkingHTTPServer")])
def test_a_program_that_forks_beside_other_threads(kind, folder):
    """Its children are no generations: they hold nothing, and take no signal for the server."""
    path = folder(kind, FORKS, "endless_py.on_draining(stop.set); forker.start()")
    command = [sys.executable, "-W", "ignore", str(PROGRAMS / "custom.py"), str(path)]
    with Program(command=command) as program:
        text = reloads_under_load(program)
    assert "Traceback" not in text
