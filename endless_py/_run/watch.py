"""Reload when a module that the program has imported changes.

What is watched is every module outside of the standard library, those that are imported while it
serves included. After a reload that failed, other modules beside them count as well: the new code
may have failed in one that this process does not know.
"""

from __future__ import annotations

import hashlib
import os
import select
import sys
import sysconfig
import threading
import time
from contextlib import suppress

from endless_py import _api as control
from endless_py._reload import process
from endless_py._support import log
from endless_py.upgrade.inotify import NAMES, Inotify, is_remote
from endless_py.upgrade.reloading import is_in_charge

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Optional

_SETTLE = 0.5  # seconds for which what has changed is left alone before it counts
_CLOSED = 0x8  # IN_CLOSE_WRITE, and not each write: a log may stand beside a module
_SITES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class Quiet:
    """The process's log while one works on the program: a reload is one line, the watch's own.

    What else a reload says at the information level is for operators; here it goes to debug.
    """

    def __init__(self) -> None:
        self._log = process.current.log
        self.hushed = process.current.generation > 0
        vars(process.current)["log"] = self

    def __call__(self, level: int, text: str, *more: Any, **fields: Any) -> None:
        hush = self.hushed and level == log.INFO and not text.startswith("watch: ")
        self._log(log.DEBUG if hush else level, text, *more, **fields)


class ModuleWatch:
    """Watches from the moment at which the servers serve, and notes before when modules are read.

    It is a finder that finds nothing: so it hears of each module before that is read. A file that
    was written after that has changed; one that the program itself writes and then imports has not.
    """

    def __init__(self, interval: float) -> None:
        """interval is in seconds, between two looks where the system does not tell of changes."""
        self._interval = interval
        self._quiet = Quiet()
        self._read = {"__main__": time.time()}  # from when on a module's file may have been read
        paths = sysconfig.get_paths()
        self._library = tuple({paths[name] + os.sep for name in ("stdlib", "platstdlib")})
        self._modules: dict[str, object] = {}  # what is known of each file
        self._beside: dict[str, object] = {}
        self._contents: dict[str, tuple[object, object]] = {}
        self._inotify: Optional[Inotify] = None
        self._imports = True  # since the last look; nobody is to be woken yet
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        self._thread: Optional[threading.Thread] = None
        sys.meta_path.insert(0, self)

    def start(self) -> None:
        """Watch from now on, in a daemon thread; does nothing a second time."""
        if self._thread is None:
            with suppress(OSError):
                self._inotify = Inotify()
            self._thread = threading.Thread(target=self._run, name="endless_py watch", daemon=True)
            self._thread.start()

    def find_spec(self, name: str, *_: Any) -> None:
        """It is imported: whoever finds it, it is watched from now on."""
        self._read[name] = time.time()
        if not self._imports:
            self._imports = True
            with suppress(OSError):
                os.write(self._woken, b"x")

    def _run(self) -> None:
        changed = self._settled()
        while True:
            # One that drains has a successor that watches; it may come back, should that one die.
            if changed and is_in_charge():
                template = "watch: %(path)s has changed; reloads"
                process.current.log(log.INFO, template, "module_changed", path=changed[0])
                self._quiet.hushed = True
                control.reload()
            self._wait()
            changed = self._settled()

    def _wait(self) -> None:
        if self._inotify is not None:
            self._inotify.wait(self._wake)
        else:
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            poll.poll(self._interval * 1000)
        with suppress(BlockingIOError):
            while os.read(self._wake, 64):
                pass

    # -- what there is ----------------------------------------------------

    def _settled(self) -> list[str]:
        """Return the files that have changed, once none does any more."""
        found: dict[str, None] = {}
        while True:
            if self._inotify is not None or found:
                time.sleep(_SETTLE)
            changed = self._look()
            if not changed:
                return list(found)
            found.update(dict.fromkeys(changed))

    def _look(self) -> list[str]:
        """Return the files that have changed since the last look, as far as they count."""
        self._imports = False  # before the look: what is imported after it wakes this thread
        read = dict(self._files())
        files = read.keys()
        # A module that is imported now was read now; what is gone may come back, as in a rename.
        known = {path: self._facts(path) or self._modules.get(path) for path in files}
        folders = {os.path.dirname(path) for path in files}
        beside = {
            path: self._facts(path)
            for folder in folders
            if not any(site in folder + os.sep for site in _SITES)
            for path in _sources(folder)
            if path not in files
        }
        changed = [path for path, was in self._modules.items() if known.get(path, was) != was]
        now = time.time()  # what claims to be of later than that says nothing
        new = files - self._modules.keys()
        changed += [path for path in new if read[path] < _changed_at(path) <= now]
        last = control.state()["last_reload"]
        if last is not None and not last["ok"]:
            changed += [path for path, is_now in beside.items() if self._beside.get(path) != is_now]
        self._modules, self._beside = known, beside
        self._listen(folders)
        return changed

    def _files(self) -> Iterator[tuple[str, float]]:
        """Yield the file of each module that is not the standard library's, and when it was read.

        Not known for what was read before the program began.
        """
        for module_name, module in list(sys.modules.items()):
            name = getattr(module, "__file__", None)
            if not isinstance(name, str):
                continue
            path = os.path.abspath(name)
            if not path.startswith(self._library) or any(site in path for site in _SITES):
                yield path, self._read.get(module_name, float("inf"))

    def _facts(self, path: str) -> object:
        """Return what changes with a file's content; None when it is not there.

        Of an installed package that is what stat() says. A file of the program's own is read: it
        may be one that each start writes anew.
        """
        found = _stat(path)
        if found is None or any(site in path for site in _SITES):
            return found
        known = self._contents.get(path)
        if known is None or known[0] != found:
            try:
                with open(path, "rb") as file:
                    known = found, hashlib.sha256(file.read()).digest()
            except OSError:
                return None
            self._contents[path] = known
        return known[1]

    def _listen(self, folders: set[str]) -> None:
        """Have events of these folders, else look at their files from time to time."""
        if self._inotify is None:
            return
        try:
            if any(map(is_remote, folders)):
                raise OSError("a file system of them changes unseen")
            self._inotify.watch(dict.fromkeys(folders, NAMES | _CLOSED))
        except OSError as error:
            process.current.log(
                log.INFO,
                "watch: looks at the modules every %(seconds)g s: %(reason)s",
                "watch_polls",
                seconds=self._interval,
                reason=str(error),
            )
            self._inotify.close()
            self._inotify = None


def _stat(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _changed_at(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _sources(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [os.path.join(folder, name) for name in names if name.endswith(".py")]
