"""Unpack what was fetched, without a member that leaves its folder.

This runs in a process of its own: `worker` starts it and bounds its memory and its time.
"""

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

MAX_DEPTH = 64  # folders below each other
MAX_NAME = 1024  # characters of a member's whole name
_HEADERS = 1 << 20  # bytes that a tar may use for one member's headers and padding
_LONGEST_LINK = 4096  # bytes, as the kernel has it
_FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
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


def unpack(path: Path, folder: Path, max_size: int, max_count: int) -> Path:
    """As `worker.unpack()` describes it, in this process."""
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
    """Has the standard library write members below a folder, once each has passed our rules.

    No member is written through a link, over another one or outside the folder. Where the
    interpreter has tarfile's own filters (3.9.17, 3.10.12, 3.11.4 and later), they look too.
    """

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
            return release
        with _opener(path.name)(path) as file, open(release, "xb") as unpacked:
            for data in files.chunks(file):
                self._add(len(data))
                unpacked.write(data)
        return release

    def zip(self, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                kind = stat.S_IFMT(mode)
                target = self._target(info.filename, info.is_dir())
                self._add(info.file_size)  # zipfile writes no more than that
                if kind == stat.S_IFLNK and not info.is_dir():
                    link = archive.open(info).read(_LONGEST_LINK + 1)
                    self._link(target, info.filename, os.fsdecode(link))
                elif info.is_dir() or kind in (0, stat.S_IFREG):
                    archive.extract(info, self.folder)
                    _set_mode(target, mode)
                else:
                    raise Refused(f"{self.name}: {info.filename!r} is a special file")

    def tar(self, path: Path) -> None:
        # As a stream: nothing is read twice, and what is read can be bounded.
        with _opener(path.name)(path, "rb") as file:
            bounded: Any = _Bounded(file, self.name)
            bounded.allow(0)
            with tarfile.open(fileobj=bounded, mode="r|") as archive:
                while True:
                    member = archive.next()
                    if member is None:
                        return
                    self._member(archive, member, bounded)

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo, bounded: Any) -> None:
        target = self._target(member.name, member.isdir())
        bounded.allow(max(0, member.size))
        if member.islnk():
            # A file of its own; two names of one file help nobody here.
            original = self._target(member.linkname, is_folder=False, is_new=False)
            if not original.is_file() or original.is_symlink():
                raise Refused(f"{self.name}: {member.name!r} is a hard link to no file of it")
            self._add(original.stat().st_size)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(original, target)
        elif member.issym():
            self._link(target, member.name, member.linkname)
        elif member.isdir() or member.isreg():
            self._add(max(0, member.size))
            archive.extract(member, self.folder, set_attrs=False, **_FILTER)
            _set_mode(target, member.mode)
        else:
            raise Refused(f"{self.name}: {member.name!r} is a special file")
        bounded.allow(0)

    def _link(self, target: Path, name: str, leads_to: str) -> None:
        """Where it leads is looked at when all members are there."""
        if not leads_to or "\0" in leads_to or len(leads_to) > _LONGEST_LINK:
            raise Refused(f"{self.name}: the link {name!r} leads nowhere")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(leads_to, target)

    def _add(self, size: int) -> None:
        self.size += size
        if self.size > self.max_size:
            raise Refused(f"{self.name} unpacks to more than {self.max_size} bytes")

    def _target(self, name: str, is_folder: bool, is_new: bool = True) -> Path:
        """Where a member goes; raises Refused where it may not go there."""
        self.count += is_new
        if self.count > self.max_count:
            raise Refused(f"{self.name} has more than {self.max_count} members")
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise Refused(f"{self.name}: the member {name!r} leaves its folder")
        if len(parts) > MAX_DEPTH or len(name) > MAX_NAME:
            raise Refused(
                f"{self.name}: the member {name[:40]!r}... lies deeper than {MAX_DEPTH} folders "
                f"or has a name of more than {MAX_NAME} characters"
            )
        place = self.folder
        for part in (part for part in parts if part not in ("", ".")):
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise Refused(f"{self.name}: the member {name!r} goes through what is no folder")
            place = place / part
        if place == self.folder and not is_folder:
            raise Refused(f"{self.name}: the member {name!r} has no name")
        if is_new and os.path.lexists(place) and not (is_folder and _is_folder(place)):
            raise Refused(f"{self.name} has the member {name!r} twice")
        return place


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _set_mode(path: Path, mode: int) -> None:
    """No set-uid bits, readable for all, writable for its owner alone."""
    path.chmod(0o755 if mode & 0o100 or path.is_dir() else 0o644)


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
    if len(entries) == 1 and name.startswith(f"{entries[0].name}.") and _is_folder(entries[0]):
        return entries[0]
    return folder


def _check_links(release: Path, name: str) -> None:
    """Refuse links that lead outside, now that all are there: one may lead through others."""
    top = os.path.realpath(release)
    for folder, folders, names in os.walk(release):
        os.chmod(folder, 0o755)
        for path in (os.path.join(folder, entry) for entry in [*folders, *names]):
            if os.path.islink(path):
                link = os.readlink(path)
                if link.startswith("/") or os.path.commonpath([top, os.path.realpath(path)]) != top:
                    entry = os.path.relpath(path, release)
                    raise Refused(f"{name}: the link {entry!r} leads outside, to {link!r}")
