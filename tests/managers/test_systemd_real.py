"""The unit files beside this test, run by a real systemd in a container of the host's own files.

The container has its own network, so the units' fixed ports are nobody else's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from harness import PROGRAMS, ROOT, TIMEOUT, Load, get, tool, until
from managed import RELOADS

UNITS = Path(__file__).resolve().parent / "systemd"
PORTS = {"app-notify": 8001, "app-socket": 8002, "app-forking": 8003}
KEPT = {"app-simple": "simple", "app-exec": "exec"}
CLONE_NEWNET = 0x40000000
# Two containers at a time would have the same units in the same cgroup, and remove each other's.
CGROUPS = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")
IN_A_CGROUP = f"""
for root in {CGROUPS[0]} {CGROUPS[1]}; do
    if [ -e $root/cgroup.procs ]; then
        mkdir $root/$0 && echo $$ >$root/$0/cgroup.procs
    fi
done
exec "$@"
"""
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can boot a container"),
    pytest.mark.slow,
]


class Machine:
    """A booted systemd."""

    def __init__(self, folder: Path):
        self.app = folder / "app"
        (self.app / "venv" / "bin").mkdir(parents=True)
        (self.app / "venv" / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
        shutil.copytree(
            ROOT / "endless_py", self.app / "endless_py", ignore=lambda *_: ["__pycache__"]
        )
        self.deploy("")
        units = folder / "units"
        shutil.copytree(UNITS, units)
        simple = (UNITS / "app-simple.service").read_text()
        (units / "app-exec.service").write_text(simple.replace("Type=simple", "Type=exec"))
        command = [tool("systemd-nspawn", "systemd-container"), "--quiet", "--register=no"]
        command += ["--keep-unit", "--private-network", "-D", "/", "--volatile=yes"]
        self.name = f"endless{os.getpid()}"
        command += [f"--machine={self.name}", f"--bind={self.app}:/srv/app"]
        command += [f"--bind-ro={units}:/run/systemd/system", f"--bind-ro={sys.base_prefix}"]
        command += ["-b", "systemd.unit=basic.target", "systemd.firstboot=off"]
        command += ["systemd.mask=systemd-firstboot.service"]
        command = ["sh", "-c", IN_A_CGROUP, self.name, *command]
        self.console = folder / "console"
        with self.console.open("w") as console:
            self.process = subprocess.Popen(
                command,
                # As any distribution has it by now, whatever this host has.
                env={**os.environ, "UNIFIED_CGROUP_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        try:
            until(self._booted)
        except BaseException:
            self.close()
            raise

    def _booted(self) -> bool:
        assert self.process.poll() is None, self.console.read_text()
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        children = Path(path).read_text().split()
        if len(children) != 1:
            return False
        self.leader = int(children[0])
        return self.run("systemctl", "is-active", "basic.target", check=False) == "active"

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            ["nsenter", "-t", str(self.leader), "-a", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
            cwd="/",
        )
        if check and done.returncode:
            raise AssertionError(done.stdout + self.run("journalctl", "-n", "50", check=False))
        return done.stdout.strip()

    def deploy(self, start: str) -> None:
        """Install the program with this code at its start."""
        code = (PROGRAMS / "lent_server.py").read_text()
        (self.app / "server.py").write_text(f"{start}\n{code}")

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "-o", "cat", "-u", unit)

    def show(self, unit: str) -> tuple[int, int, str]:
        """Return the main pid, how often systemd has restarted the unit, and its state."""
        lines = self.run("systemctl", "show", "-p", "MainPID,NRestarts,ActiveState", unit)
        values = dict(line.split("=", 1) for line in lines.splitlines())
        return int(values["MainPID"]), int(values["NRestarts"]), values["ActiveState"]

    @contextlib.contextmanager
    def network(self):
        """Put this thread, and those it starts, into the container's network."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/self/ns/net") as mine, open(f"/proc/{self.leader}/ns/net") as its:
            assert libc.setns(its.fileno(), CLONE_NEWNET) == 0
            try:
                yield
            finally:
                assert libc.setns(mine.fileno(), CLONE_NEWNET) == 0

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for root in CGROUPS:
            for folder, _, _ in os.walk(root / self.name, topdown=False):
                with contextlib.suppress(OSError):  # it has not ended entirely
                    os.rmdir(folder)


@pytest.fixture(scope="module")
def booted(tmp_path_factory):
    machine = Machine(tmp_path_factory.mktemp("machine"))
    yield machine
    machine.close()


@pytest.fixture
def machine(booted):
    yield booted
    # What a test that failed has left would fail those after it.
    booted.deploy("")
    sockets = ["app-socket.socket"]
    booted.run("systemctl", "stop", *[f"{name}.service" for name in (*PORTS, *KEPT)], *sockets)


@pytest.mark.parametrize("unit", PORTS)
def test_a_unit_is_reloaded_stopped_and_repaired(unit, machine):
    port = PORTS[unit]
    machine.run("systemctl", "start", unit)
    with machine.network():
        pid = int(get(port).split()[1])
        assert machine.show(unit) == (pid, 0, "active")
        with Load(port) as load:
            for generation in range(1, 6):
                machine.run("systemctl", "reload", unit)
                load.wait_answer(f"{generation} ")
                # by generation and pid in every answer
                pids = {a.split()[1] for a in load.answers if a.startswith(f"{generation} ")}
                assert len(pids) == 1
                pid = int(pids.pop())
                expected = (pid, 0, "active")
                until(lambda expected=expected: machine.show(unit) == expected)
        assert load.lost == []
        print(f"{unit}: {len(load.answers)} requests over 5 reloads, none lost")

        machine.deploy("def")
        said = machine.run("systemctl", "reload", unit, check=False)
        assert f"Job for {unit}.service failed" in said  # a broken deploy is no green reload
        until(lambda: "reload failed: generation 6" in machine.journal(unit))
        until(lambda: machine.show(unit) == (pid, 0, "active"))
        assert get(port) == f"5 {pid} end"
        machine.deploy("")

        machine.run("kill", "-KILL", str(pid))
        new, *rest = until(lambda: [v for v in [machine.show(unit)] if v[1] and v[2] == "active"])[
            0
        ]
        assert (new != pid, rest) == (True, [1, "active"])
        assert get(port) == f"0 {new} end"
        machine.run("systemctl", "reload", unit)  # as good as the first one was
        until(lambda: machine.show(unit)[0] not in (0, new))

        machine.deploy("import time; time.sleep(60)")
        machine.run("systemctl", "reload", "--no-block", unit)
        until(lambda: machine.journal(unit).rstrip().endswith("serves until it is ready"))
        machine.deploy("")
        machine.run("systemctl", "stop", unit, *(["app-socket.socket"] if "socket" in unit else []))
        assert machine.show(unit)[::2] == (0, "inactive"), machine.journal(unit)
        assert "SIGKILL" not in machine.journal(unit)
        assert "/srv/app/server.py" not in machine.run("ps", "-eo", "args")
        with pytest.raises(ConnectionRefusedError):
            get(port)
    assert "not permitted" not in machine.journal(unit)
    assert "only permitted" not in machine.journal(unit)


def test_a_unit_never_becomes_what_does_not_start(machine):
    """systemd would end the bridge with the main process; so that is not given up."""
    unit, port = next(iter(KEPT)), 8004
    machine.run("systemctl", "start", unit)
    with machine.network():
        until(lambda: "generation 0: serves" in machine.journal(unit))
        pid = int(get(port).split()[1])
        restarts = machine.show(unit)[1]
        client = threading.Thread(target=lambda: get(port, "/slow?3"))
        client.start()
        until(lambda: machine.run("ss", "-Htn", "state", "established", f"sport = :{port}"))
        began = machine.journal(unit).count("\n")
        machine.run("systemctl", "reload", "--no-block", unit)
        until(lambda: get(port).startswith("1 "))
        machine.deploy("def")
        client.join(TIMEOUT)

        def news() -> str:
            return "\n".join(machine.journal(unit).splitlines()[began:])

        until(lambda: "the start in place is put off" in news())
        assert get(port).startswith("1 ")
        # The command of ExecReload= ends a moment after that line.
        until(lambda: machine.show(unit) == (pid, restarts, "active"))
        machine.deploy("")
        until(lambda: get(port) == f"1 {pid} end")  # tried again by itself
        assert machine.show(unit) == (pid, restarts, "active")
        machine.run("systemctl", "stop", unit)


@pytest.mark.parametrize("unit", KEPT)
def test_a_unit_that_cannot_be_told_a_pid_keeps_it(unit, machine):
    port = 8004
    machine.run("systemctl", "start", unit)
    assert machine.run("systemctl", "show", "-p", "Type", "--value", unit) == KEPT[unit]
    with machine.network():
        # Another test may have started it before.
        until(lambda: "generation 0: serves" in machine.journal(unit).rpartition("Started ")[2])
        pid = int(get(port).split()[1])
        expected = (pid, 0, "active")
        assert machine.show(unit) == expected
        with Load(port) as load:
            for generation in range(1, RELOADS + 1):
                machine.run("systemctl", "reload", unit)
                load.wait_answer(f"{generation} {pid} ")
                assert machine.show(unit) == expected
        assert load.lost == []
        print(f"{unit}: {len(load.answers)} requests over {RELOADS} reloads, none lost")

        machine.deploy("def")
        said = machine.run("systemctl", "reload", unit, check=False)
        assert f"Job for {unit}.service failed" in said
        until(lambda: f"reload failed: generation {RELOADS + 1}" in machine.journal(unit))
        assert machine.show(unit) == expected
        assert get(port) == f"{RELOADS} {pid} end"
        machine.deploy("")

        machine.run("kill", "-KILL", str(pid))
        new = until(lambda: [s for s in [machine.show(unit)] if s[0] not in (0, pid)])[0][0]
        until(lambda: f"kill -HUP {new} reloads" in machine.journal(unit))
        assert machine.show(unit) == (new, 1, "active"), machine.journal(unit)
        assert get(port) == f"0 {new} end"

        answers: list[str] = []
        client = threading.Thread(target=lambda: answers.append(get(port, "/slow?3")))
        client.start()
        until(lambda: machine.run("ss", "-Htn", "state", "established", f"sport = :{port}"))
        machine.run("systemctl", "reload", "--no-block", unit)
        until(lambda: get(port).startswith("1 "))  # that is the bridge
        machine.run("systemctl", "stop", unit)  # in the middle of the reload
        client.join(TIMEOUT)
        assert answers == [f"0 {new} end"]
        assert machine.show(unit)[::2] == (0, "inactive"), machine.journal(unit)
        assert "SIGKILL" not in machine.journal(unit)
        assert "/srv/app/server.py" not in machine.run("ps", "-eo", "args")
        with pytest.raises(ConnectionRefusedError):
            get(port)


def test_a_stop_waits_for_the_predecessor_longer_than_its_timeout(machine):
    unit, port = "app-notify", PORTS["app-notify"]
    answers: list[str] = []
    machine.run("systemctl", "start", unit)
    with machine.network():
        old = machine.show(unit)[0]
        client = threading.Thread(target=lambda: answers.append(get(port, "/slow?5")))
        client.start()
        until(lambda: machine.run("ss", "-Htn", "state", "established", f"sport = :{port}"))
        machine.run("systemctl", "reload", unit)
        until(lambda: machine.show(unit)[0] != old)
        machine.run("systemctl", "stop", unit)  # TimeoutStopSec is 3
        client.join(TIMEOUT)
    assert answers == [f"0 {old} end"]
    assert machine.show(unit)[::2] == (0, "inactive")
    assert machine.run("systemctl", "show", "-p", "Result", unit) == "Result=success"
