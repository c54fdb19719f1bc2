"""Listeners for servers that are not socketserver's, such as asyncio's."""

from __future__ import annotations

from endless_py._reload.serving import Serving
from endless_py._sockets.listener import Listener
from endless_py._supervisor import detect as keep_pid

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional


class Owner:
    """Stands where a server would: it has the listener and the settings."""

    def __init__(self, listener: Listener, backlog: int, settings: dict[str, Any]) -> None:
        self.socket = listener
        self.request_queue_size = backlog
        self.drain_timeout: float = settings.pop("drain_timeout", 60.0)
        self.ready_timeout: float = settings.pop("ready_timeout", 60.0)
        self.keep_pid: keep_pid.Setting = keep_pid.check(settings.pop("keep_pid", "auto"))
        self.pid_file = settings.pop("pid_file", None)
        if settings:
            raise TypeError(f"listen() has no argument {', '.join(sorted(settings))}")

    def fileno(self) -> int:
        return self.socket.fileno()


class Listening(Serving):
    """What the process knows of one such listener: nothing of its connections."""

    own_loop = False

    def __init__(
        self,
        owner: Owner,
        on_drain: Optional[Callable[[], Any]],
        on_resume: Optional[Callable[[], Any]],
    ) -> None:
        super().__init__(owner)
        self._owner = owner
        self._on_drain, self._on_resume = on_drain, on_resume
        self.done = False

    @property
    def drained(self) -> bool:
        return self.done or self.cut

    def drain(self) -> None:
        """Tell the program; without a callback nothing is left to be waited for."""
        if self._on_drain is None:
            self.done = True
        else:
            self._on_drain()

    def resume(self) -> bool:
        """Tell the program to accept again; whether it can."""
        if self._on_resume is not None:
            self._on_resume()
        return self._on_resume is not None
