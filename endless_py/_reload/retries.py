"""What is done about steps that raise."""

from __future__ import annotations

import time

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional


class Retries:
    """Steps in a row that raised. The process goes on, and tries again a little later."""

    _MOST = 5  # a step that fails so often in a row is given up
    _PAUSE = 0.1  # seconds until what failed is tried again

    def __init__(self) -> None:
        self._count = 0
        self.again_at: Optional[float] = None  # the moment (time.monotonic) of the next try

    def clear(self) -> None:
        """A step went well."""
        self._count, self.again_at = 0, None

    def note(self) -> tuple[bool, bool]:
        """A step raised; return whether to say so (not for ever), and whether to give up now."""
        self._count += 1
        self.again_at = time.monotonic() + self._PAUSE
        return self._count <= self._MOST, self._count == self._MOST

    def last_try(self) -> bool:
        """Whether a step that raises now will be one too many."""
        return self._count + 1 >= self._MOST
