"""The program's code that runs in a server's loop, and holds it as long as it likes."""

from __future__ import annotations

from endless_py._reload import process
from endless_py._reload.drain import HandlerCut
from endless_py._reload.listener import Listener
from endless_py._sockets.connection import say_address
from endless_py._support import log

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any


class Inline:
    """Has others drive the process while a loop runs code of the program's."""

    def __init__(self, listener: Listener, forks: bool) -> None:
        self.listener = listener
        self.forks = forks
        self.busy = False  # such code has run in this turn

    def code(self, what: str, about: Any) -> _Code:
        """Return what such code runs within.

        what it is, and of which listener or client, the log says where it outlasts the force stop
        and is ended.
        """
        return _Code(self, what, about)

    def begin(self) -> None:
        if not self.busy:
            self.busy = True
            process.current.driver.busy(self.listener)

    def end(self) -> None:
        listener = self.listener
        listener.inline_cut = False
        listener.inline_thread = None
        if not listener.accepting:
            process.current.wake()
        if self.forks:
            self.end_of_turn()  # no helper lives while it forks

    def log_cut(self, what: str, about: Any) -> None:
        """Such code was ended, since the drain's time is over."""
        what = f"{what} {say_address(about)}"
        process.current.log(log.WARNING, "%(what)s was ended", "handler_ended", what=what)

    def end_of_turn(self) -> None:
        """Where such code has run in the loop, the loop can drive the process again."""
        if self.busy:
            self.busy = False
            process.current.driver.free(self.listener)


class _Code:
    """Not a generator: every request of a server without threads goes through here."""

    __slots__ = ("_about", "_inline", "_what")

    def __init__(self, inline: Inline, what: str, about: Any) -> None:
        self._inline, self._what, self._about = inline, what, about

    def __enter__(self) -> None:
        inline = self._inline
        inline.listener.inline_thread = inline.listener.loop_thread
        try:
            inline.begin()  # who drives from now on knows whom to watch
        except BaseException:
            inline.end()
            raise

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        try:
            if kind is None or not issubclass(kind, HandlerCut):
                return False
            self._inline.log_cut(self._what, self._about)
            return True
        finally:
            self._inline.end()
