"""Where new artifacts come from: the interface of every source, and files.

A source of your own is a class with one method:

    class Shelf(upgrade.Source):
        def fetch(self, known, into, beside):
            version = newest_on_the_shelf()
            if known is not None and known.marks.get("version") == version:
                return None
            path = into / "app.pyz"
            copy_from_the_shelf(version, path)
            return upgrade.Artifact(path, version, marks={"version": version})
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar, Union

from endless_py.upgrade import files, versions
from endless_py.upgrade.errors import Refused, SourceError

MAX_SIZE = 1 << 30  # bytes
TOTAL_TIMEOUT = 600.0  # seconds
_COPY_TRIES = 5
Value = TypeVar("Value")


@dataclass(frozen=True)
class Known:
    """What is known from earlier looks.

    version is that of the installed release, None when it says none; digest the SHA-256 of
    its artifact, in hexadecimal, None when it was not installed by an upgrade; marks what the
    source itself gave with the last artifact it fetched, whether that was installed or refused.
    """

    version: Optional[str] = None
    digest: Optional[str] = None
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A file that was fetched: path, under the name it was published with.

    version is what the source says, None when it does not; sha256 the digest that the
    source's own interface gives for it, None when it gives none; marks what the source wants
    to be told at the next look. The files published beside it lie beside path.
    """

    path: Path
    version: Optional[str] = None
    marks: Mapping[str, str] = field(default_factory=dict)
    sha256: Optional[str] = None


class Source:
    """Fetches new artifacts; `str()` of it names it in the log."""

    def fetch(
        self, known: Optional[Known], into: Path, beside: Sequence[str]
    ) -> Optional[Artifact]:
        """Fetch what is new since `known` into the empty folder `into`; None when nothing is.

        known is None at the very first look. beside names the files that the checks want to
        have beside the artifact, where "{name}" stands for the artifact's name; one that the
        source does not have is left out. Raises SourceError when the source cannot be asked,
        Refused when what it has cannot be taken.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        return type(self).__name__


def within(
    seconds: float, fetch: Callable[[], Value], cut: Callable[[], object] = lambda: None
) -> Value:
    """Do it in a thread, and leave that when the time is over. SourceError then.

    cut is called to end what can be ended; a name's resolution or a disk that is not there
    any more cannot, and the thread that waits for it goes on by itself.
    """
    results: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put((True, fetch()))
        except BaseException as error:  # raised again in the thread that waits
            results.put((False, error))

    threading.Thread(target=work, name="endless_py fetch", daemon=True).start()
    try:
        done, value = results.get(timeout=seconds)
    except queue.Empty:
        cut()
        raise SourceError(f"the transfer was not done within {seconds:g} s") from None
    if not done:
        raise value
    result: Value = value
    return result


def named_beside(name: str, beside: Sequence[str]) -> list[str]:
    """The names of the files beside the artifact `name`."""
    return [pattern.replace("{name}", name) for pattern in beside]


def digest_of(folder: Path, names: Sequence[str]) -> str:
    """One digest of the files of these names in a folder; those that are missing count too."""
    digest = hashlib.sha256()
    for name in names:
        path = folder / name
        digest.update(f"{name}\n{files.sha256(path) if path.exists() else '-'}\n".encode())
    return digest.hexdigest()


def check_size(size: int, limit: int, what: str) -> None:
    """Raise Refused when something is longer than the limit, in bytes."""
    if size > limit:
        raise Refused(
            f"{what} is larger than the limit of {limit} bytes; raise max_size to take it"
        )


def safe_name(name: str) -> str:
    """A file name that a source gave; raises Refused when it would leave the folder."""
    if not name or name in (".", "..") or name.startswith(".") or set(name) & set("/\\\0"):
        raise Refused(f"{name!r} is no name for an artifact")
    return name


class FileSource(Source):
    """A file on a disk, where something else puts new versions.

    path is followed through symlinks at each look; max_size, in bytes, is 1 GiB by default,
    total_timeout, in seconds, 600. The version is taken from the name of the file that path
    leads to, as in app-1.4.2.pyz.
    """

    def __init__(
        self,
        path: Union[str, os.PathLike[str]],
        max_size: int = MAX_SIZE,
        total_timeout: float = TOTAL_TIMEOUT,
    ):
        self.path = Path(os.path.abspath(path))
        self.max_size = max_size
        self.total_timeout = total_timeout

    def __str__(self) -> str:
        return str(self.path)

    def fetch(
        self, known: Optional[Known], into: Path, beside: Sequence[str]
    ) -> Optional[Artifact]:
        return within(self.total_timeout, lambda: self._fetch(known, into, beside))

    def _fetch(
        self, known: Optional[Known], into: Path, beside: Sequence[str]
    ) -> Optional[Artifact]:
        name = self.path.name
        names = named_beside(name, beside)
        try:
            for _ in range(_COPY_TRIES):
                mark = self._mark(names)
                if known is not None and known.marks.get("file") == mark:
                    return None
                check_size(self.path.stat().st_size, self.max_size, str(self.path))
                for each in [name, *names]:
                    if self.path.with_name(each).exists():
                        files.copy(self.path.with_name(each), into / each)
                if mark == self._mark(names):
                    version = versions.in_name(os.path.realpath(self.path))
                    return Artifact(into / name, version, {"file": mark})
        except OSError as error:
            raise SourceError(f"cannot read {self.path}: {error}") from error
        raise SourceError(f"{self.path} is still being written")

    def _mark(self, names: Sequence[str]) -> str:
        marks = []
        for name in [self.path.name, *names]:
            path = self.path.with_name(name)
            if name == self.path.name or path.exists():
                status = path.stat()
                marks.append(f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}")
        return " ".join(marks)
