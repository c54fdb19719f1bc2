"""Unpack what was fetched, without a member that leaves its folder."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from endless_py.upgrade import files
from endless_py.upgrade.errors import Refused

MAX_SIZE = 4 << 30  # bytes unpacked
MAX_COUNT = 100_000  # members
_HEADERS = 1 << 20  # bytes that a tar may use for one member's headers and padding
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
_SINGLE: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,  # a zip's compression that zipfile has not
    RuntimeError,  # an encrypted zip
)


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked to a folder; a .pyz is not, it runs as it is."""
    return name.lower().endswith((*_TARS, ".zip"))


def release_name(name: str) -> str:
    """The name of a single file without the compression that `unpack()` takes away."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in _SINGLE and stem else name


def unpack(path: Path, folder: Path, max_size: int = MAX_SIZE, max_count: int = MAX_COUNT) -> Path:
    """Unpack the artifact `path` into `folder`, which must not be there yet; return the release.

    The release is `folder` itself for an archive, or the one folder in it that is named as
    the archive is: app-1.2/ in app-1.2.tar.gz. Any other file is put into `folder` under its
    own name, without .gz, .xz or .bz2. max_size is in bytes. Raises Refused, and then leaves
    nothing behind, for an archive that is broken or too large, or has a member that is
    absolute, leads outside through .. or a link, or is neither file, folder nor link.
    """
    folder.mkdir(mode=0o755)
    unpacker = _Unpacker(path.name, folder, max_size, max_count)
    try:
        if path.name.lower().endswith(".zip"):
            unpacker.zip(path)
        elif is_archive(path.name):
            unpacker.tar(path)
        else:
            return unpacker.single(path)
        release = _without_top_folder(folder, path.name)
        _check_links(release, path.name)
        return release
    except Refused:
        files.remove(folder)
        raise
    except _BROKEN as error:
        files.remove(folder)
        raise Refused(f"{path.name} cannot be unpacked: {error or type(error).__name__}") from error


class _Unpacker:
    """Writes members below a folder and counts them."""

    def __init__(self, name: str, folder: Path, max_size: int, max_count: int):
        self.name = name
        self.folder = folder
        self.max_size = max_size
        self.max_count = max_count
        self.size = 0
        self.count = 0

    def single(self, path: Path) -> Path:
        name = release_name(path.name)
        release = self.folder / name
        if name == path.name:
            shutil.copyfile(path, release)
        else:
            with _SINGLE[os.path.splitext(path.name)[1].lower()](path) as file:
                self._write(file, release, name, 0o644)
        return release

    def zip(self, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                kind = stat.S_IFMT(mode)
                target = self._target(info.filename)
                if info.is_dir():
                    self._make_folder(target, info.filename)
                elif kind == stat.S_IFLNK:
                    if info.file_size > 4096:
                        raise Refused(f"{self.name}: the link {info.filename!r} is too long")
                    self._link(target, info.filename, os.fsdecode(archive.read(info)))
                elif kind in (0, stat.S_IFREG):
                    with archive.open(info) as file:
                        self._write(file, target, info.filename, mode or 0o644)
                else:
                    raise Refused(f"{self.name}: {info.filename!r} is a special file")

    def tar(self, path: Path) -> None:
        # As a stream: nothing is read twice, and what is read can be bounded.
        with _opener(path.name)(path, "rb") as file:
            bounded: Any = _Bounded(file, self.name)
            bounded.allow(0)
            with tarfile.open(fileobj=bounded, mode="r|") as archive:
                self._members(archive, bounded)

    def _members(self, archive: tarfile.TarFile, bounded: _Bounded) -> None:
        while True:
            member = archive.next()
            if member is None:
                return
            target = self._target(member.name)
            bounded.allow(max(0, member.size))
            if member.isdir():
                self._make_folder(target, member.name)
            elif member.issym():
                self._link(target, member.name, member.linkname)
            elif member.islnk():
                self._copy(target, member.name, self._target(member.linkname, count=False))
            elif member.isreg():
                content: Any = archive.extractfile(member)
                self._write(content, target, member.name, member.mode)
                bounded.allow(0)
            else:
                raise Refused(f"{self.name}: {member.name!r} is a special file")

    def _target(self, name: str, count: bool = True) -> Path:
        """Where a member goes. Raises Refused when that is outside."""
        if count:
            self.count += 1
            if self.count > self.max_count:
                raise Refused(f"{self.name} has more than {self.max_count} members")
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise Refused(f"{self.name}: the member {name!r} leaves its folder")
        return self.folder.joinpath(*(part for part in parts if part not in ("", ".")))

    def _make_folder(self, target: Path, name: str) -> None:
        """Make a folder; whatever leads to it must be folders, no links."""
        inside = target.relative_to(self.folder)
        place = self.folder
        for part in inside.parts:
            place = place / part
            try:
                place.mkdir(mode=0o755)
            except FileExistsError:
                if not stat.S_ISDIR(place.lstat().st_mode):
                    raise Refused(
                        f"{self.name}: the member {name!r} goes through what is no folder"
                    ) from None

    def _new(self, target: Path, name: str) -> None:
        if target == self.folder:
            raise Refused(f"{self.name}: the member {name!r} has no name")
        self._make_folder(target.parent, name)
        if os.path.lexists(target):
            raise Refused(f"{self.name} has the member {name!r} twice")

    def _write(self, source: Any, target: Path, name: str, mode: int) -> None:
        self._new(target, name)
        with open(target, "xb") as file:
            for data in files.chunks(source):
                self.size += len(data)
                if self.size > self.max_size:
                    raise Refused(f"{self.name} unpacks to more than {self.max_size} bytes")
                file.write(data)
            # No set-uid bits, and always readable and writable for its owner.
            os.fchmod(file.fileno(), 0o755 if mode & 0o100 else 0o644)

    def _copy(self, target: Path, name: str, original: Path) -> None:
        """A hard link becomes a file of its own; two names of one file help nobody here."""
        self._make_folder(original.parent, name)
        if not os.path.lexists(original) or not stat.S_ISREG(original.lstat().st_mode):
            raise Refused(f"{self.name}: {name!r} is a hard link to what is no file of it")
        with open(original, "rb") as file:
            self._write(file, target, name, original.stat().st_mode)

    def _link(self, target: Path, name: str, leads_to: str) -> None:
        self._new(target, name)
        depth = len(target.relative_to(self.folder).parts) - 1
        safe = bool(leads_to) and not leads_to.startswith("/") and "\0" not in leads_to
        for part in leads_to.split("/") if safe else ():
            if part == "..":
                depth -= 1
                safe = safe and depth >= 0
            elif part not in ("", "."):
                depth += 1
        if not safe:
            raise Refused(f"{self.name}: the link {name!r} leads outside, to {leads_to!r}")
        os.symlink(leads_to, target)


class _Bounded:
    """A stream that refuses to be read further than allowed.

    tarfile reads a header of any size into memory.
    """

    def __init__(self, file: BinaryIO, name: str):
        self._file = file
        self._name = name
        self._left = 0

    def allow(self, size: int) -> None:
        self._left = size + _HEADERS

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise Refused(f"{self._name} has headers larger than {_HEADERS} bytes")
        return data


def _opener(name: str) -> Any:
    suffix = os.path.splitext(name)[1].lower()
    return _SINGLE.get({".tgz": ".gz", ".txz": ".xz", ".tbz2": ".bz2"}.get(suffix, suffix), open)


def _without_top_folder(folder: Path, name: str) -> Path:
    entries = list(folder.iterdir())
    if len(entries) == 1 and name.startswith(f"{entries[0].name}."):
        only = entries[0]
        if stat.S_ISDIR(only.lstat().st_mode):
            return only
    return folder


def _check_links(release: Path, name: str) -> None:
    """A link is looked at again when all are there: through others it may end elsewhere."""
    top = os.path.realpath(release)
    for folder, folders, names in os.walk(release):
        for entry in [*folders, *names]:
            path = os.path.join(folder, entry)
            if not os.path.islink(path):
                continue
            if os.path.commonpath([top, os.path.realpath(path)]) != top:
                raise Refused(f"{name}: the link {entry!r} leads outside, to {os.readlink(path)!r}")
