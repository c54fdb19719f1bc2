"""What a new artifact has to pass before it is put in place."""

from __future__ import annotations

import hmac
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from endless_py.upgrade import files, versions
from endless_py.upgrade.errors import Refused
from endless_py.upgrade.sources import Artifact

_MAX_BESIDE = 1 << 20  # bytes of a digest or signature file


@dataclass(frozen=True)
class Candidate:
    """A new version, before it is in place.

    artifact is what the source fetched, with the files beside it; release the file or folder
    that would run; target the path that would lead to it; version that of the candidate and
    installed that of the version in place, None when they say none; digest the artifact's
    SHA-256 in hexadecimal, None when it was not computed yet.
    """

    artifact: Artifact
    release: Path
    target: Path
    version: Optional[str] = None
    installed: Optional[str] = None
    digest: Optional[str] = None

    def sha256(self) -> str:
        """The artifact's SHA-256 in hexadecimal."""
        return self.digest or files.sha256(self.artifact.path)


class Check:
    """A check; a plain function that takes the release's path does as well.

    beside names the files it wants to have beside the artifact ("{name}" is the artifact's).
    A check that is first sees the artifact as it was published and before anything looks
    into it: its release is the artifact itself. With a check that signs, what a source says
    of a version does not count: only what the check returns, or what is inside the artifact.
    """

    beside: Sequence[str] = ()
    first = False
    signs = False

    def run(self, candidate: Candidate) -> Optional[str]:
        """Raise Refused, with one line that says why, for what should not be in place.

        May return the version, when it knows that for certain.
        """
        raise NotImplementedError


class Function(Check):
    """A user's check(path): it refuses by raising, or by returning False."""

    def __init__(self, function: Callable[[Path], object]):
        self._function = function

    def run(self, candidate: Candidate) -> None:
        name = getattr(self._function, "__name__", repr(self._function))
        try:
            passed = self._function(candidate.release)
        except Refused:
            raise
        except Exception as error:
            raise Refused(f"{name}() refuses it: {error or type(error).__name__}") from error
        if passed is False:
            raise Refused(f"{name}() refuses it")


def read_beside(path: Path) -> bytes:
    if path.stat().st_size > _MAX_BESIDE:
        raise Refused(f"{path.name} is larger than {_MAX_BESIDE} bytes")
    return path.read_bytes()


class SHA256(Check):
    """The artifact's SHA-256 is the one published beside it.

    sums is the name of a file as sha256sum writes it, default "SHA256SUMS"; the artifact's
    name with .sha256 after it, with or without a name in it, is looked for too. Where there
    is neither, the digest that the source's own interface gives counts; where there is none,
    the artifact is refused.
    """

    first = True

    def __init__(self, sums: str = "SHA256SUMS"):
        self._sums = sums
        self.beside = (sums, "{name}.sha256")

    def run(self, candidate: Candidate) -> None:
        path = candidate.artifact.path
        wanted = [
            *self._in_sums(path.with_name(self._sums), path.name, strict=True),
            *self._in_sums(path.with_name(f"{path.name}.sha256"), path.name, strict=False),
        ]
        if not wanted and candidate.artifact.sha256:
            wanted = [candidate.artifact.sha256.lower()]
        if not wanted:
            raise Refused(
                f"no digest of {path.name}: neither {self._sums} nor {path.name}.sha256 names it"
            )
        found = candidate.sha256()
        for digest in wanted:
            if not hmac.compare_digest(digest, found):
                raise Refused(f"the SHA-256 of {path.name} is {found}, published is {digest}")

    @staticmethod
    def _in_sums(path: Path, name: str, strict: bool) -> list[str]:
        if not path.exists():
            return []
        found = []
        for line in read_beside(path).decode(errors="replace").splitlines():
            digest, _, rest = line.strip().lstrip("\\").partition(" ")
            listed = rest.strip().lstrip("*").rpartition("/")[2]
            if listed == name or (not strict and not rest):
                digest = digest.lower()
                if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                    raise Refused(f"{path.name} has {digest!r} for {name}, no SHA-256")
                found.append(digest)
        return found


class NoDowngrade(Check):
    """The version is not older than the one in place, by the rule of `versions.key()`.

    The version is what the file VERSION at the top of the release says (its first line; for
    a .pyz, of the zip), else what the source says. A version in place that is known and a
    candidate that says none is refused too.
    """

    def run(self, candidate: Candidate) -> None:
        if candidate.installed is None:
            return
        if candidate.version is None:
            raise Refused(
                f"it says no version, and {candidate.installed} is in place; "
                "put a file VERSION into it, or allow downgrades"
            )
        if versions.is_older(candidate.version, candidate.installed):
            raise Refused(f"it is {candidate.version}, older than {candidate.installed} in place")


def version_inside(release: Path) -> Optional[str]:
    """What the file VERSION of a release says; None when there is none."""
    text = b""
    try:
        if release.is_dir():
            if (release / "VERSION").is_file():
                with open(release / "VERSION", "rb") as file:
                    text = file.read(200)
        elif zipfile.is_zipfile(release):
            with zipfile.ZipFile(release) as archive, archive.open("VERSION") as member:
                text = member.read(200)
    except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError):
        return None
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[0].strip() if lines else None
