"""What every room knows of this process: which generation it is, its phase, its log."""

from __future__ import annotations

import time

from endless_py._reload.driver import Driver
from endless_py._reload.machine import Phase, check_move
from endless_py._reload.signals import Note
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional


class Life:
    """A generation's number and the phase it is in."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver  # who moves it on
        self.number = 0
        self.bridge = False
        self.phase = Phase.STARTING
        self.since = time.time()  # in this phase

    @property
    def drains(self) -> bool:
        """Whether active handlers finish and no more is accepted."""
        return self.phase in (Phase.DRAINING, Phase.STOPPING)

    def move(self, phase: Phase) -> None:
        """Go to another phase; raises ValueError for a move that is not in the table."""
        if phase is self.phase:
            return
        check_move(self.phase, phase)
        self.phase, self.since = phase, time.time()
        self.driver.changes = object()

    def order(self, order: Optional[str], name: str) -> None:
        """Leave a note of an order that no signal gave, in a step that looks at it itself."""
        self.driver.notes.append(Note(order, name))

    def log(self, level: int, text: str) -> None:
        log.write(level, f"{self.number} (bridge)" if self.bridge else str(self.number), text)
