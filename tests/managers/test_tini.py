"""The container's start script beside this test, in a pid namespace of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness import TIMEOUT, tool
from managed import Scenarios, Service, children

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a pid namespace"),
    pytest.mark.slow,
]


class Tini(Service):
    """tini, and this test in the part of the container's runtime."""

    def install(self) -> None:
        self.script = self.app.install("tini/start", self.folder)

    def command(self) -> list[str]:
        unshare = [tool("unshare", "util-linux"), "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*unshare, str(self.script)]

    def environment(self) -> dict[str, str]:
        folders = [str(self.app.folder / "venv" / "bin"), os.path.dirname(tool("tini"))]
        return {"PATH": ":".join([*folders, os.environ["PATH"]])}

    def tini(self) -> int | None:
        for pid in children(self.process.pid) if self.process.poll() is None else ():
            if Path(f"/proc/{pid}/comm").read_text() == "tini\n":
                return pid
        return None

    def status(self) -> tuple[int, int] | None:
        tini = self.tini()
        # A bridge is tini's child as well, as any orphan in a container.
        watched = children(tini)[:1] if tini else []
        seconds = self.run(tool("ps", "procps"), "-o", "etimes=", "-p", *watched) if watched else ""
        return (watched[0], int(seconds)) if seconds else None

    def reload(self) -> None:
        os.kill(self.tini(), signal.SIGHUP)

    def stop(self) -> None:
        os.kill(self.tini(), signal.SIGTERM)
        assert self.process.wait(TIMEOUT) == 0

    def repair(self) -> None:
        """Start the container again, as a runtime does whose container has ended."""
        assert self.process.wait(TIMEOUT) == 128 + signal.SIGKILL
        self.start()


class TestTini(Scenarios):
    manager = Tini
