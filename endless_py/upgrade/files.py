"""Small acts on files that hold even when the machine stops in the middle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 1 << 16
_LONGEST_LINE = 1000  # characters


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk."""
    sync_file(folder)


def sync_file(path: Path) -> None:
    """Have a file's content written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Have a file, or a folder with all that is in it, written to the disk."""
    if not path.is_dir():
        sync_file(path)
        return
    for folder, _, names in os.walk(path):
        for name in names:
            entry = Path(folder, name)
            if stat.S_ISREG(entry.lstat().st_mode):
                sync_file(entry)
        sync_folder(Path(folder))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that a reader, or the next start, finds the old or the new one."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with create(new) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_atomically()` for what json can write."""
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def chunks(file: Any) -> Iterator[bytes]:
    """The rest of a file, piece by piece."""
    return iter(lambda: file.read(CHUNK), b"")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for data in chunks(file):
            digest.update(data)
    return digest.hexdigest()


def create(path: Path) -> BinaryIO:
    """Open a new, empty file that others cannot write, whatever the umask; follow no link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o644), "w+b")


def copy(source: Path, target: Path) -> None:
    """Copy a file's content. OSError at once when the source is no regular file."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{source} is not a regular file")
        with create(target) as copied:
            shutil.copyfileobj(file, copied)


def make_folders(path: Path) -> None:
    """Make a folder and those that lead to it; others cannot write to them."""
    for folder in [*reversed(path.parents), path]:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o755)


def printable(text: str) -> str:
    """One short line, with nothing in it that a terminal would obey."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + "..."


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; nothing happens when it is not there."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISDIR(mode):
        with contextlib.suppress(OSError):
            path.unlink()
        return
    with contextlib.suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        with contextlib.suppress(OSError):
            _remove_deep(path)


def _remove_deep(top: Path) -> None:
    """Remove a folder that lies too deep for rmtree(): what is in a folder is moved to the top."""
    number = 0
    while True:
        entries = list(top.iterdir())
        for entry in entries:
            if entry.is_symlink() or not entry.is_dir():
                entry.unlink()
                continue
            for below in list(entry.iterdir()):
                number += 1
                os.rename(below, top / f"{entry.name[:20]}.{os.getpid()}.{number}")
            entry.rmdir()
        if not entries:
            top.rmdir()
            return
