"""The program section beside this test, under the supervisord of PyPI's supervisor."""

from __future__ import annotations

import re
import sys

from managed import Scenarios, Service

BASE = """\
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
        (self.folder / "supervisord.conf").write_text(BASE)

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


class TestSupervisord(Scenarios):
    manager = Supervisord
