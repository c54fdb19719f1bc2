"""Real servers, started as a user would start them, and clients that count what they lose."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests" / "programs"
SUPPORT = ROOT / "tests" / "support"
TIMEOUT = 30.0
_PORTS_EACH = 2000  # numbers that each of pytest's processes chooses from
PAUSE = 0.005  # seconds between two requests of a client: several servers share the machine


def session_pids(session: int, watchers: bool = False) -> list[int]:
    """Return the processes of a session; its zombies too, but not those left to init's leisure.

    The watchers of new generations are left out: they leave with whom they watch, or watch for.
    """
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            # Most are not, and reading the file of each would be much of what the suite does.
            if os.getsid(pid) == session and (watchers or not is_watcher(pid)):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                found[pid] = (fields[0], int(fields[1]))
    parents = {*found, os.getpid()}
    return sorted(pid for pid, (state, ppid) in found.items() if state != "Z" or ppid in parents)


def is_watcher(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"\0-S\0-c\0\nimport _signal, _thread" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def held(pid: int) -> tuple[int, int, int]:
    """Open descriptors, variables in the environment, threads; once no handler runs."""
    process = Path(f"/proc/{pid}")
    deadline = time.monotonic() + TIMEOUT
    while len(os.listdir(process / "task")) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    variables = (process / "environ").read_bytes().count(b"\0")
    return len(os.listdir(process / "fd")), variables, len(os.listdir(process / "task"))


def tool(name: str, package: str = "") -> str:
    """Return the path of a command; without it the test is skipped, or fails in .ci/run."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        hint = f"{name} is not there: apt-get install {package or name}"
        (pytest.fail if os.environ.get("CI_RUN") else pytest.skip)(hint)
    return path


F_SETPIPE_SZ = 1031  # Linux; the module has it from 3.10 on


def slow(*values: object):
    """Return a case of a parametrized test that is left to .ci/run."""
    return pytest.param(*values, marks=pytest.mark.slow)


def often(most: int) -> int:
    """How many times: so many in `.ci/run everything`, a quarter of that elsewhere."""
    return most if "CI_EVERYTHING" in os.environ else most // 4


def first(values, count: int = 1) -> list:
    """Return the cases, all but the first of them left to .ci/run."""
    return [*list(values)[:count], *(slow(value) for value in list(values)[count:])]


def cpu(pid: int) -> float:
    """Seconds of processor time used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the package in reach.

    A program flushes what is waited for: unbuffered, print() writes a line and its end apart, and
    another process's line may come between.
    """
    found = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    if "PYTHONUNBUFFERED" not in more:
        found.pop("PYTHONUNBUFFERED", None)
    return found


class Program:
    """A server program, its successors, and every line they write."""

    def __init__(
        self, *arguments: object, command: list[str] | None = None, cwd=None, env=None, pass_fds=()
    ):
        words = command or [sys.executable, str(PROGRAMS / str(arguments[0]))]
        rest = arguments if command else arguments[1:]
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [*words, *map(str, rest)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env or environment(),
            pass_fds=pass_fds,
            start_new_session=True,
        )
        with contextlib.suppress(OSError, AttributeError):
            # A busy machine reads late, and a log line that finds no room is dropped.
            fcntl.fcntl(self.process.stdout, F_SETPIPE_SZ, 1 << 20)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.process.stdout as stream:
            for line in stream:
                with self._news:
                    self.lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait(self, pattern: str, after: int = 0, timeout: float = TIMEOUT) -> re.Match[str]:
        """Wait for a line that matches, from line number `after` on."""
        deadline = time.monotonic() + timeout
        position = after
        with self._news:
            while True:
                while position < len(self.lines):
                    found = re.search(pattern, self.lines[position])
                    if found:
                        return found
                    position += 1
                if not self._news.wait(max(0, deadline - time.monotonic())):
                    raise AssertionError(f"no line matches {pattern!r} in:\n{self.text}")

    def wait_serving(self, generation: int = 0, count: int = 1) -> int:
        """Wait until this generation serves `count` listeners; return its pid."""
        after = 0
        pid = 0
        for _ in range(count):
            found = self.wait(rf"\[(\d+)\] generation {generation}: serves ", after)
            pid = int(found[1])
            after = self.lines.index(found.string, after) + 1
        return pid

    @property
    def port(self) -> int:
        return int(self.wait(r"generation 0: serves (?:tcp|udp) .*:(\d+); ")[1])

    def reload(self, generation: int, pid: int, count: int = 1) -> int:
        """HUP the incumbent and wait until `generation` serves; return its pid."""
        os.kill(pid, signal.SIGHUP)
        return self.wait_serving(generation, count)

    def pids(self, watchers: bool = False) -> list[int]:
        """Its processes; one that forks and ends while /proc is read hides its child once."""
        found = session_pids(self.pid, watchers)
        while found != (found := session_pids(self.pid, watchers)):
            pass
        return found

    def wait_alone(self, pid: int | None, timeout: float = TIMEOUT) -> None:
        """Wait until `pid` is the only process left (None: no process is)."""
        deadline = time.monotonic() + timeout
        while True:
            self.process.poll()
            left = self.pids()
            if left == ([pid] if pid else []):
                if pid is None:
                    self._reader.join(1)  # their last lines; a daemon of theirs may still write
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"processes left: {left}, expected {pid}:\n{self.text}")
            time.sleep(0.01)

    def stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGTERM)
        self.wait_alone(None)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind, *rest) -> None:
        # One that is just being started shows up a little later, as its watcher's child.
        deadline = time.monotonic() + 5
        left = self.pids(watchers=True)
        while left and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            left = self.pids(watchers=True)
        self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        if kind is not None:
            print(self.text)


class UnixHTTPConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float = TIMEOUT):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connect(address: object) -> http.client.HTTPConnection:
    """A connection to a port of 127.0.0.1 or to a Unix path."""
    if isinstance(address, int):
        return http.client.HTTPConnection("127.0.0.1", address, timeout=TIMEOUT)
    return UnixHTTPConnection(str(address))


# hypothesis seeds the other kind of random numbers
_ports = itertools.count(random.SystemRandom().randrange(_PORTS_EACH))


def free_port() -> int:
    """Return a port that nobody is given by chance until it is bound: below those for clients.

    No two processes of a run choose the same one: each of pytest's has numbers of its own.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").strip("gw"))
    first = 10000 + _PORTS_EACH * (number % 11)
    while True:
        port = first + next(_ports) % _PORTS_EACH
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def until(condition):
    """Wait for a state that nothing announces; return what the condition did."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_written(path: Path) -> None:
    """Wait for a pid file; root has an empty one before."""
    until(lambda: path.exists() and path.read_text())


def descriptors(pid: int) -> int:
    """Return how many it keeps; one that it has for a moment, to write a line, does not count."""
    end, found = time.monotonic() + 0.5, []
    while time.monotonic() < end:
        found.append(len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.002)
    return min(found)


def settled_descriptors(pid: int) -> int:
    """Return the same of a process that has just begun to serve, once it takes no step any more.

    As long as it takes one it has none in reserve.
    """

    def count():
        before = _asleep(pid)
        found = descriptors(pid)
        return found if before and _asleep(pid) == before else None

    return until(count)


def _asleep(pid: int) -> list[str]:
    """Return what changes if a thread of it runs; nothing while one does."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in sorted(os.listdir(f"/proc/{pid}/task")):
            status = Path(f"/proc/{pid}/task/{task}/status").read_text()
            if "\nState:\tS" not in status:
                return []
            found.append(task + status[status.index("\nvoluntary_ctxt_switches") :])
        return found
    return []


def rests(pid: int) -> bool:
    """Whether a process did nothing at all for a moment.

    A loop that spins is never seen to: while it waits for a processor it does not sleep.
    """
    before = _asleep(pid)
    time.sleep(0.05)
    return bool(before) and _asleep(pid) == before


def queued(port: int) -> int:
    """Return how many connections wait in the accept queue, as the kernel counts them."""
    with open("/proc/net/tcp") as file:
        for line in file:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
                return int(fields[4].rpartition(":")[2], 16)
    return 0


def get(address: object, path: str = "/") -> str:
    connection = connect(address)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


class Load:
    """Clients of several kinds that ask again and again; `lost` says what went wrong."""

    def __init__(self, address: object, keep_alive: bool = True):
        self.address = address
        self.lost: list[str] = []
        self.answers: list[str] = []
        self._stopping = threading.Event()
        kinds = [self._new, self._new, self._waiting, self._slow]
        if keep_alive:
            kinds += [self._kept, self._kept]
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in kinds]

    def connect(self) -> http.client.HTTPConnection:
        return connect(self.address)

    def _run(self, kind) -> None:
        while not self._stopping.is_set():
            try:
                kind()
            except Exception as error:
                self.lost.append(f"{kind.__name__}: {error!r}")
            self._stopping.wait(PAUSE)

    def _check(self, connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
        if response.status != 200 or not body.endswith("end"):
            raise AssertionError(f"{response.status} {body!r}")
        self.answers.append(body)
        return response

    def _new(self) -> None:
        connection = self.connect()
        try:
            self._check(connection, "/")
        finally:
            connection.close()

    def _waiting(self) -> None:
        connection = self.connect()
        try:
            connection.connect()
            self._stopping.wait(0.1)
            self._check(connection, "/")
        finally:
            connection.close()

    def _slow(self) -> None:
        connection = self.connect()
        try:
            self._check(connection, "/slow?0.6")
        finally:
            connection.close()

    def _kept(self) -> None:
        connection = self.connect()
        try:
            while not self._stopping.is_set():
                response = self._check(connection, "/")
                if response.getheader("Connection") == "close":
                    return
                self._stopping.wait(PAUSE)
        finally:
            connection.close()

    def wait_answer(self, start: str) -> None:
        """Wait until an answer that begins so has come."""
        deadline = time.monotonic() + TIMEOUT
        position = 0
        while time.monotonic() < deadline:
            count = len(self.answers)
            if any(answer.startswith(start) for answer in self.answers[position:count]):
                return
            position = count
            time.sleep(0.002)
        raise AssertionError(f"no answer begins with {start!r}; lost: {self.lost}")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(TIMEOUT)


def reloads_under_load(program: Program, count: int = 2, keep_alive: bool = True) -> str:
    """Reload it so often, then stop it; return all it wrote."""
    program.wait_serving()
    return reloads_under(Load(program.port, keep_alive), program, count)


def reloads_under(load: Load, program: Program, count: int = 2) -> str:
    """The same with this load."""
    pid = program.wait_serving()
    with load:
        for generation in range(1, count + 1):
            load.wait_answer(f"{generation - 1} ")
            pid = program.reload(generation, pid)
        load.wait_answer(f"{count} ")
    assert load.lost == [], load.lost
    program.wait_alone(pid)
    program.stop(pid)
    return program.text
