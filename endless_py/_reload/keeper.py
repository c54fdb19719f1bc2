"""Who decides over a listener that two generations have; its socket asks before it does a thing."""

from __future__ import annotations

import socket

from endless_py._reload.listener import Listener
from endless_py._sockets.keeper import Keeper

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Callable

    from endless_py._reload.process import ServerProcess


class ListenerKeeper(Keeper):
    """Of a listener of this process.

    The successor decides from its ready on. Before that, what it asks for would change how the
    incumbent serves; after that, what the incumbent's program does at its end is its own matter.
    """

    def __init__(
        self, process: ServerProcess, listener: Listener, adopted: Callable[[], object]
    ) -> None:
        """adopted is called once it is bound, before the predecessor hears of it."""
        super().__init__(process.received)
        self._process = process
        self._listener = listener
        self._adopted = adopted

    def before_bind(self) -> None:
        self._process.dry_start.end_here()

    def after_bind(self) -> None:
        self._listener.binding = self.binding
        self._listener.owns_path = not self._process.worker
        self._adopted()
        self._process.add(self._listener)
        self._process.readiness.say_adopted(self._listener)

    def closed(self, sock: socket.socket) -> None:
        listener = self._listener
        if (
            getattr(listener.server, "socket", None) is sock
            and listener in self._process.listeners.all
            and listener.loop_thread is None
            and not listener.closing
        ):
            self._process.remove(listener)

    def shared(self) -> bool:
        process = self._process
        return (
            process.living_successor is not None
            or bool(process.predecessors.living)
            or len(process.children) > 0
            or process.machine.over
            or process.group is not None
            or (self.binding is not None and self.binding.lent is not None)
        )

    def decides(self) -> bool:
        process, listener = self._process, self._listener
        if process.worker:  # its leader does
            return False
        if self.inherited and not listener.ready and process.predecessors.living_parent():
            return False
        return listener.accepting or process.living_successor is None
