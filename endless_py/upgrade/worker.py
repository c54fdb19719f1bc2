"""Hash and unpack in a process of its own, which has bounds and may be killed.

What was fetched is a stranger's until its checks have passed. The process that serves hands it
to a second one, which has little memory and little time, ends when the first one does, and
makes no file that others may write. `unpacking` is what runs there.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

from endless_py.upgrade.errors import Refused, UpgradeError

MAX_SIZE = 4 << 30  # bytes unpacked
MAX_COUNT = 100_000  # members of an archive
MEMORY = 512 << 20  # bytes of address space
TIMEOUT = 600.0  # seconds for all that is asked of one worker
_MAX_ANSWER = 1 << 20  # bytes
# What a service manager or a predecessor meant for this process alone.
_NOT_FOR_CHILDREN = {
    "ENDLESS_PY_CHANNEL",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
}


def environment_for_children() -> dict[str, str]:
    """This process's environment without what was meant for it alone."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}


def read_line(descriptor: int, deadline: float) -> bytes:
    """One line from a pipe, or what came of it until its end or the deadline."""
    data = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not data.endswith(b"\n") and len(data) < _MAX_ANSWER:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            break
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            break
        data += piece
    return data


class Worker:
    """The second process, from the first question to the end of the with block."""

    def __init__(self, timeout: float = TIMEOUT, memory: int = MEMORY):
        self.timeout = timeout
        self.memory = memory
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._deadline = 0.0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        # Found where this process found it; PYTHONPATH and site may say something else by now.
        places = [*sys.path, str(Path(__file__).parent.parent.parent)]
        code = (
            f"import sys; sys.path[:] = {places!r}\n"
            "from endless_py.upgrade.unpacking import main\n"
            f"main({int(self.timeout) + 1}, {self.memory})"
        )
        self._deadline = time.monotonic() + self.timeout
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Without the GIL Python reserves more address space than the limit is, unless told.
                env={**environment_for_children(), "MIMALLOC_ARENA_RESERVE": "0"},
                start_new_session=True,  # a signal to the terminal's group is not for it
            )
        except OSError as error:
            raise UpgradeError(f"cannot start a process that unpacks: {error}") from error

    def ask(self, act: str, **arguments: Any) -> Any:
        """Have one function of `unpacking` done. Raises Refused for what it refuses."""
        if self._process is None:
            self._process = self._start()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"act": act, **arguments}).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            pass  # it has ended, and the answer is missing
        line = read_line(process.stdout.fileno(), self._deadline)
        if not line.endswith(b"\n"):
            if time.monotonic() >= self._deadline:
                raise Refused(f"it was not unpacked within {self.timeout:g} s")
            raise UpgradeError("the process that unpacks has ended before it was done")
        answer = json.loads(line)
        if "refused" in answer:
            raise Refused(answer["refused"])
        if "error" in answer:
            raise UpgradeError(f"the process that unpacks failed: {answer['error']}")
        return answer["value"]


def unpack(path: Path, folder: Path, max_size: int = MAX_SIZE, max_count: int = MAX_COUNT) -> Path:
    """Unpack the artifact `path` into `folder`, which must not be there yet; return the release.

    The release is `folder` itself for an archive, or the one folder in it that is named as
    the archive is: app-1.2/ in app-1.2.tar.gz. Any other file is put into `folder` under its
    own name, without .gz, .xz or .bz2. max_size is in bytes. Raises Refused, and then leaves
    nothing behind, for an archive that is broken or too large, lies too deep, needs too much
    memory or time, or has a member that is absolute, leads outside through .. or a link, or
    is neither file, folder nor link. A process of its own does it.
    """
    with Worker() as worker:
        return Path(worker.ask("unpack", **places(path, folder), limits=[max_size, max_count])[0])


def places(path: Path, folder: Path) -> dict[str, str]:
    """The arguments of "unpack" that name an artifact and where it goes."""
    return {"path": os.path.abspath(path), "folder": os.path.abspath(folder)}
