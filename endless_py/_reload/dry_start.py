"""A dry start: the program proves that it reaches its first server, and serves nothing.

`endless_py.upgrade` starts a new version so before it puts it in place.
"""

from __future__ import annotations

import os
import stat
from collections.abc import MutableMapping

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Callable, Optional

VARIABLE = "ENDLESS_PY_DRY_START"  # DESCRIPTOR:TOKEN


def answer(token: str) -> bytes:
    """What a program that has reached its first server says to the challenge `token`."""
    return f"ready {token}\n".encode()


class DryStart:
    """The challenge that this process was started with, if it was."""

    def __init__(self, environment: MutableMapping[str, str], warn: Callable[[str], object]):
        self._descriptor: Optional[int] = None
        self._answered = False
        word = environment.pop(VARIABLE, None)
        if word is None:
            return
        descriptor, _, self._token = word.partition(":")
        try:
            if not stat.S_ISFIFO(os.fstat(int(descriptor)).st_mode):
                raise ValueError("it is no pipe")
            os.set_inheritable(int(descriptor), False)
            self._descriptor = int(descriptor)
        except (OSError, OverflowError, ValueError) as error:
            warn(f"{VARIABLE} is ignored and removed: {error}; this process serves")

    def end_here(self) -> None:
        """In a dry start, answer the challenge and raise SystemExit; otherwise do nothing.

        Every server of the process comes here: one that swallows the exception in some
        thread must not serve either.
        """
        if self._descriptor is None:
            return
        if not self._answered:
            self._answered = True
            try:
                os.write(self._descriptor, answer(self._token))
            except OSError:
                raise SystemExit(1) from None  # nobody listens any more
        raise SystemExit(0)
