"""A service directory of runit with the `run` beside this test, watched by runsv."""

from __future__ import annotations

import re

import pytest
from harness import tool
from managed import Scenarios, Service

pytestmark = pytest.mark.slow


class Runsv(Service):
    def install(self) -> None:
        self.app.install("runit/run", self.folder)

    def command(self) -> list[str]:
        return [tool("runsv", "runit"), str(self.folder)]

    def sv(self, *words: str) -> str:
        return self.run(tool("sv", "runit"), "-w", "30", *words, self.folder)

    def status(self) -> tuple[int, int] | None:
        found = re.match(r"run: .*: \(pid (\d+)\) (\d+)s", self.sv("status"))
        return (int(found[1]), int(found[2])) if found else None

    def reload(self) -> None:
        self.sv("hup")

    def stop(self) -> None:
        assert self.sv("stop").startswith("ok: down: ")


class TestRunit(Scenarios):
    manager = Runsv
