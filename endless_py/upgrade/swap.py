"""What is in place, what was there before, and the change from one to the other.

The layout, for a target /srv/app/app.pyz or /srv/app/current:

    /srv/app/app.pyz                    a file: a copy of the release in place
    /srv/app/current                    or a symlink: to the release in place
    /srv/app/.app.pyz.before            during a swap: what was in place before it
    /srv/app/releases/1.4.2/            a release; a single file lies in it under its name
    /srv/app/releases/.app.pyz.json     the state: which releases, which one is in place,
                                        and whether a swap is under way
    /srv/app/releases/.app.pyz.lock     held by the process that looks or swaps
    /srv/app/releases/.app.pyz.staging/ what is being fetched

A swap has these steps, each of them whole or not done at all whenever the process or the
machine stops:

    1. the state says which release is on its way (`pending`), from which one, and how often
       it was started
    2. the staged release gets its place under releases/
    3. the target is switched by os.replace()
    4. the program reloads
    5. if the reload failed, the target is switched back, which takes one rename and no room
       on the disk; only then the state says how it ended, and what failed is removed

A release that is in place while the state still says `pending` was never proven. What
somebody else has made of the target meanwhile is left as it is.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from endless_py.upgrade import files
from endless_py.upgrade.errors import SwapError
from endless_py.upgrade.place import NOT_OTHERS, Place
from endless_py.upgrade.state import Release


@dataclass(frozen=True)
class Staged:
    """A new release that passed every check, before it has its place.

    path is in the staging folder; digest the SHA-256 of the artifact, content that of the
    file itself, None for a folder; fingerprint that of the artifact and what lies beside it;
    marks are the source's, and count once the swap is over.
    """

    path: Path
    version: Optional[str]
    digest: str
    content: Optional[str]
    fingerprint: str
    marks: Mapping[str, str] = field(default_factory=dict)


class Releases(Place):
    """A target, its releases, and the way from one to the other."""

    def check_kind(self, is_folder: bool) -> None:
        """Raise SwapError when the target cannot become a release of this kind."""
        if is_folder and self.target.is_file() and not self.target.is_symlink():
            raise SwapError(
                f"{self.target} is a file and the artifact an archive; make the target a "
                "symlink such as `current`, or publish a single file"
            )

    def begin(self, staged: Staged) -> Release:
        """Steps 1 and 2: give the staged release its place. Returns it."""
        before = self.in_place()
        is_folder = staged.content is None
        self.check_kind(is_folder)
        tag = self._free_tag(staged.version or staged.digest[:12])
        path = tag if is_folder else f"{tag}/{staged.path.name}"
        link = self._link_to(path)
        release = Release(tag, path, link, staged.version, staged.digest, staged.content)
        self.state.releases.append(release)
        self.state.pending = {
            "from": before.tag if before else None,
            "to": tag,
            "marks": dict(staged.marks),
            "fingerprint": staged.fingerprint,
        }
        self.state.count_start(staged.fingerprint)
        self.save()
        self._place(staged.path, tag, None if is_folder else staged.path.name)
        return release

    def switch(self, release: Release) -> None:
        """Step 3: have the target lead to a release, at once or not at all.

        What was in place is kept beside it until the swap is over: the way back needs no
        room on the disk then. Raises SwapError when somebody else has switched it meanwhile.
        """
        self._make_new(release)
        files.remove(self._before)
        if self.target.is_symlink():
            os.symlink(os.readlink(self.target), self._before)
        elif self.target.exists():
            try:
                os.link(self.target, self._before)
            except OSError:  # a file system without hard links
                files.copy(self.target, self._before)
                self._before.chmod(stat.S_IMODE(self.target.stat().st_mode) & NOT_OTHERS)
                files.sync_file(self._before)
        files.sync_folder(self.target.parent)
        if not self.leads_to(self.state.find((self.state.pending or {}).get("from"))):
            raise SwapError(f"{self.target} was switched by somebody else meanwhile")
        self._put(self._new)

    def _make_new(self, release: Release) -> None:
        files.remove(self._new)
        if self._is_link(release):
            os.symlink(release.link, self._new)
            return
        files.copy(self.folder / release.path, self._new)
        like = self.target if self.target.exists() else self.folder / release.path
        self._new.chmod(stat.S_IMODE(like.stat().st_mode) & NOT_OTHERS)
        files.sync_file(self._new)

    def _put(self, what: Path) -> None:
        os.replace(what, self.target)
        files.sync_folder(self.target.parent)

    def confirm(self) -> None:
        """Step 5, when the new release serves: it stays, and the oldest ones go."""
        pending = self.state.pending or {}
        before = self.state.find(pending.get("from"))
        if before is not None and pending.get("bad"):
            before.bad = True
        self.state.marks = pending.get("marks", self.state.marks)
        self.state.pending = self.state.tried = None
        placed = [r for r in self.state.releases if self.leads_to(r)]  # an operator's, maybe
        self.state.current = placed[-1].tag if placed else None
        kept = [*self.state.releases[-self.keep :], *placed]
        gone = [r for r in self.state.releases if r not in kept]
        self.state.releases = [r for r in self.state.releases if r in kept]
        self.save()
        files.remove(self._before)
        for release in gone:
            self._remove(release)

    def undo(self) -> bool:
        """Step 5, when the release was not proven: put the one before it back.

        The switch comes first and the state after it. Returns False when somebody else has
        switched the target meanwhile, which stays as it is.
        """
        pending = self.state.pending
        assert pending is not None
        before, failed = self.state.find(pending["from"]), self.state.find(pending["to"])
        if failed is not None and self.leads_to(failed) and not self.leads_to(before):
            if os.path.lexists(self._before):
                self._put(self._before)
            elif before is not None:
                self._make_new(before)
                self._put(self._new)
            else:
                self.target.unlink()
                files.sync_folder(self.target.parent)
        files.remove(self._before)
        files.remove(self._new)
        mine = self.leads_to(before)
        self.state.pending = self.state.tried = None
        self.state.marks = pending.get("marks", self.state.marks)
        self.state.current = before.tag if before and mine else None
        self._forget(None if pending.get("keep") else failed)
        return mine

    def _forget(self, release: Optional[Release]) -> None:
        """Save the state without a release, and remove that unless it is in place."""
        if release is None or self.leads_to(release):
            self.save()
            return
        self.state.releases.remove(release)
        self.save()
        self._remove(release)

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
                self.state.count_start(release.tag)
                self.save()
                return release
        raise SwapError(f"there is no earlier release of {self.target} to go back to")

    def recover(self) -> Optional[str]:
        """Clear away what a swap has left that never switched the target, or switched it back.

        Says what, None when there was nothing. A release that is in place but `unproven()`
        stays for the caller, who can have it proven.
        """
        self.clear_staging()
        files.remove(self._new)
        for left in self.folder.glob(f".{self.target.name}.json.*.new"):
            files.remove(left)
        pending = self.state.pending
        if self.unproven() is not None:
            return None
        files.remove(self._before)
        if pending is None:
            return None
        self.state.pending = None  # but `tried` stays: it may have been started
        self._forget(None if pending.get("keep") else self.state.find(pending["to"]))
        return f"the upgrade to {pending['to']} was cut off, and is not in place"

    def _remove(self, release: Release) -> None:
        """Remove a release's files; the name goes first, so that no half of it is left there."""
        if not release.ours:
            return
        dying = self._own("staging") / f"{release.tag}.old"
        with contextlib.suppress(OSError):
            files.make_folders(dying.parent)
            os.rename(self.folder / release.tag, dying)
        files.remove(dying)
