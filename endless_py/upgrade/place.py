"""What a program is started from, and which of its releases that is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional, Union

from endless_py.upgrade import files, state
from endless_py.upgrade.errors import SwapError
from endless_py.upgrade.state import Release, State

NOT_OTHERS = 0o7755  # all but the right of group and others to write


class Busy(SwapError):
    """Another process looks for upgrades of the same target, or swaps it."""


class Place:
    """A target and the folder of its releases.

    target is the path that the program is started from: a file, a symlink, or nothing yet;
    folder has the releases, default `releases` beside the target, on the same file system;
    keep is how many of them are kept, the one in place included.
    """

    def __init__(
        self,
        target: Union[str, os.PathLike[str]],
        folder: Union[str, os.PathLike[str], None] = None,
        keep: int = 3,
    ):
        if keep < 1:
            raise ValueError("keep must be at least 1, the release in place")
        self.target = Path(os.path.abspath(target))
        self.folder = Path(os.path.abspath(folder or self.target.parent / "releases"))
        self.keep = keep
        self.state = State()
        self._before = self.target.with_name(f".{self.target.name}.before")
        self._new = self.target.with_name(f".{self.target.name}.new")

    def _own(self, what: str) -> Path:
        return self.folder / f".{self.target.name}.{what}"

    # -- the state --------------------------------------------------------

    def load(self) -> State:
        """Read the state; SwapError when the file is not one of ours."""
        self.state = state.load(self._own("json"))
        return self.state

    def save(self) -> None:
        state.save(self._own("json"), self.state)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out; raises Busy at once when one is in."""
        try:
            files.make_folders(self.folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._own("lock"), flags, 0o644)
        except OSError as error:
            raise SwapError(f"cannot keep releases in {self.folder}: {error}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Busy(f"another process looks for upgrades of {self.target}") from None
            try:
                yield
            finally:
                # A handler's process that was forked meanwhile has the descriptor too.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def staging(self) -> Path:
        """Return an empty folder on the right file system, which nobody else can look into."""
        self.clear_staging()
        self._own("staging").mkdir(mode=0o700)
        return self._own("staging")

    def clear_staging(self) -> None:
        files.remove(self._own("staging"))

    def note_look(self, result: str, text: str) -> None:
        """Save what a look led to."""
        self.state.last_look = {"at": time.time(), "result": result, "text": text}
        self.save()

    # -- what is in place -------------------------------------------------

    def _is_link(self, release: Release) -> bool:
        """Whether the target is, or would be, a symlink."""
        if self.target.is_symlink():
            return True
        return not self.target.exists() and release.content is None

    def leads_to(self, release: Optional[Release]) -> bool:
        """Whether it is this release that is in place; None is: nothing is in place."""
        if release is None:
            return not os.path.lexists(self.target)
        if self.target.is_symlink():
            return os.readlink(self.target) == release.link
        return (
            release.content is not None
            and self.target.is_file()
            and files.sha256(self.target) == release.content
        )

    def unproven(self) -> Optional[Release]:
        """The release that is in place and was never proven, None when there is none."""
        pending = self.state.pending
        release = self.state.find(pending["to"]) if pending else None
        return release if release is not None and self.leads_to(release) else None

    def in_place(self) -> Optional[Release]:
        """Return the release in place, and keep it when an upgrade did not put it there."""
        for release in reversed(self.state.releases):
            if self.leads_to(release):
                if self.state.current != release.tag:
                    self.state.current = release.tag
                    self.save()
                return release
        if not os.path.lexists(self.target):
            self.state.current = None
            return None
        if self.target.is_symlink():
            release = self._describe_link()
        elif self.target.is_file():
            release = self._keep_file()
        else:
            raise SwapError(
                f"{self.target} is a folder, which cannot be switched at once; move it to "
                f"{self.folder} and make {self.target.name} a symlink to it"
            )
        self.state.releases.append(release)
        self.state.current = release.tag
        self.save()
        return release

    def _describe_link(self) -> Release:
        link = os.readlink(self.target)
        path = os.path.join(self.target.parent, link)
        content = files.sha256(Path(path)) if os.path.isfile(path) else None
        tag = self._free_tag(os.path.basename(os.path.normpath(path)), on_disk=False)
        return Release(tag, path, link, digest=content, content=content, ours=False)

    def _keep_file(self) -> Release:
        digest = files.sha256(self.target)
        tag = self._free_tag(f"before-{digest[:12]}")
        files.make_folders(self._own("staging"))
        kept = self._own("staging") / f"{tag}.keep"
        files.copy(self.target, kept)
        kept.chmod(stat.S_IMODE(self.target.stat().st_mode) & NOT_OTHERS)
        self._place(kept, tag, self.target.name)
        path = f"{tag}/{self.target.name}"
        return Release(tag, path, self._link_to(path), digest=digest, content=digest)

    def _link_to(self, path: str) -> str:
        full = self.folder / path
        if self.folder.is_relative_to(self.target.parent):
            return str(full.relative_to(self.target.parent))
        return str(full)

    def _free_tag(self, wanted: str, on_disk: bool = True) -> str:
        base = re.sub(r"[^\w.+-]", "_", wanted).lstrip(".")[:80] or "release"
        tag, number = base, 1
        while self.state.find(tag) or (on_disk and os.path.lexists(self.folder / tag)):
            number += 1
            tag = f"{base}.{number}"
        return tag

    def _place(self, staged: Path, tag: str, name: Optional[str]) -> None:
        """Move a folder, or a file that is to have this name, to its place under releases/."""
        files.sync_tree(staged)
        if name is not None:
            shell = self._own("staging") / f"{tag}.folder"
            shell.mkdir(mode=0o755)
            os.rename(staged, shell / name)
            files.sync_folder(shell)
            staged = shell
        os.rename(staged, self.folder / tag)
        files.sync_folder(self.folder)
