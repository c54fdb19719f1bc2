"""A service directory of s6 with the `run` beside this test, watched by s6-supervise."""

from __future__ import annotations

import pytest
from harness import tool
from managed import Scenarios, Service

pytestmark = pytest.mark.slow


class S6Supervise(Service):
    def install(self) -> None:
        self.app.install("s6/run", self.folder)

    def command(self) -> list[str]:
        return [tool("s6-supervise", "s6"), str(self.folder)]

    def status(self) -> tuple[int, int] | None:
        fields = self.run(tool("s6-svstat", "s6"), "-o", "up,pid,updownfor", self.folder)
        up, pid, seconds = fields.split()
        return (int(pid), int(seconds)) if up == "true" else None

    def svc(self, *words: str) -> None:
        assert self.run(tool("s6-svc", "s6"), *words, self.folder) == ""

    def reload(self) -> None:
        self.svc("-h")

    def stop(self) -> None:
        self.svc("-wD", "-d")


class TestS6(Scenarios):
    manager = S6Supervise
