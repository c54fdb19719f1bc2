"""Watch a file, a folder or a symlink, and reload when its content has changed."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import select
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Callable, Optional, Union

from endless_py import _api as control
from endless_py._reload import process
from endless_py._support import log
from endless_py.upgrade import files
from endless_py.upgrade.inotify import CONTENT, NAMES, Inotify, is_remote
from endless_py.upgrade.reloading import is_in_charge

ALWAYS_IGNORED = ("__pycache__", "*.pyc", ".*", "*~")
_SETTLE = 0.5  # seconds between two looks at something that has just changed
_FOREVER = 86400.1  # seconds
_LONGEST_CHAIN = 40  # symlinks, as the kernel has it

# What os.stat() says of each path: cheap, and different whenever the content may be.
Signature = tuple[tuple[str, tuple[object, ...]], ...]


class Watch:
    """Watches a path in a daemon thread. Made by `watch()`."""

    def __init__(
        self,
        path: Union[str, os.PathLike[str]],
        on_change: Callable[[str], object],
        interval: float,
        settle: float,
        ignore: Sequence[str],
        events: bool,
    ):
        if not (0 < interval < _FOREVER and 0 < settle < _FOREVER):
            raise ValueError("interval and settle must be more than 0 seconds, at most a day")
        self.path = os.path.abspath(path)
        self.interval = interval
        self.settle = settle
        self._on_change = on_change
        self._ignore = (*ALWAYS_IGNORED, *ignore)
        self._wake, self._woken = os.pipe()
        self._stopping = False
        self._ended = False
        self._ending = threading.Lock()
        self._inotify: Optional[Inotify] = None
        if events:
            with suppress(OSError):
                self._inotify = Inotify()
        self._listen()
        self._signature = self._sign()
        self._digest = self._digest_now()
        if not self._signature:
            template = "watch: there is no %(path)s yet; looks for it"
            process.current.log(log.WARNING, template, "nothing_to_watch", path=path)
        self._thread = threading.Thread(target=self._run, name="endless_py watch", daemon=True)
        self._thread.start()

    @property
    def polls(self) -> bool:
        """Whether it looks every `interval` seconds, since nothing tells it of changes."""
        return self._inotify is None

    def stop(self) -> None:
        """Watch no more; wait until a callback that is running has returned."""
        with self._ending:
            if not self._stopping and not self._ended:
                os.write(self._woken, b"x")
            self._stopping = True
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping and is_in_charge():
                self._wait()
                # What events tell after this process was replaced, the successor hears too.
                # A poll looks once more: the change may have come just before.
                if self._stopping or not (self.polls or is_in_charge()):
                    return
                if self._changed():
                    self._tell()
        finally:
            if self._inotify is not None:
                self._inotify.close()
            with self._ending:  # stop() must not write to what has these numbers next
                self._ended = True
                os.close(self._wake)
                os.close(self._woken)

    def _wait(self) -> None:
        if self._inotify is not None:
            self._inotify.wait(self._wake)
        else:
            self._pause(self.interval)

    def _changed(self) -> bool:
        """Whether the content is another one than before, once nobody writes it any more."""
        self._listen()
        signature = self._sign()
        if signature == self._signature:
            return False
        while True:
            self._pause(self.settle)
            if self._stopping:
                return False
            self._listen()
            again = self._sign()
            digest = self._digest_now() if again == signature and again else None
            if digest is not None and self._sign() == again:
                break
            signature = again
            if not again:
                return False  # it is gone: a rename's first half, or for good
        self._signature = again
        changed = digest != self._digest
        self._digest = digest
        return changed

    def _pause(self, seconds: float) -> None:
        """Wait, or until stop(). Events come by the dozen while a copy is written."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.poll(max(1, int(seconds * 1000)))

    def _tell(self) -> None:
        target = os.path.realpath(self.path)
        text = f"{self.path} has changed"
        if target != self.path:
            text = f"{self.path} now leads to {target}, or that has changed"
        try:
            self._on_change(text)
        except Exception as error:
            process.current.log(
                log.ERROR,
                "watch: %(what)s; the callback failed: %(reason)s",
                "watch_callback",
                what=text,
                reason=f"{type(error).__name__}: {error}",
            )

    # -- what there is ----------------------------------------------------

    def _chain(self) -> list[str]:
        """The path and, when it is a symlink, what it leads to, one after the other."""
        chain = [self.path]
        while len(chain) < _LONGEST_CHAIN:
            try:
                link = os.readlink(chain[-1])
            except OSError:
                break
            chain.append(os.path.normpath(os.path.join(os.path.dirname(chain[-1]), link)))
        return chain

    def _ignored(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._ignore)

    def _below(self, top: str) -> Iterator[str]:
        """Everything in a folder that counts, in one order."""
        for folder, folders, names in os.walk(top):
            folders[:] = sorted(name for name in folders if not self._ignored(name))
            for name in sorted([*folders, *(n for n in names if not self._ignored(n))]):
                yield os.path.join(folder, name)

    def _sign(self) -> Signature:
        """What there is, by stat(); empty when the path leads nowhere."""
        chain = self._chain()
        if not os.path.exists(self.path):
            return ()
        found = []
        for path in [*chain, *self._below(chain[-1])]:
            with suppress(OSError):
                status = os.lstat(path)
                facts: tuple[object, ...] = (status.st_dev, status.st_ino, status.st_mode)
                if not stat.S_ISDIR(status.st_mode):  # its entries are listed
                    facts += (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                found.append((path, facts))
        return tuple(found)

    def _digest_now(self) -> Optional[str]:
        """A digest of names and contents; None when it cannot be read now."""
        digest = hashlib.sha256()
        chain = self._chain()
        try:
            for path in [*chain, *self._below(chain[-1])]:
                mode = os.lstat(path).st_mode
                digest.update(os.fsencode(path) + b"\0%o\0" % stat.S_IFMT(mode))
                if stat.S_ISLNK(mode):
                    digest.update(os.fsencode(os.readlink(path)) + b"\0")
                elif stat.S_ISREG(mode):
                    digest.update(files.sha256(Path(path)).encode())
        except OSError:
            return None
        return digest.hexdigest()

    def _listen(self) -> None:
        """Have events of all that is there, before it is looked at; else poll from now on."""
        if self._inotify is None:
            return
        chain = self._chain()
        # Of a folder around it only the names: there may be a log in it.
        places = {os.path.dirname(path): NAMES for path in chain}
        places[chain[-1]] = CONTENT
        try:
            if any(map(is_remote, places)):
                raise OSError("its file system changes unseen")
            below = [path for path in self._below(chain[-1]) if os.path.isdir(path)]
            self._inotify.watch({**places, **dict.fromkeys(below, CONTENT)})
        except OSError as error:
            process.current.log(
                log.INFO,
                "watch: looks at %(path)s every %(seconds)g s: %(reason)s",
                "watch_polls",
                path=self.path,
                seconds=self.interval,
                reason=str(error),
            )
            self._inotify.close()
            self._inotify = None


def _reload(text: str) -> None:
    process.current.log(log.INFO, "watch: %(what)s; reloads", "watched_changed", what=text)
    control.reload()


def watch(
    path: Union[str, os.PathLike[str]],
    on_change: Callable[[str], object] = _reload,
    interval: float = 2.0,
    settle: float = _SETTLE,
    ignore: Sequence[str] = (),
    events: bool = True,
) -> Watch:
    """Reload when what `path` is, has in it or leads to gets another content.

    path        a file, a folder or a symlink; what it leads to is found afresh each time
    on_change   called with one line that says what has changed; default: reload
    interval    seconds between looks where the system does not tell of changes (it does on
                Linux, except for network file systems); default 2
    settle      seconds for which something that changes must have been left alone before it
                counts, so that a copy is complete; default 0.5
    ignore      patterns of more names in a folder that do not count; always ignored are
                __pycache__, *.pyc, *~ and names that begin with a dot
    events      False looks every interval in any case

    New times alone do not count. A version whose reload failed is not tried again until it
    changes once more. Watching ends when this process drains; call it at each start, before
    serve_forever(). Returns an object with stop().
    """
    return Watch(path, on_change, interval, settle, ignore, events)
