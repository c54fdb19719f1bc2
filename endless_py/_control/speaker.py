"""Who says that another process is to be asked, and whether it may be believed."""

from __future__ import annotations

import os
import re
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional


class Speaker:
    """A process that was asked; uid is its user, None where the system does not tell.

    What it calls a process by its number may have another number here: it may be in a container.
    """

    def __init__(self, pid: int, uid: Optional[int]) -> None:
        self.pid = pid
        self.uid = uid
        self._namespace = _namespace(pid)

    def speaks_for(self, other: Speaker) -> bool:
        """Whether it may send a command on to the other one: its own user's, or root says so.

        Else a user could have root's commands reload or stop what is another user's.
        """
        return None in (self.uid, other.uid) or self.uid in (0, other.uid)

    def translate(self, body: dict[str, Any]) -> None:
        """Put the numbers that processes have here into its answer; 0 for one that is not there."""
        if self._namespace in ("", _namespace("self")):
            return
        places = [body, body.get("successor"), *(body.get("predecessors") or [])]
        for place in places:
            if isinstance(place, dict) and "pid" in place:
                place["pid"] = self._number_here(place["pid"])

    def _number_here(self, number: int) -> int:
        for name in os.listdir("/proc"):
            if name.isdigit() and _namespace(name) == self._namespace:
                with suppress(OSError):
                    with open(f"/proc/{name}/status", encoding="utf-8", errors="replace") as file:
                        inside = re.search(r"^NSpid:.*?(\d+)$", file.read(), re.M)
                    if inside is not None and int(inside[1]) == number:
                        return int(name)
        return 0


def _namespace(pid: object) -> str:
    """Return the namespace that a process has its number in, "" where that cannot be known."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""
