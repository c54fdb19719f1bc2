"""The second half of an upgrade: swap, reload, and the way back.

A version is proven by the ready of its own generation, and by nothing else: the successor's
that this process waits for, or this process's own when it was started from a version that an
interrupted upgrade has left in place.
"""

from __future__ import annotations

import threading
from typing import Callable, Optional

from endless_py._reload import process
from endless_py._support import log
from endless_py.upgrade.check import version_inside
from endless_py.upgrade.errors import SwapError
from endless_py.upgrade.look import MOST_STARTS, Outcome, name_of, refusal
from endless_py.upgrade.place import Busy
from endless_py.upgrade.reloading import Reloaded, is_in_charge, is_starting
from endless_py.upgrade.state import Release
from endless_py.upgrade.swap import Releases, Staged

_NEVER_READY = f"it was started {MOST_STARTS} times and never became ready"


class Acts:
    """What is done to a target; all but take_over() and prove() under its lock.

    own is the release that this process runs, when that was never proven; must_leave whether
    it is no longer in place, so that this process has to be replaced; no_swap is clear from a
    reload until its outcome is told.
    """

    def __init__(self, releases: Releases, source: str, reload: Callable[[], Reloaded]):
        self.releases = releases
        self.own: Optional[str] = None
        self.must_leave = False
        self.no_swap = threading.Event()
        self.no_swap.set()
        self._source = source
        self._reload = reload

    def take_over(self) -> None:
        """Find out whether this process runs a version that was never proven, and count that."""
        try:
            with self.releases.lock():
                self.recover()
                release = self.releases.unproven()
                if release is None:
                    return
                self.own = release.tag
                fingerprint = (self.releases.state.pending or {}).get("fingerprint", release.tag)
                if self.releases.state.starts(fingerprint) < MOST_STARTS:
                    self.releases.state.count_start(fingerprint)
                    self.releases.save()
                    return
                self.must_leave = True
                text = self._fail(release, _NEVER_READY, blamed=True).text
                process.current.log(log.ERROR, "upgrade: %(reason)s", "upgrade", reason=text)
        except Busy:  # the predecessor waits for us to be ready, and confirms it, unless it dies
            self.releases.load()
            release = self.releases.unproven()
            self.own = release.tag if release else None

    def prove(self) -> None:
        """This process is ready: confirm the version that it runs, or have it replaced."""
        if self.must_leave:
            reloaded = self._reloaded()
            said = "the version before it serves" if reloaded.ok else reloaded.reason
            level = log.INFO if reloaded.ok else log.ERROR
            process.current.log(level, "upgrade: %(reason)s", "upgrade", reason=said)
            return
        with self.releases.lock():
            self.recover()
            self._confirm_own()

    def _confirm_own(self) -> None:
        """Confirm the version that this process runs, once it is ready."""
        release = self.releases.unproven()
        if release is None or release.tag != self.own or is_starting():
            return
        self.releases.state.refused = None
        self.releases.confirm()
        name = name_of(release.version or release.tag)
        text = f"{name} serves; its upgrade had been cut off"
        process.current.log(log.WARNING, "upgrade: %(reason)s", "upgrade", reason=text)

    def recover(self) -> None:
        """Read the state, and clear away what a swap that was cut off has left."""
        self.releases.load()
        recovered = self.releases.recover()
        if recovered:
            process.current.log(log.WARNING, "upgrade: %(reason)s", "upgrade", reason=recovered)
        in_place = self.releases.in_place()
        if in_place is not None and in_place.version is None:
            in_place.version = version_inside(self.releases.folder / in_place.path)

    def settle(self) -> Optional[Outcome]:
        """Have an unproven version in place proven, or leave it; None when there is none."""
        self._confirm_own()
        release, state = self.releases.unproven(), self.releases.state
        if release is None:
            return None
        fingerprint = (state.pending or {}).get("fingerprint", release.tag)
        if state.starts(fingerprint) >= MOST_STARTS:
            return self._fail(release, _NEVER_READY, blamed=True)
        state.count_start(fingerprint)
        self.releases.save()
        self.no_swap.clear()
        return self._conclude(release, self._reloaded())

    def swap(self, staged: Staged) -> Outcome:
        """Put a release that passed every check in place, and have it serve."""
        if not is_in_charge():
            return Outcome("busy", "this process is being replaced; the new one looks for itself")
        self.no_swap.clear()
        release = self.releases.begin(staged)
        try:
            self.releases.switch(release)
        except (SwapError, OSError) as error:
            return self._fail(release, str(error), blamed=False)
        return self._conclude(release, self._reloaded())

    def _reloaded(self) -> Reloaded:
        try:
            return self._reload()
        except Exception as error:  # whatever it is, what was in place goes back there
            return Reloaded(False, f"{type(error).__name__}: {error}")

    def _conclude(self, release: Release, reloaded: Reloaded) -> Outcome:
        if not reloaded.ok:
            return self._fail(release, reloaded.reason, blamed=not reloaded.again)
        self.releases.state.refused = None
        self.releases.confirm()
        text = f"{name_of(release.version)} from {self._source} serves"
        return Outcome("upgraded", text, release.version)

    def _fail(self, release: Release, reason: str, blamed: bool) -> Outcome:
        """Go back to the release before; a version that is blamed is not tried again."""
        pending = self.releases.state.pending or {}
        before = self.releases.state.find(pending["from"])
        if not blamed:
            pending.pop("marks", None)
        elif "fingerprint" in pending:
            self.releases.state.refused = refusal(pending["fingerprint"], release.version, reason)
        name, target = name_of(release.version), self.releases.target
        if not self.releases.undo():
            back = f"{target} was switched by somebody else meanwhile, and stays so"
        elif before is not None:
            back = f"{name_of(before.version or before.tag)} is back in place"
        else:
            back = "removed"
        text = f"{name} from {self._source}: {reason}; {back}"
        return Outcome("failed", text, release.version)

    def roll_back(self) -> Outcome:
        """Put the release before the one in place back there, and have it serve."""
        release = self.releases.begin_roll_back()
        self.no_swap.clear()
        name = name_of(release.version or release.tag)
        try:
            self.releases.switch(release)
        except (SwapError, OSError) as error:
            reloaded = Reloaded(False, str(error))
        else:
            reloaded = self._reloaded()
        if reloaded.ok:
            self.releases.confirm()
            return Outcome("upgraded", f"rolled back: {name} serves", release.version)
        same = "nothing has changed" if self.releases.undo() else "somebody else has switched it"
        text = f"cannot roll back to {name}: {reloaded.reason}; {same}"
        return Outcome("failed", text, release.version)
