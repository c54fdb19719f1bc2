"""Updater: look again and again, swap, reload, and back again when that fails."""

from __future__ import annotations

import atexit
import os
import random
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Callable, Optional, Union

from endless_py._reload import process
from endless_py._support import log
from endless_py.upgrade import files, worker
from endless_py.upgrade.acts import Acts
from endless_py.upgrade.check import Check, Function, NoDowngrade
from endless_py.upgrade.errors import SwapError
from endless_py.upgrade.look import Look, Outcome
from endless_py.upgrade.place import Busy
from endless_py.upgrade.reloading import Reloaded, is_in_charge, is_starting, reload_and_wait
from endless_py.upgrade.sources import Source
from endless_py.upgrade.starting import DryStart
from endless_py.upgrade.swap import Releases, Staged

_LONGEST_BACK_OFF = 3600.0  # seconds, unless the interval itself is longer
_LAST_STEPS = 5.0  # seconds for what is left of a swap when the process ends
_UNTIL_READY = 0.1  # seconds between two looks at whether an unproven version serves
_FAILURES = ("error", "refused", "failed")


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
    hour. A version that was refused or failed is not tried again until it changes. One that
    is in place when its process or the machine stops before it was ready gets a second start,
    and is left for the one before it when that does not get ready either.
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
        max_size: int = worker.MAX_SIZE,
    ):
        if interval <= 0 or not 0 <= jitter < 1:
            raise ValueError("interval must be more than 0 seconds, jitter from 0 to below 1")
        self.source = source
        self.releases = Releases(target, releases, keep)
        self.interval = interval
        self.jitter = jitter
        self._acts = Acts(self.releases, str(source), reload)
        all_checks = [c if isinstance(c, Check) else Function(c) for c in checks]
        if not downgrades:
            all_checks.append(NoDowngrade())
        if dry_start is not False:  # last: the cheap ones come before it
            all_checks.append(dry_start if isinstance(dry_start, DryStart) else DryStart())
        self._look = Look(source, self.releases, all_checks, max_size)
        self._looking = threading.Lock()
        self._said = ""  # the last failure, without its numbers
        self._was_error = False
        self._failures = 0
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
        # Errors come again, and are logged, with the first look.
        with suppress(SwapError, OSError):
            self._acts.take_over()
        self._stopping.clear()
        process.current.answers.updater = self
        atexit.register(self._at_exit)
        self._thread = threading.Thread(target=self._run, name="endless_py updater", daemon=True)
        self._thread.start()
        return self

    def stop(self, timeout: Optional[float] = None) -> None:
        """Look no more; wait, at most `timeout` seconds (None: as long as it takes), for a look
        that is under way."""
        self._stopping.set()
        if process.current.answers.updater is self:
            process.current.answers.updater = None
        atexit.unregister(self._at_exit)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _prove(self) -> None:
        """Wait until this process is ready: that alone proves the version that it runs."""
        while is_starting() and not self._stopping.wait(_UNTIL_READY):
            pass
        if not self._stopping.is_set() and is_in_charge():
            with suppress(SwapError, OSError):
                self._acts.prove()

    def _run(self) -> None:
        if self._acts.own is not None:
            self._prove()
        wait = random.uniform(0, self.interval)
        while not self._stopping.wait(wait) and is_in_charge():
            outcome = self.look()
            if outcome.result == "upgraded":
                return  # the generation that serves now looks for itself
            wait = self.pause_after(outcome)

    def _at_exit(self) -> None:
        """The new generation serves, and the last steps of the swap are to be done."""
        self._acts.no_swap.wait(_LAST_STEPS)

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
                    self._acts.recover()
                    outcome = self._acts.settle() or act()
                    self.releases.clear_staging()
                    self.releases.note_look(outcome.result, files.printable(outcome.text))
            except Busy as error:
                outcome = Outcome("busy", str(error))
            except (SwapError, OSError) as error:
                outcome = Outcome("error", f"cannot upgrade {self.releases.target}: {error}")
            except Exception as error:  # the background thread goes on, whatever it was
                outcome = Outcome("error", f"look failed: {type(error).__name__}: {error}")
            outcome = replace(outcome, text=files.printable(outcome.text))
            self._say(outcome)
            if tell is not None:
                tell(outcome)
            self._acts.no_swap.set()
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
        found = self._look.run(check_only, again)
        if isinstance(found, Staged):
            found = self._acts.swap(found)
        self.releases.state.source = str(self.source)
        return found

    def roll_back(self) -> Outcome:
        """Put the release before the one in place back there, and reload.

        The release that is left is not taken from the source again until it changes.
        """
        return self._locked(self._acts.roll_back)

    def _say(self, outcome: Outcome) -> None:
        """Log what is new; numbers in a text, such as a waiting time, make nothing new."""
        if outcome.result == "busy":
            return
        failed = outcome.result in _FAILURES
        self._failures = self._failures + 1 if outcome.result == "error" else 0
        said, self._said = self._said, re.sub(r"\d+", "#", outcome.text) if failed else ""
        if outcome.result == "unchanged":
            if said and self._was_error:
                text = f"{self.source} can be asked again"
                process.current.log(log.INFO, "upgrade: %(reason)s", "upgrade", reason=text)
        elif not failed or said != self._said:
            level = log.ERROR if failed else log.INFO
            process.current.log(level, "upgrade: %(reason)s", "upgrade", reason=outcome.text)
        self._was_error = outcome.result == "error"


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
