"""What can go wrong in an upgrade, as one line each."""

from __future__ import annotations

from typing import Optional

from endless_py.exceptions import EndlessError


class UpgradeError(EndlessError):
    """Base of the errors below; the message is one line that says what to do."""


class SourceError(UpgradeError):
    """A source cannot be asked now. The next look may succeed.

    retry_after is the number of seconds for which the source asked to be left alone, None
    when it did not say.
    """

    def __init__(self, text: str, retry_after: Optional[float] = None):
        super().__init__(text)
        self.retry_after = retry_after


class Refused(UpgradeError):
    """An artifact is not what it should be; it is not tried again until it changes."""


class SwapError(UpgradeError):
    """The target cannot be switched; what was in place still is."""
