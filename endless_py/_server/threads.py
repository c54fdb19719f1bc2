"""Handler threads that serve one connection after the other, for servers with reuse_threads."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections import deque
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

PATIENCE = 10.0  # seconds without a connection after which a thread ends


class _Thread:
    """What a thread is to serve next, in which context, and how it waits for that."""

    def __init__(self) -> None:
        self.work: Optional[tuple[contextvars.Context, Any, Any]] = None  # None: end
        self._called = threading.Lock()
        self._called.acquire()

    def call(self, work: Optional[tuple[contextvars.Context, Any, Any]]) -> None:
        self.work = work
        self._called.release()

    def wait(self, seconds: float = -1) -> bool:
        return self._called.acquire(timeout=seconds)


class HandlerThreads:
    """The threads of one serve_forever(); between `begin()` and `end()` they are used again.

    socketserver starts them. Each connection is served by the server's own
    process_request_thread(), in a context (see contextvars) as a new thread has it: empty, or a
    copy of the loop's where this Python's threads inherit theirs.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._idle: deque[_Thread] = deque()
        self._ended = False
        inherits = getattr(sys.flags, "thread_inherit_context", 0)  # from 3.14 on
        self._new_context = contextvars.copy_context if inherits else contextvars.Context
        self._serve: Callable[[Any, Any], None] = server.process_request_thread

    def begin(self) -> None:
        """From now on a thread that socketserver starts waits for another connection."""
        self._server.process_request_thread = self._run

    def process(self, server: Any, request: Any, client_address: Any) -> None:
        """Have it served by the thread that was idle for the shortest time, or by a new thread."""
        context = self._new_context()
        try:
            thread = self._idle.pop()
        except IndexError:
            thread = _Thread()
            thread.work = context, request, client_address
            # In the request's place: a thread keeps what it was started with until it ends, and
            # so would keep the socket.
            server.process_request(thread, client_address)
        else:
            thread.call((context, request, client_address))

    def end(self) -> None:
        """End the idle threads now, and the others when they have served their connection."""
        self._ended = True
        vars(self._server).pop("process_request_thread", None)
        self._dismiss()

    def _dismiss(self) -> None:
        with suppress(IndexError):  # none is left; another thread may dismiss as well
            while True:
                self._idle.pop().call(None)

    def _run(self, thread: _Thread, client_address: Any) -> None:
        while thread.work is not None:
            (context, *work), thread.work = thread.work, None
            context.run(self._serve, *work)
            del context, work  # an idle thread keeps no socket open
            self._idle.append(thread)
            # Looked at after it is in the list: end() finds it there, or it finds the end here.
            if self._ended:
                self._dismiss()
            if not thread.wait(PATIENCE):
                try:
                    self._idle.remove(thread)
                    return
                except ValueError:  # it is being called right now
                    thread.wait()
