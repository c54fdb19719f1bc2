"""Asking for the listeners of a process that has lost the pid that was to be kept.

A supervisor starts the program again when the pid that it watches has ended. If a bridge serves
on, the new start finds its address in use, and asks here to become that bridge's successor.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

from endless_py._control.client import Deadline, connect
from endless_py._control.socket import private_folders
from endless_py._handoff.greeting import Greeting, variable_in_place
from endless_py.exceptions import EndlessError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional, Union

    from endless_py._sockets.listener import Binding

_PATIENCE = 10.0  # seconds for a process that is busy with a reload of its own
_EACH = 2.0  # seconds for each process to answer in


def _pids() -> list[int]:
    """Return the processes of this user that can be asked."""
    names: list[str] = []
    for folder in private_folders(os.geteuid()):
        with suppress(OSError):
            names += os.listdir(folder)
    found = {int(name[:-5]) for name in names if re.fullmatch(r"\d+\.sock", name)}
    return sorted(found - {os.getpid()})


def ask(listener: Binding) -> Optional[Greeting]:
    """Return what the process says that serves this address and hands over; None: there is none."""
    deadline = Deadline(_PATIENCE)
    with suppress(EndlessError, OSError):
        for pid in _pids():
            while True:
                answer = _ask(pid, listener)
                if not isinstance(answer, str):
                    break
                deadline.pause()  # raises TimedOut in the end
            if answer is not None:
                return answer
    return None


def _ask(pid: int, listener: Binding) -> Union[Greeting, str, None]:
    """Return the greeting, or "busy", or None from a process that does not hand over."""
    try:
        with connect(pid, Deadline(_EACH), descriptors=1) as client:
            client.ask("claim", pid=os.getpid(), listener=listener.to_json())
            message = client.next_message()
    except (EndlessError, OSError):
        return None
    if message is None or message.body.get("event") == "busy":
        return "busy"
    descriptor = message.take()
    if descriptor is None:
        return None
    return Greeting(variable_in_place([descriptor], pid, []))
