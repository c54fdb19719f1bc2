"""What every process manager has to show with the files in tests/managers.

An adapter (`Service`) says how one manager is started, asked and told; `Scenarios` are the
tests that all of them run.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

import pytest
from harness import PROGRAMS, ROOT, TIMEOUT, Load, free_port, get, until

MANAGERS = ROOT / "tests" / "managers"
RELOADS = 5


class App:
    """What is below /srv/app on an operator's machine, in a folder of the test."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.port = free_port()
        self.log_file = folder / "app.log"
        self.log_file.touch()
        self.server = folder / "server.py"
        venv.create(folder / "venv", symlinks=True)
        (site_packages,) = (folder / "venv").glob("lib/python*/site-packages")
        (site_packages / "endless.pth").write_text(f"{ROOT}\n")
        self._gate = folder / "gate"
        self._gate.touch()
        self.deploy()

    def code(self, start: str = "") -> str:
        """Return the server's code with these lines at its start."""
        return (
            f"{start}\nimport os, sys\n"
            f"sys.argv[1:] = ['127.0.0.1:{self.port}']\n"
            f"os.environ['LENT_CODE'] = {str(self._gate)!r}\n"
            # What a manager starts, unlike what a reload starts, is not handed a channel.
            "if not {'ENDLESS_PY_CHANNEL', 'ENDLESS_PY_DRY_START'} & os.environ.keys():\n"
            f"    open({str(self.folder / 'starts')!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
            f"{(PROGRAMS / 'lent_server.py').read_text()}"
        )

    def deploy(self, start: str = "") -> None:
        self.server.write_text(self.code(start))

    def install(self, name: str, directory: Path) -> Path:
        """Copy one of the operator's files, with this folder for /srv/app."""
        source = MANAGERS / name
        copy = directory / source.name
        text = source.read_text()
        assert "/srv/app" in text
        copy.write_text(text.replace("/srv/app", str(self.folder)))
        copy.chmod(source.stat().st_mode)
        return copy

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def starts(self) -> int:
        """How often the manager has started the program."""
        return len((self.folder / "starts").read_text().split())

    def processes(self) -> list[int]:
        """Return the program's processes."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{entry}/cmdline").read_text().split("\0")
                    script = os.path.join(os.readlink(f"/proc/{entry}/cwd"), *words[1:2])
                    if script.startswith(f"{self.folder}/") and script.endswith("/server.py"):
                        found.append(int(entry))
        return sorted(found)

    def answer(self) -> str:
        """Return an answer, or "" while nobody gives one."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return get(self.port)
        return ""

    @contextlib.contextmanager
    def active_request(self):
        """A request whose handler is in the middle of its answer until the block ends."""
        answers: list[str] = []

        def ask():
            with contextlib.suppress(OSError, http.client.HTTPException):
                answers.append(get(self.port, "/slow"))

        thread = threading.Thread(target=ask)
        thread.start()
        until(self._gate.with_suffix(".slow").exists)
        try:
            yield answers
        finally:
            self._gate.with_suffix(".go").touch()
            thread.join(TIMEOUT)

    def kill(self) -> None:
        """End what is left, after its manager."""
        for pid in self.processes():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def inside(pid: int) -> int:
    """Return the pid as the process itself sees it."""
    (line,) = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("NSpid:")
    ]
    return int(line.split()[-1])


class Service:
    """A manager that watches the program."""

    def __init__(self, folder: Path):
        self.folder = folder / "service"
        self.folder.mkdir()
        app = folder / "app"
        app.mkdir()
        self.app = App(app)
        self.install()
        self.start()

    def start(self) -> None:
        """Start the manager."""
        with self.app.log_file.open("a") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *words: object) -> str:
        """Run one of the manager's commands."""
        done = subprocess.run(
            [*map(str, words)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        return done.stdout.strip()

    def wait_up(self) -> int:
        """Wait until the program answers and the manager calls it up; return its pid."""
        until(self.app.answer)
        return until(self.status)[0]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIMEOUT)
        self.app.kill()

    # What each manager has its own way for.

    def install(self) -> None:
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def status(self) -> tuple[int, int] | None:
        """Return the pid that the manager watches and for how many seconds; None: not up."""
        raise NotImplementedError

    def reload(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the program through the manager, and return when the manager says it is."""
        raise NotImplementedError

    def repair(self) -> None:
        """Do what is the part of somebody else after a crash."""


SUPERVISORD = """\
[supervisord]
logfile=supervisord.log
pidfile=supervisord.pid
childlogdir=.
[unix_http_server]
file=s.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://s.sock
[include]
files=app.conf
"""


class Supervisord(Service):
    section = "supervisord/app.conf"

    def install(self) -> None:
        self.app.install(self.section, self.folder)
        (self.folder / "supervisord.conf").write_text(SUPERVISORD)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", "supervisord.conf"]

    def ctl(self, *words: str) -> str:
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", "supervisord.conf"]
        return self.run(*command, *words)

    def status(self) -> tuple[int, int] | None:
        line = self.ctl("status", "app")
        found = re.match(r"app +RUNNING +pid (\d+), uptime (\d+):(\d+):(\d+)$", line)
        if found is None:
            return None
        pid, hours, minutes, seconds = map(int, found.groups())
        return pid, 3600 * hours + 60 * minutes + seconds

    def reload(self) -> None:
        assert self.ctl("signal", "HUP", "app") == "app: signalled"

    def stop(self) -> None:
        assert self.ctl("stop", "app") == "app: stopped"


class Scenarios:
    """The tests; a subclass names its manager."""

    manager: type[Service]

    @pytest.fixture
    def service(self, tmp_path):
        service = self.manager(tmp_path)
        try:
            yield service
        finally:
            service.close()
            print(service.app.log)

    def test_five_reloads_under_load_and_one_that_fails(self, service):
        app = service.app
        pid = service.wait_up()
        its = inside(pid)
        began = time.monotonic()
        seconds = service.status()[1]
        with Load(app.port) as load:
            for generation in range(1, RELOADS + 1):
                service.reload()
                load.wait_answer(f"{generation} {its} ")
                found = service.status()
                assert found is not None, app.log
                assert found[0] == pid
                assert found[1] >= seconds  # it has never begun anew
                seconds = found[1]
        assert load.lost == []
        assert seconds >= int(time.monotonic() - began) - 2
        assert app.starts == 1
        until(lambda: app.processes() == [pid] and not children(pid))
        print(f"{service.process.args[0]}: {len(load.answers)} requests, none lost")

        app.deploy("def")
        service.reload()
        until(lambda: f"reload failed: generation {RELOADS + 1}" in app.log)
        until(lambda: app.processes() == [pid] and not children(pid))
        assert service.status()[0] == pid
        assert get(app.port) == f"{RELOADS} {its} end"
        assert app.starts == 1

    def test_a_stop_finishes_what_is_active_and_leaves_no_process(self, service):
        app = service.app
        pid = service.wait_up()
        its = inside(pid)
        stop = threading.Thread(target=service.stop)
        with app.active_request() as answers:
            stop.start()
            until(lambda: "; finishing " in app.log)
        stop.join(TIMEOUT)
        assert answers == [f"0 {its} end"]
        self.is_down(service)

    def test_a_stop_in_the_middle_of_a_reload_leaves_no_process(self, service):
        app = service.app
        pid = service.wait_up()
        its = inside(pid)
        stop = threading.Thread(target=service.stop)
        with app.active_request() as answers:
            service.reload()
            until(lambda: app.answer().startswith("1 "))  # that is the bridge
            assert service.status()[0] == pid
            stop.start()
            until(lambda: "; finishing " in app.log)
        stop.join(TIMEOUT)
        assert answers == [f"0 {its} end"]
        self.is_down(service)

    def test_a_stop_waits_for_a_bridge_that_still_drains(self, service):
        app = service.app
        pid = service.wait_up()
        its = inside(pid)
        gate = app.folder / "start gate"
        os.mkfifo(gate)
        app.deploy(f"import os\nif os.getpid() == {its}: open({str(gate)!r}).read()")
        service.reload()
        until(lambda: "(bridge): hands back" in app.log)
        stop = threading.Thread(target=service.stop)
        with app.active_request() as answers:
            gate.write_text("")  # returns when the new code has begun in place
            until(lambda: app.answer() == f"1 {its} end")
            assert service.status()[0] == pid
            stop.start()
            until(lambda: "; finishing " in app.log)
        stop.join(TIMEOUT)
        assert len(answers) == 1
        assert answers[0].startswith("1 ")
        assert answers[0] != f"1 {its} end"
        self.is_down(service)

    def test_what_is_broken_while_the_old_one_drains_is_not_started_in_place(self, service):
        app = service.app
        pid = service.wait_up()
        its = inside(pid)
        with app.active_request() as answers:
            service.reload()
            until(lambda: app.answer().startswith("1 "))  # that is the bridge
            app.deploy("def")
            service.reload()
            until(lambda: "reload failed: generation 2" in app.log)
        assert answers == [f"0 {its} end"]
        with Load(app.port) as load:
            until(lambda: "the start in place is put off" in app.log)
            load.wait_answer("1 ")
            assert service.status()[0] == pid
            app.deploy("")
            service.reload()
            load.wait_answer(f"1 {its} ")
        assert load.lost == []
        until(lambda: app.processes() == [pid])
        assert service.status()[0] == pid
        assert app.starts == 1

    def is_down(self, service):
        assert service.app.processes() == []
        assert service.status() is None
        assert service.app.starts == 1
        with pytest.raises(ConnectionRefusedError):
            get(service.app.port)

    @pytest.mark.parametrize("when", ["while it serves", "in the middle of a reload"])
    def test_a_crash_is_repaired(self, when, service):
        app = service.app
        pid = service.wait_up()
        with app.active_request():
            if "reload" in when:
                service.reload()
                until(lambda: app.answer().startswith("1 "))  # that is the bridge
            os.kill(pid, signal.SIGKILL)
            service.repair()
            # by whom the manager watches, not by the bridge, which hands over if it still lives
            found = until(lambda: [s for s in [service.status()] if s and s[0] != pid])
            new = found[0][0]
            its = inside(new)
            generation = int(until(lambda: re.fullmatch(rf"([01]) {its} end", app.answer()))[1])
        until(lambda: app.processes() == [new])
        assert app.starts == 2
        service.reload()  # as good as the first one was
        until(lambda: app.answer() == f"{generation + 1} {its} end")
        assert service.status()[0] == new
        service.stop()
        assert app.processes() == []
