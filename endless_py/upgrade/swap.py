"""What is in place, what was there before, and the change from one to the other.

The layout, for a target /srv/app/app.pyz or /srv/app/current:

    /srv/app/app.pyz                    a file: a copy of the release in place
    /srv/app/current                    or a symlink: to the release in place
    /srv/app/releases/1.4.2/            a release; a single file lies in it under its name
    /srv/app/releases/.app.pyz.json     the state: which releases, which one is in place,
                                        and whether a swap is under way
    /srv/app/releases/.app.pyz.lock     held by the process that looks or swaps
    /srv/app/releases/.app.pyz.staging/ what is being fetched

A swap has these steps, each of them whole or not done at all whenever the process or the
machine stops:

    1. the state says which release is on its way (`pending`), and from which one
    2. the staged release gets its place under releases/
    3. the target is switched by os.replace()
    4. the program reloads
    5. the state says that the release is in place; or, if the reload failed, that it did,
       then the target is switched back and the release removed

`recover()` finishes what was under way: a release that is in place stays there, since the
program that asks was started from it; one that failed is taken away.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

from endless_py.upgrade import files
from endless_py.upgrade.errors import SwapError

_FORMAT = 1


class Busy(SwapError):
    """Another process looks for upgrades of the same target, or swaps it."""


@dataclass
class Release:
    """One version on the disk.

    path is relative to the releases folder, or absolute; link says what a target that is a
    symlink contains when it leads here; digest is the SHA-256 of the artifact it came from;
    content that of the file itself, None for a folder; ours whether an upgrade put it there
    (what others put there is never removed); bad whether it was rolled back.
    """

    tag: str
    path: str
    link: str
    version: Optional[str] = None
    digest: Optional[str] = None
    content: Optional[str] = None
    ours: bool = True
    bad: bool = False


@dataclass
class State:
    """What the state file says; last_look and refused are dicts of plain values."""

    releases: list[Release] = field(default_factory=list)
    current: Optional[str] = None
    pending: Optional[dict[str, Any]] = None  # from, to, and failed: why, once it did
    source: Optional[str] = None
    marks: dict[str, str] = field(default_factory=dict)
    looked: bool = False  # a source was ever asked
    refused: Optional[dict[str, Any]] = None  # fingerprint, version, reason
    last_look: Optional[dict[str, Any]] = None  # at (Unix time), result, text

    def find(self, tag: Optional[str]) -> Optional[Release]:
        return next((r for r in self.releases if r.tag == tag), None)


class Releases:
    """A target and its releases.

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

    def _own(self, what: str) -> Path:
        return self.folder / f".{self.target.name}.{what}"

    # -- the state --------------------------------------------------------

    def load(self) -> State:
        """Read the state; SwapError when the file is not one of ours."""
        path = self._own("json")
        try:
            values = json.loads(path.read_bytes())
            if values.pop("format") != _FORMAT:
                raise ValueError("another version of endless_py wrote it")
            values["releases"] = [Release(**release) for release in values["releases"]]
            self.state = State(**values)
        except FileNotFoundError:
            self.state = State()
        except (
            OSError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            RecursionError,
        ) as error:
            raise SwapError(
                f"{path} cannot be used: {error}; remove it to forget all earlier upgrades"
            ) from error
        return self.state

    def save(self) -> None:
        files.write_json(self._own("json"), {"format": _FORMAT, **asdict(self.state)})

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out; raises Busy at once when one is in."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._own("lock"), os.O_RDWR | os.O_CREAT, 0o644)
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
        """Return an empty folder on the right file system."""
        staging = self._own("staging")
        files.remove(staging)
        staging.mkdir(mode=0o755)
        return staging

    # -- what is in place -------------------------------------------------

    def _is_link(self, release: Release) -> bool:
        """Whether the target is, or would be, a symlink."""
        if self.target.is_symlink():
            return True
        return not self.target.exists() and release.content is None

    def _leads_to(self, release: Release) -> bool:
        """Whether it is this release that is in place."""
        if self.target.is_symlink():
            return os.readlink(self.target) == release.link
        return (
            release.content is not None
            and self.target.is_file()
            and files.sha256(self.target) == release.content
        )

    def in_place(self) -> Optional[Release]:
        """Return the release in place, and keep it when an upgrade did not put it there."""
        for release in reversed(self.state.releases):
            if self._leads_to(release):
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
        staged = self._own("staging") / f"{tag}.keep"
        staged.mkdir(parents=True, exist_ok=True)
        shutil.copy2(self.target, staged / self.target.name)
        files.sync_tree(staged)
        os.rename(staged, self.folder / tag)
        files.sync_folder(self.folder)
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

    # -- the swap ---------------------------------------------------------

    def check_kind(self, is_folder: bool) -> None:
        """Raise SwapError when the target cannot become a release of this kind."""
        if is_folder and self.target.is_file() and not self.target.is_symlink():
            raise SwapError(
                f"{self.target} is a file and the artifact an archive; make the target a "
                "symlink such as `current`, or publish a single file"
            )

    def begin(
        self, staged: Path, version: Optional[str], digest: str, marks: dict[str, str]
    ) -> Release:
        """Steps 1 and 2: give the staged release its place. Returns it.

        marks are the source's; they count once the swap is over.
        """
        before = self.in_place()
        is_folder = staged.is_dir()
        self.check_kind(is_folder)
        tag = self._free_tag(version or digest[:12])
        path = tag if is_folder else f"{tag}/{staged.name}"
        release = Release(
            tag,
            path,
            self._link_to(path),
            version,
            digest,
            None if is_folder else files.sha256(staged),
        )
        files.sync_tree(staged)
        self.state.releases.append(release)
        self.state.pending = {"from": before.tag if before else None, "to": tag, "marks": marks}
        self.save()
        if is_folder:
            os.rename(staged, self.folder / tag)
        else:
            shell = self._own("staging") / f"{tag}.folder"
            shell.mkdir(mode=0o755)
            os.rename(staged, shell / staged.name)
            files.sync_folder(shell)
            os.rename(shell, self.folder / tag)
        files.sync_folder(self.folder)
        return release

    def switch(self, release: Release) -> None:
        """Step 3: have the target lead to a release, at once or not at all."""
        new = self.target.with_name(f".{self.target.name}.new")
        files.remove(new)
        if self._is_link(release):
            os.symlink(release.link, new)
        else:
            shutil.copyfile(self.folder / release.path, new)
            like = self.target if self.target.exists() else self.folder / release.path
            os.chmod(new, stat.S_IMODE(like.stat().st_mode))
            files.sync_file(new)
        os.replace(new, self.target)
        files.sync_folder(self.target.parent)

    def confirm(self) -> None:
        """Step 5, when the new release serves: it stays, and the oldest ones go."""
        pending = self.state.pending or {}
        before = self.state.find(pending.get("from"))
        if before is not None and pending.get("bad"):
            before.bad = True
        self.state.current = pending.get("to")
        self.state.marks = pending.get("marks", self.state.marks)
        self.state.pending = None
        kept = self.state.releases[-self.keep :]
        gone = [r for r in self.state.releases if r not in kept and r.tag != self.state.current]
        self.state.releases = [r for r in self.state.releases if r not in gone]
        self.save()
        for release in gone:
            self._remove(release)

    def undo(self, reason: str) -> None:
        """Step 5, when the reload failed: put the release before it back."""
        pending = self.state.pending
        assert pending is not None
        pending["failed"] = reason
        self.save()
        before, failed = self.state.find(pending["from"]), self.state.find(pending["to"])
        if before is not None:
            if not self._leads_to(before):
                self.switch(before)
        elif os.path.lexists(self.target):
            os.unlink(self.target)
            files.sync_folder(self.target.parent)
        self.state.pending = None
        self.state.marks = pending.get("marks", self.state.marks)
        self.state.current = before.tag if before else None
        remove = failed is not None and not pending.get("keep")
        if remove and failed is not None:
            self.state.releases.remove(failed)
        self.save()
        if remove and failed is not None:
            self._remove(failed)

    def begin_roll_back(self) -> Release:
        """Step 1 of the way back to the release before the one in place. Returns it."""
        current = self.in_place()
        earlier = self.state.releases[: self.state.releases.index(current)] if current else []
        for release in reversed(earlier):
            if not release.bad and (self.folder / release.path).exists():
                assert current is not None
                self.state.pending = {
                    "from": current.tag,
                    "to": release.tag,
                    "bad": True,  # so that the next roll back does not lead to it
                    "keep": True,
                }
                self.save()
                return release
        raise SwapError(f"there is no earlier release of {self.target} to go back to")

    def recover(self) -> Optional[str]:
        """Finish what a process that ended left under way; say what, None when nothing was."""
        files.remove(self._own("staging"))
        files.remove(self.target.with_name(f".{self.target.name}.new"))
        for left in self.folder.glob(f".{self.target.name}.json.*.new"):
            files.remove(left)
        pending = self.state.pending
        if pending is None:
            return None
        to = self.state.find(pending["to"])
        if "failed" in pending:
            self.undo(pending["failed"])
            return f"the release before {pending['to']} is back in place: {pending['failed']}"
        if to is not None and self._leads_to(to):
            self.confirm()
            return f"{pending['to']} is in place; its upgrade was cut off before it was confirmed"
        self.state.pending = None
        if to is not None and not pending.get("keep"):
            self.state.releases.remove(to)
        self.save()
        if to is not None and not pending.get("keep"):
            self._remove(to)
        return f"the upgrade to {pending['to']} was cut off before it was in place"

    def _remove(self, release: Release) -> None:
        """Remove a release's files; the name goes first, so that no half of it is left there."""
        if not release.ours:
            return
        dying = self._own("staging") / f"{release.tag}.old"
        with contextlib.suppress(OSError):
            dying.parent.mkdir(exist_ok=True)
            os.rename(self.folder / release.tag, dying)
        files.remove(dying)

    def note_look(self, result: str, text: str) -> None:
        """Save what a look led to."""
        self.state.last_look = {"at": time.time(), "result": result, "text": text}
        self.save()
