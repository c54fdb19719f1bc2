"""A way in for tests of faults: told each step and move of a reload, silent without its variable.

ENDLESS_PY_FAULTS names a function, as PYTHONBREAKPOINT does: MODULE.FUNCTION, called with the
name of the step in the thread that takes it; a function `moved` beside it, if there is one, is told
each event of the process's machine. The variable is taken out of the environment at import, and
only generations to come get it again.
"""

from __future__ import annotations

import os
from importlib import import_module

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Callable, Optional

VARIABLE = "ENDLESS_PY_FAULTS"

_name = os.environ.pop(VARIABLE, None)
_called: Optional[Callable[[str], None]] = None
_moved: Optional[Callable[[str, str, str], None]] = None


def at(step: str) -> None:
    """This process is at a step; does nothing but in tests, where it may raise or never return."""
    if _called is not None:
        _called(step)


def moved(before: str, event: str, after: str) -> None:
    """The machine has heard an event; does nothing but in tests."""
    if _moved is not None:
        _moved(before, event, after)


def on() -> bool:
    """Whether a test of faults runs this process."""
    return _called is not None


def environment() -> dict[str, str]:
    """Return the variable that was taken, for the next generation."""
    return {} if _name is None else {VARIABLE: _name}


if _name is not None:
    _module, _, _function = _name.rpartition(".")
    _called = getattr(import_module(_module), _function)
    _moved = getattr(import_module(_module), "moved", None)
