"""The process that hashes and unpacks for `worker.Worker`, with its bounds."""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from endless_py.upgrade import archive, files
from endless_py.upgrade.check import version_inside
from endless_py.upgrade.errors import Refused


def digests(paths: list[str]) -> list[Optional[str]]:
    """The SHA-256 of each file, None for one that is not there."""
    return [files.sha256(Path(path)) if os.path.exists(path) else None for path in paths]


def unpack(path: str, folder: str, limits: list[int]) -> list[Optional[str]]:
    """Unpack; return the release, the version that it says, and the SHA-256 of a single file."""
    release = archive.unpack(Path(path), Path(folder), *limits)
    digest = None if release.is_dir() else files.sha256(release)
    return [str(release), version_inside(release), digest]


_ACTS: dict[str, Any] = {"digests": digests, "unpack": unpack}


def _answer(act: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": _ACTS[act](**arguments)}
    except Refused as error:
        return {"refused": str(error)}
    except MemoryError:
        with suppress(KeyError):
            files.remove(Path(arguments["folder"]))
        limit = resource.getrlimit(resource.RLIMIT_AS)[0] >> 20
        return {"refused": f"it needs more than {limit} MB of memory to be unpacked"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    with suppress(OSError, ValueError):  # not every system can
        resource.setrlimit(what, (value if hard < 0 else min(value, hard), hard))


def main(seconds: int, memory: int) -> None:
    """Answer questions, one JSON line each, until whoever asks them is gone."""
    signal.alarm(seconds)  # its default ends this process
    os.umask(0o022)
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_CORE, 0)
    questions: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            questions.put(line)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    while True:
        question = json.loads(questions.get())
        answer = _answer(question.pop("act"), question)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
