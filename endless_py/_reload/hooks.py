"""What a program wants called, and when."""

from __future__ import annotations

import functools
import threading

from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable

    Hook = Callable[[], Any]

READY = "ready"
DRAINING = "draining"
DRAINED = "drained"


class Hooks:
    """Lists of functions without arguments, called in the order in which they were added.

    Nothing of ours is locked while one of them runs.
    """

    def __init__(self, say: Callable[..., None]) -> None:
        self._say = say
        self.before_reload: list[Hook] = []
        self.checks: list[Hook] = []
        self.steps: dict[str, list[Hook]] = {READY: [], DRAINING: [], DRAINED: []}
        # Called with the worker's number.
        self.worker_start: list[Callable[[int], Any]] = []
        self.worker_exit: list[Callable[[int], Any]] = []
        self.before_signal: dict[int, list[Hook]] = {}
        self.after_signal: dict[int, list[Hook]] = {}
        self._lock = threading.Lock()
        self._checking = False
        self._servers = 0  # that are served in this process, as `run_worker_start()` is told
        self._prepared = False

    def run_checks(self) -> bool:
        """Call what has to pass before this process says ready; what it raises goes through.

        Each has to pass once. False: another thread, or this one further up, is calling them.
        """
        with self._lock:
            if self._checking:
                return False
            self._checking = True
        try:
            while self.checks:
                self.checks[0]()
                del self.checks[0]
        finally:
            self._checking = False
        return True

    def run_step(self, name: str) -> None:
        """Call what waits for this step of the process."""
        self.run(self.steps[name], f"{name} hook")

    def run_worker_start(self, number: int) -> None:
        """Call what prepares a process that is to serve; what it raises goes through.

        A process is prepared once, by its first server: what is called may start others.
        """
        with self._lock:
            self._servers += 1
            first, self._prepared = not self._prepared, True
        for hook in list(self.worker_start) if first else ():
            hook(number)

    def run_worker_exit(self, number: int, ends: bool = True) -> None:
        """Call what a process that has served does at its end, once: when it ends, or with the
        last of its servers. The loop of another one may be in a thread that nobody waits for.
        """
        with self._lock:
            self._servers = max(0, self._servers - 1)
            last = self._prepared and (ends or not self._servers)
            self._prepared = self._prepared and not last
        if not last:
            return
        found: list[Hook] = [_bound(hook, number) for hook in self.worker_exit]
        self.run(found, "on_worker_exit hook")

    def run(self, hooks: list[Hook], kind: str) -> None:
        """Call these; one that raises is logged, and keeps nothing from happening."""
        for hook in list(hooks):
            try:
                hook()
            except Exception as error:
                self._say(
                    log.ERROR,
                    "the %(kind)s %(hook)s raised %(reason)s; this goes on",
                    "hook_raised",
                    kind=kind,
                    hook=name_of(hook),
                    reason=repr(error),
                )


def _bound(hook: Callable[[int], Any], number: int) -> Hook:
    return functools.update_wrapper(functools.partial(hook, number), hook)


def name_of(hook: Hook) -> str:
    """Return a hook's name as its author wrote it."""
    return str(getattr(hook, "__qualname__", hook))
