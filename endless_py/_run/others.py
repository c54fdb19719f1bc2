"""What other people's code does that a reload cannot go together with, and what is done about it.

Reloaders start the program a second time, and a parent that only waits: here the reload is ours.
A handler for HUP of the program's own stays, or is put aside when that was asked for.
"""

from __future__ import annotations

import functools
import importlib.machinery
import signal
import sys
from contextlib import suppress

from endless_py._reload import process
from endless_py._reload.signals import RELOAD
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Callable, Optional, Sequence

# The modules whose run_with_reloader() starts the program a second time.
_RELOADERS = ("werkzeug._reloader", "django.utils.autoreload")


class ReloadersStayOff:
    """A finder that finds nothing, but has these modules changed when they are imported."""

    def __init__(self, hint: str) -> None:
        """hint says, in a line for the log, what takes their place."""
        self._hint = hint

    def find_spec(
        self, name: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        if name not in _RELOADERS:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                loader: Any = spec.loader
                loader.exec_module = functools.partial(self._execute, loader.exec_module)
                return spec
        return None

    def _execute(self, execute: Callable[[ModuleType], None], module: Any) -> None:
        execute(module)
        if hasattr(module, "run_with_reloader"):
            module.run_with_reloader = functools.partial(self._run, module.__name__)

    def _run(self, module: str, main: Callable[..., object], *given: Any, **options: Any) -> None:
        if module == "werkzeug._reloader":  # the options are the reloader's own
            given, options = (), {}
        template = "the reloader of %(library)s stays off: %(hint)s"
        process.current.log(log.INFO, template, "reloader_off", library=module, hint=self._hint)
        with suppress(KeyboardInterrupt):  # as it does
            main(*given, **options)


class HangUps:
    """Stands before signal.signal(), to see what the program does with the signal to reload."""

    def __init__(self, take: bool) -> None:
        """take says whether a handler of the program's own is put aside."""
        self._take = take
        self._said = False
        self._signal = signal.signal
        signals = process.current.signals
        signals.hint = "run it with --take-hup, and the signal reloads"
        functools.update_wrapper(self, signal.signal)
        signal.signal = self  # type: ignore[assignment]

    def __call__(self, number: Any, handler: Any) -> Any:
        signals = process.current.signals
        caller = str(sys._getframe(1).f_globals.get("__name__"))
        if signals.roles.get(number) != RELOAD or caller.startswith("endless_py."):
            return self._signal(number, handler)
        name = signal.Signals(number).name
        if self._take:
            text = "the program's own %(signal)s handler is put aside: %(signal)s reloads"
            self._say(log.INFO, text, "handler_put_aside", signal=name)
            return signal.getsignal(number)
        before = self._signal(number, handler)
        if number in signals.ours(RELOAD) and callable(handler):  # the first server was there
            self._say(
                log.WARNING,
                "the program has a %(signal)s handler of its own, which stays; %(hint)s",
                "handler_stays",
                signal=name,
                hint=signals.hint,
            )
        return before

    def _say(self, level: int, template: str, event: str, **fields: str) -> None:
        if not self._said:
            self._said = True
            process.current.log(level, template, event, **fields)


def keep_off(watches: bool, take_hup: bool) -> None:
    """Before the program is imported: keep its reloaders off, and see to its handler for HUP.

    watches says that a change of a module reloads.
    """
    if watches:
        hint = "--watch takes its place"
    else:
        hint = "HUP reloads; with --watch a change of a module does"
    sys.meta_path.insert(0, ReloadersStayOff(hint))
    HangUps(take_hup)
