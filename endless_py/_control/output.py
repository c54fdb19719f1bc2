"""What every command says, and its exit status."""

from __future__ import annotations

import json
import os
import re
import sys

from endless_py._control.client import Deadline, is_alive
from endless_py._control.entry import name_of_program
from endless_py._support.escape import escaped

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Iterable

_SHOWN = 20  # lines
OK, FAILED, TIMED_OUT, CUT, INTERRUPTED = 0, 1, 3, 4, 130
_RESULTS = {OK: "done", FAILED: "failed", TIMED_OUT: "timed out", CUT: "cut"}


class Says:
    """What one command says: lines, or one JSON object at its end; and what it waits for."""

    def __init__(self, as_json: bool = False) -> None:
        self._as_json = as_json
        self._facts: dict[str, Any] = {}
        self._waits = ""  # as said last
        self._drawn = False  # on a terminal, where the next line is to be

    def say(self, text: str, **facts: Any) -> None:
        """Say it, or keep the facts for the JSON object."""
        self.clear()
        self._facts.update(facts)
        if not self._as_json:
            say(text)

    def fail(self, text: str, **facts: Any) -> None:
        self.clear()
        self._facts.update({"reason": text, **facts})
        complain(text)

    def end(self, status: int) -> int:
        """The command is over, with this exit status."""
        self.clear()
        if self._as_json:
            result = _RESULTS.get(status, "interrupted")
            say(json.dumps({"result": result, "status": status, **self._facts}, indent=2))
        return status

    def waits(self, text: str) -> None:
        """Say on standard error what is waited for: in place on a terminal, else as it changes."""
        if not text:
            return
        if sys.stderr.isatty():
            width = max(20, _columns() - 1)
            self._drawn = True
            print(
                f"\r{escaped('waits: ' + text)[:width]}\x1b[K", end="", file=sys.stderr, flush=True
            )
        else:
            change = re.sub(r"\d+ s\b", "", text)  # not each second
            if change != self._waits:
                self._waits = change
                print(f"waits: {escaped(text)}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take back what is drawn in place."""
        if self._drawn:
            self._drawn = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def wait_gone(pids: Iterable[int], deadline: Deadline) -> None:
    """Wait for the processes whose conversations are over: the kernel ends those first."""
    while any(map(is_alive, pids)):
        deadline.pause()


def say(text: str) -> None:
    """Print lines; what in them does not print is escaped."""
    print("\n".join(map(escaped, text.split("\n"))), flush=True)


def complain(text: str) -> None:
    line = f"{name_of_program()}: error: {escaped(text)}"
    print(coloured(line, "31", sys.stderr), file=sys.stderr, flush=True)


def coloured(line: str, colour: str, stream: Any) -> str:
    """Return the line in a colour, on a terminal whose user has not set NO_COLOR."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return line
    return f"\x1b[{colour}m{line}\x1b[0m"


def show(lines: Iterable[str]) -> None:
    """Print the last lines of what another program has written, escaped."""
    for line in list(lines)[-_SHOWN:]:
        print(f"    {escaped(line.expandtabs())}", file=sys.stderr)
