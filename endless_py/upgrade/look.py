"""The first half of an upgrade: ask the source, unpack what it has, and check that."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

from endless_py.upgrade import archive, versions
from endless_py.upgrade.check import Candidate, Check, NoDowngrade
from endless_py.upgrade.errors import Refused, SourceError, SwapError
from endless_py.upgrade.sources import Artifact, Known, Source, named_beside
from endless_py.upgrade.swap import Releases, Staged
from endless_py.upgrade.worker import MAX_COUNT, Worker, places

MOST_STARTS = 2  # of a version that is never proven


@dataclass(frozen=True)
class Outcome:
    """What a look led to; `text` says it in one line.

    result is one of
    unchanged   there is nothing new
    available   there is a new version, which passed every check (only asked to check)
    upgraded    the new version serves
    refused     the new version did not pass a check; nothing was changed
    failed      the new version did not get to serve; the one before it is in place again
    error       the source could not be asked, what it has not be fetched, or the target not
                be switched
    busy        another process is at it
    """

    result: str
    text: str
    version: Optional[str] = None
    retry_after: Optional[float] = None

    @property
    def ok(self) -> bool:
        return self.result in ("unchanged", "available", "upgraded")


class _Fetched(NamedTuple):
    """An artifact, its SHA-256, and the fingerprint of it and the files beside it."""

    artifact: Artifact
    digest: str
    fingerprint: str


def name_of(version: Optional[str]) -> str:
    return f"version {version}" if version else "a version without a number"


class Look:
    """One look at a source, for a target and with checks."""

    def __init__(self, source: Source, releases: Releases, checks: Sequence[Check], max_size: int):
        self.source = source
        self.releases = releases
        self._checks = checks
        self._max_size = max_size
        self._beside = list(dict.fromkeys(name for c in checks for name in c.beside))
        self._signed = any(check.signs for check in checks)
        self._downgrades = not any(isinstance(check, NoDowngrade) for check in checks)

    def run(self, check_only: bool, again: bool) -> Union[Outcome, Staged]:
        """Return a release that passed every check, or why there is none."""
        try:
            with Worker() as worker:
                fetched = self._fetch(worker, again)
                if fetched is None:
                    return self._unchanged()
                return self._judge(worker, fetched, check_only, again)
        except SourceError as error:
            return Outcome("error", str(error), retry_after=error.retry_after)
        except Refused as error:
            return Outcome("error", f"what {self.source} has is refused: {error}")
        except Exception as error:  # a user's source may raise what it likes
            return Outcome("error", f"{self.source} failed: {type(error).__name__}: {error}")

    def _fetch(self, worker: Worker, again: bool) -> Optional[_Fetched]:
        state = self.releases.state
        current = state.find(state.current)
        known = None
        if state.looked:
            known = Known(
                current.version if current else None,
                current.digest if current else None,
                {} if again else state.marks,
            )
        # A name of its own: a fetch that was left behind may still write into an earlier one.
        into = Path(tempfile.mkdtemp(prefix="fetched.", dir=self.releases.staging()))
        artifact = self.source.fetch(known, into, self._beside)
        state.looked = True
        if artifact is None:
            return None
        names = named_beside(artifact.path.name, self._beside)
        paths = [artifact.path, *map(artifact.path.with_name, names)]
        digests = worker.ask("digests", paths=[str(path) for path in paths])
        if digests[0] is None:
            raise Refused(f"there is no {artifact.path}")
        known_by = [f"{path.name}\n{digest or '-'}\n" for path, digest in zip(paths, digests)]
        fingerprint = hashlib.sha256("".join(known_by).encode()).hexdigest()
        return _Fetched(artifact, digests[0], fingerprint)

    def _unchanged(self) -> Outcome:
        state = self.releases.state
        current = state.find(state.current)
        version = current.version if current else None
        text = f"nothing new at {self.source}"
        if current is not None:
            text += f"; {name_of(current.version or current.tag)} is in place"
        if state.refused:
            reason = state.refused["reason"]
            text += f"; {name_of(state.refused['version'])} was not taken: {reason}"
        return Outcome("unchanged", text, version)

    def _judge(
        self, worker: Worker, fetched: _Fetched, check_only: bool, again: bool
    ) -> Union[Outcome, Staged]:
        state = self.releases.state
        in_place = state.find(state.current)
        marks = dict(fetched.artifact.marks)
        refused = (state.refused or {}).get("fingerprint")
        known = in_place is not None and in_place.digest == fetched.digest
        if known or (not again and fetched.fingerprint == refused):
            state.marks = marks
            return self._unchanged()
        version = None if self._signed else fetched.artifact.version
        try:
            if not again and state.starts(fetched.fingerprint) >= MOST_STARTS:
                raise Refused(f"it was started {MOST_STARTS} times and never became ready")
            vouched = self._check(fetched, fetched.artifact.path, fetched.artifact.version, True)
            version = vouched or version
            release, inside, content = self._unpack(worker, fetched)
            version = self._version(vouched, inside) or version
            self._check(fetched, Path(release), version, False)
        except Refused as error:
            name = name_of(version) if version else fetched.artifact.path.name
            if not check_only:
                state.marks = marks
                state.refused = refusal(fetched.fingerprint, version, str(error))
            return Outcome("refused", f"{name} from {self.source} is refused: {error}", version)
        if check_only:
            text = f"{name_of(version)} from {self.source} passed every check"
            return Outcome("available", text, version)
        return Staged(Path(release), version, fetched.digest, content, fetched.fingerprint, marks)

    def _unpack(self, worker: Worker, fetched: _Fetched) -> Any:
        path = fetched.artifact.path
        try:
            self.releases.check_kind(archive.is_archive(path.name))
        except SwapError as error:
            raise Refused(str(error)) from error
        where = places(path, path.parent.with_name("unpacked"))
        return worker.ask("unpack", **where, limits=[self._max_size, MAX_COUNT])

    def _version(self, vouched: Optional[str], inside: Optional[str]) -> Optional[str]:
        """The version that is signed: by a statement, or as a part of what is signed."""
        if vouched and inside and versions.key(vouched) != versions.key(inside):
            raise Refused(f"it is signed as {vouched}, and the file VERSION in it says {inside}")
        state = self.releases.state
        if self._signed and not (vouched or inside or self._downgrades or state.current is None):
            raise Refused(
                "nothing that is signed says its version, so it may be an older one; sign a "
                "statement (upgrade.statement()), or put a file VERSION into it"
            )
        return vouched or inside

    def _check(
        self, fetched: _Fetched, release: Path, version: Optional[str], first: bool
    ) -> Optional[str]:
        """Run the checks that come first, or all others; return the version they vouch for."""
        in_place = self.releases.state.find(self.releases.state.current)
        installed = in_place.version if in_place else None
        target = self.releases.target
        candidate = Candidate(fetched.artifact, release, target, version, installed, fetched.digest)
        vouched = None
        for check in self._checks:
            if check.first == first:
                vouched = check.run(candidate) or vouched
        return vouched


def refusal(fingerprint: str, version: Optional[str], reason: str) -> dict[str, Any]:
    """What the state keeps of a version that was not taken."""
    return {"fingerprint": fingerprint, "version": version, "reason": reason}
