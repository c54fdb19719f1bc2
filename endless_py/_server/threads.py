"""Handler threads that serve one connection after the other, for a server that allows it."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

PATIENCE = 10.0  # seconds without a connection after which a thread ends


class _Thread:
    """What a thread is to serve next, and how it waits for that."""

    def __init__(self) -> None:
        self.work: Optional[tuple[Any, Any]] = None  # None: end
        self._called = threading.Lock()
        self._called.acquire()

    def call(self, work: Optional[tuple[Any, Any]]) -> None:
        self.work = work
        self._called.release()

    def wait(self, seconds: float = -1) -> bool:
        return self._called.acquire(timeout=seconds)


class HandlerThreads:
    """The threads of one serve_forever(); between `begin()` and `end()` they are used again.

    socketserver starts them, in its own way, and what is served is served by the server's own
    process_request_thread(), each time in a new context (see contextvars) as in a new thread.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._idle: deque[_Thread] = deque()
        self._ended = False
        self._serve: Callable[[Any, Any], None] = server.process_request_thread

    def begin(self) -> None:
        """Have the threads that socketserver starts from now on stay for more."""
        self._server.process_request_thread = self._run

    def process(self, server: Any, request: Any, client_address: Any) -> None:
        """Have it served by the thread that was idle for the shortest time, or by a new one."""
        try:
            thread = self._idle.pop()
        except IndexError:
            thread = _Thread()
            thread.work = request, client_address
            # In the request's place: what a thread was started with it knows until it ends.
            server.process_request(thread, client_address)
        else:
            thread.call((request, client_address))

    def end(self) -> None:
        """Let the idle ones end, and each other one when it has served what it has."""
        self._ended = True
        vars(self._server).pop("process_request_thread", None)
        self._dismiss()

    def _dismiss(self) -> None:
        with suppress(IndexError):  # none is left; another thread may dismiss as well
            while True:
                self._idle.pop().call(None)

    def _run(self, thread: _Thread, client_address: Any) -> None:
        while thread.work is not None:
            work, thread.work = thread.work, None
            contextvars.Context().run(self._serve, *work)
            del work  # an idle thread keeps no socket open
            self._idle.append(thread)
            # Looked at after it can be seen: end() sees it, or it sees the end.
            if self._ended:
                self._dismiss()
            if not thread.wait(PATIENCE):
                try:
                    self._idle.remove(thread)
                    return
                except ValueError:  # it is being called right now
                    thread.wait()
