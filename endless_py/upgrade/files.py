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
from typing import Any

CHUNK = 1 << 16


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
        with open(new, "wb") as file:
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


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; nothing happens when it is not there."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
