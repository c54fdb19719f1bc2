"""Updater: look, fetch, check, swap, reload, and back again when that fails."""

from __future__ import annotations

import atexit
import hashlib
import os
import random
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

from endless_py._reload import process
from endless_py._support import log
from endless_py.upgrade import archive, files
from endless_py.upgrade.check import (
    Candidate,
    Check,
    DryStart,
    Function,
    NoDowngrade,
    version_inside,
)
from endless_py.upgrade.errors import Refused, SourceError, SwapError
from endless_py.upgrade.reloading import Reloaded, is_in_charge, reload_and_wait
from endless_py.upgrade.sources import Artifact, Known, Source, digest_of, named_beside
from endless_py.upgrade.swap import Busy, Release, Releases

_LONGEST_BACK_OFF = 3600.0  # seconds, unless the interval itself is longer
_LAST_STEPS = 5.0  # seconds for what is left of a swap when the process ends
_FAILURES = ("error", "refused", "failed")


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
    """An artifact, what identifies it, and where it may be unpacked."""

    artifact: Artifact
    digest: str
    fingerprint: str  # of the artifact and the files beside it
    folder: Path


class Updater:
    """Keeps a target at the newest version that a source has.

    source          where new versions come from
    target          what this program is started from: a file such as app.pyz, or a symlink
                    such as current, which archives need
    checks          what a new version has to pass: SHA256(), Ed25519(key), any Check, or a
                    function that takes the release's path and raises or returns False
    interval        seconds between looks of the background thread; default 300
    jitter          the part of the interval by which it varies; default 0.1
    keep            how many releases are kept, the one in place included; default 3
    releases        the folder that has them; default `releases` beside the target
    downgrades      whether an older version is taken; default False
    dry_start       whether a new version has to start in a process of its own first: True
                    (default), False, or a DryStart with settings of its own
    reload          what makes the program run what is in place, waits until that serves or
                    has failed, and says so; default: reload this process
    max_size        bytes that an archive may unpack to; default 4 GiB

    Errors of the source are logged once, not at each look, and double the interval up to an
    hour. A version that was refused or failed is not tried again until it changes.
    """

    def __init__(
        self,
        source: Source,
        target: Union[str, os.PathLike[str]],
        checks: Sequence[Union[Check, Callable[[Path], object]]] = (),
        interval: float = 300.0,
        jitter: float = 0.1,
        keep: int = 3,
        releases: Union[str, os.PathLike[str], None] = None,
        downgrades: bool = False,
        dry_start: Union[bool, DryStart] = True,
        reload: Callable[[], Reloaded] = reload_and_wait,
        max_size: int = archive.MAX_SIZE,
    ):
        if interval <= 0 or not 0 <= jitter < 1:
            raise ValueError("interval must be more than 0 seconds, jitter from 0 to below 1")
        self.source = source
        self.releases = Releases(target, releases, keep)
        self.interval = interval
        self.jitter = jitter
        self.max_size = max_size
        self._reload = reload
        all_checks = [c if isinstance(c, Check) else Function(c) for c in checks]
        if not downgrades:
            all_checks.append(NoDowngrade())
        if dry_start is not False:  # last: the cheap ones come before it
            all_checks.append(dry_start if isinstance(dry_start, DryStart) else DryStart())
        self._checks = all_checks
        self._beside = list(dict.fromkeys(name for c in all_checks for name in c.beside))
        self._looking = threading.Lock()
        self._said = ""  # the last failure, without its numbers
        self._was_error = False
        self._failures = 0
        self._no_swap = threading.Event()
        self._no_swap.set()
        self._stopping = threading.Event()
        self._thread: Optional[threading.Thread] = None

    # -- in the background ------------------------------------------------

    def start(self) -> Updater:
        """Look again and again, in a daemon thread, until stop() or until a reload succeeded.

        The first look comes after a random part of the interval, so that many machines
        started together do not ask together. What an earlier process left under way is
        finished here, before this returns.
        """
        if self._thread is not None and self._thread.is_alive():
            raise RuntimeError("this Updater is already started")
        # Busy: the predecessor waits for us to be ready. Other errors come again, and are
        # logged, with the first look.
        with suppress(SwapError), self.releases.lock():
            self._recover()
        self._stopping.clear()
        process.current.askers.updater = self
        atexit.register(self._at_exit)
        self._thread = threading.Thread(target=self._run, name="endless_py updater", daemon=True)
        self._thread.start()
        return self

    def stop(self, timeout: Optional[float] = None) -> None:
        """Look no more; wait, at most `timeout` seconds (None: as long as it takes), for a look
        that is under way."""
        self._stopping.set()
        if process.current.askers.updater is self:
            process.current.askers.updater = None
        atexit.unregister(self._at_exit)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        wait = random.uniform(0, self.interval)
        while not self._stopping.wait(wait) and is_in_charge():
            outcome = self.look()
            if outcome.result == "upgraded":
                return  # the generation that serves now looks for itself
            wait = self.pause_after(outcome)

    def _at_exit(self) -> None:
        """The new generation serves, and the last steps of the swap are to be done."""
        self._no_swap.wait(_LAST_STEPS)

    def pause_after(self, outcome: Outcome) -> float:
        """Seconds until the next look of the background thread."""
        longest = max(_LONGEST_BACK_OFF, self.interval)
        wait: float = min(self.interval * 2.0 ** min(self._failures, 30), longest)
        wait *= random.uniform(1 - self.jitter, 1 + self.jitter)
        return max(wait, outcome.retry_after or 0.0)

    # -- one look ---------------------------------------------------------

    def look(
        self,
        check_only: bool = False,
        again: bool = False,
        tell: Optional[Callable[[Outcome], object]] = None,
    ) -> Outcome:
        """Look for a new version now and, unless check_only is set, put it in place.

        again tries a version that was refused or failed once more. Any thread may call this;
        it returns when the outcome is known. Nothing is raised for what the outcome says.
        tell is called with it before a process that was replaced may end.
        """
        return self._locked(lambda: self._look_locked(check_only, again), tell)

    def _locked(
        self, act: Callable[[], Outcome], tell: Optional[Callable[[Outcome], object]] = None
    ) -> Outcome:
        """Do one act that nobody else does at the same time, and say what it led to."""
        with self._looking:
            try:
                with self.releases.lock():
                    self._recover()
                    outcome = act()
                    self.releases.note_look(outcome.result, outcome.text)
            except Busy as error:
                outcome = Outcome("busy", str(error))
            except (SwapError, OSError) as error:
                outcome = Outcome("error", f"cannot upgrade {self.releases.target}: {error}")
            except Exception as error:  # the background thread goes on, whatever it was
                outcome = Outcome("error", f"look failed: {type(error).__name__}: {error}")
            self._say(outcome)
            if tell is not None:
                tell(outcome)
            self._no_swap.set()
            return outcome

    def look_for(self, check_only: bool, tell: Callable[[dict[str, Any]], None]) -> None:
        """Look in a thread, for whoever asked by `python -m endless_py upgrade`."""

        def look() -> None:
            self.look(check_only, again=True, tell=lambda outcome: tell(asdict(outcome)))

        threading.Thread(target=look, name="endless_py upgrade", daemon=True).start()

    def status(self) -> dict[str, Any]:
        """As `upgrade.status()`, for this target; {"error": why} when that cannot be read."""
        try:
            return status(self.releases.target, self.releases.folder)
        except SwapError as error:
            return {"error": str(error)}

    def _look_locked(self, check_only: bool, again: bool) -> Outcome:
        outcome = self._guarded(check_only, again)
        files.remove(self.releases.staging())
        self.releases.state.source = str(self.source)
        return outcome

    def _recover(self) -> None:
        self.releases.load()
        recovered = self.releases.recover()
        if recovered:
            process.current.log(log.WARNING, f"upgrade: {recovered}")
        in_place = self.releases.in_place()
        if in_place is not None and in_place.version is None:
            in_place.version = version_inside(self.releases.folder / in_place.path)

    def _guarded(self, check_only: bool, again: bool) -> Outcome:
        try:
            fetched = self._fetch(again)
        except SourceError as error:
            return Outcome("error", str(error), retry_after=error.retry_after)
        except Refused as error:
            return Outcome("error", f"what {self.source} has is refused: {error}")
        except Exception as error:  # a user's source may raise what it likes
            return Outcome("error", f"{self.source} failed: {type(error).__name__}: {error}")
        if fetched is None:
            return self._unchanged()
        state = self.releases.state
        in_place = state.find(state.current)
        marks = dict(fetched.artifact.marks)
        refused = state.refused or {}
        if in_place is not None and in_place.digest == fetched.digest:
            state.marks = marks
            return self._unchanged()
        if not again and fetched.fingerprint == refused.get("fingerprint"):
            state.marks = marks
            return self._unchanged()
        version = fetched.artifact.version
        try:
            release = self._unpack(fetched)
            # What is inside the artifact is what was signed.
            version = version_inside(release) or version
            self._check(fetched.artifact, release, version, first=False)
        except Refused as error:
            name = _name(version) if version else fetched.artifact.path.name
            text = f"{name} from {self.source} is refused: {error}"
            if not check_only:
                state.marks = marks
                state.refused = self._refusal(fetched, version, str(error))
            return Outcome("refused", text, version)
        name = _name(version)
        if check_only:
            return Outcome("available", f"{name} from {self.source} passed every check", version)
        if not is_in_charge():
            return Outcome("busy", "this process is being replaced; the new one looks for itself")
        self._no_swap.clear()
        return self._swap(fetched, release, version)

    def _fetch(self, again: bool) -> Optional[_Fetched]:
        state = self.releases.state
        current = state.find(state.current)
        known = None
        if state.looked:
            known = Known(
                current.version if current else None,
                current.digest if current else None,
                {} if again else state.marks,
            )
        staging = self.releases.staging()
        into = staging / "fetched"
        into.mkdir()
        artifact = self.source.fetch(known, into, self._beside)
        state.looked = True
        if artifact is None:
            return None
        names = named_beside(artifact.path.name, self._beside)
        fingerprint = hashlib.sha256(
            digest_of(artifact.path.parent, [artifact.path.name, *names]).encode()
        ).hexdigest()
        return _Fetched(artifact, files.sha256(artifact.path), fingerprint, staging / "unpacked")

    def _unchanged(self) -> Outcome:
        state = self.releases.state
        current = state.find(state.current)
        version = current.version if current else None
        text = f"nothing new at {self.source}"
        if current is not None:
            text += f"; {_name(current.version or current.tag)} is in place"
        if state.refused:
            text += f"; {_name(state.refused['version'])} was not taken: {state.refused['reason']}"
        return Outcome("unchanged", text, version)

    def _unpack(self, fetched: _Fetched) -> Path:
        """Return the release, once the artifact itself is what was published. Raises Refused."""
        artifact = fetched.artifact
        self._check(artifact, artifact.path, artifact.version, first=True)
        try:
            self.releases.check_kind(archive.is_archive(artifact.path.name))
        except SwapError as error:
            raise Refused(str(error)) from error
        return archive.unpack(artifact.path, fetched.folder, self.max_size)

    def _check(
        self, artifact: Artifact, release: Path, version: Optional[str], first: bool
    ) -> None:
        in_place = self.releases.state.find(self.releases.state.current)
        installed = in_place.version if in_place else None
        candidate = Candidate(artifact, release, self.releases.target, version, installed)
        for check in self._checks:
            if check.first == first:
                check.run(candidate)

    @staticmethod
    def _refusal(fetched: _Fetched, version: Optional[str], reason: str) -> dict[str, Any]:
        return {"fingerprint": fetched.fingerprint, "version": version, "reason": reason}

    def _swap(self, fetched: _Fetched, staged: Path, version: Optional[str]) -> Outcome:
        releases, name = self.releases, _name(version)
        release = releases.begin(staged, version, fetched.digest, dict(fetched.artifact.marks))
        before = releases.state.find((releases.state.pending or {})["from"])
        reloaded = self._switch_and_reload(release)
        if reloaded.ok:
            releases.state.refused = None
            releases.confirm()
            return Outcome("upgraded", f"{name} from {self.source} serves", version)
        if reloaded.again and releases.state.pending is not None:
            del releases.state.pending["marks"]
        else:
            releases.state.refused = self._refusal(fetched, version, reloaded.reason)
        releases.undo(reloaded.reason)
        back = f"{_name(before.version or before.tag)} is back in place" if before else "removed"
        return Outcome("failed", f"{name} from {self.source}: {reloaded.reason}; {back}", version)

    def _switch_and_reload(self, release: Release) -> Reloaded:
        try:
            self.releases.switch(release)
            return self._reload()
        except Exception as error:  # whatever it is, what was in place goes back there
            return Reloaded(False, f"{type(error).__name__}: {error}")

    def roll_back(self) -> Outcome:
        """Put the release before the one in place back there, and reload.

        The release that is left is not taken from the source again until it changes.
        """
        return self._locked(self._roll_back)

    def _roll_back(self) -> Outcome:
        release = self.releases.begin_roll_back()
        self._no_swap.clear()
        name = _name(release.version or release.tag)
        reloaded = self._switch_and_reload(release)
        if reloaded.ok:
            self.releases.confirm()
            return Outcome("upgraded", f"rolled back: {name} serves", release.version)
        self.releases.undo(reloaded.reason)
        text = f"cannot roll back to {name}: {reloaded.reason}; nothing has changed"
        return Outcome("failed", text, release.version)

    def _say(self, outcome: Outcome) -> None:
        """Log what is new; numbers in a text, such as a waiting time, make nothing new."""
        if outcome.result == "busy":
            return
        failed = outcome.result in _FAILURES
        self._failures = self._failures + 1 if outcome.result == "error" else 0
        said, self._said = self._said, re.sub(r"\d+", "#", outcome.text) if failed else ""
        if outcome.result == "unchanged":
            if said and self._was_error:
                process.current.log(log.INFO, f"upgrade: {self.source} can be asked again")
        elif not failed or said != self._said:
            process.current.log(log.ERROR if failed else log.INFO, f"upgrade: {outcome.text}")
        self._was_error = outcome.result == "error"


def _name(version: Optional[str]) -> str:
    return f"version {version}" if version else "a version without a number"


def status(
    target: Union[str, os.PathLike[str]], releases: Union[str, os.PathLike[str], None] = None
) -> dict[str, Any]:
    """What is known of a target's upgrades, in plain types that json can write.

    Keys: target, version and release (in place), source, last_look (at, a Unix time; result;
    text; None before the first), refused (version, reason; None when nothing was), under_way
    (the release that is being put in place), kept (releases, the newest last).
    """
    found = Releases(target, releases)
    state = found.load()
    current = state.find(state.current)
    refused = state.refused
    return {
        "target": str(found.target),
        "version": current.version if current else None,
        "release": current.tag if current else None,
        "source": state.source,
        "last_look": state.last_look,
        "refused": {k: refused[k] for k in ("version", "reason")} if refused else None,
        "under_way": state.pending["to"] if state.pending else None,
        "kept": [release.tag for release in state.releases],
    }
