"""A thread for each connection, as ThreadingMixIn has, but nobody waits for its start."""

from __future__ import annotations

import socketserver
import threading

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

_Threads: Any = getattr(socketserver, "_Threads", None)
# What HandlerThread changes is the library's own affair: where it is not there any more, the
# library's threads are used.
_CAN_START_ALONE = _Threads is not None and isinstance(
    getattr(threading.Thread(name="never started"), "_started", None), threading.Event
)


class _Running(threading.Event):
    """Set once its thread runs."""

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Do not wait: Thread.start() calls it, whoever has to wait calls `really_wait()`."""
        return True

    def really_wait(self, timeout: Optional[float] = None) -> bool:
        return super().wait(timeout)


class HandlerThread(threading.Thread):
    """A thread whose start() does not wait until it runs.

    Thread.start() does, so that the interpreter's lock goes to the new thread and comes back
    before the next connection is accepted. Here whoever asks after the thread waits.
    """

    _begun = False  # start() has returned

    def __init__(self, target: Any, arguments: tuple[Any, ...], daemon: bool) -> None:
        super().__init__(target=target, args=arguments, daemon=daemon)
        self._started = _Running()

    def start(self) -> None:
        super().start()
        self._begun = True

    def wait_running(self, timeout: Optional[float] = None) -> bool:
        """Wait until it runs, or has run; whether it does. timeout is in seconds."""
        return self._started.really_wait(timeout)

    def is_alive(self) -> bool:
        return (self._begun and not self._started.is_set()) or super().is_alive()

    def join(self, timeout: Optional[float] = None) -> None:
        if not self._begun or self.wait_running(timeout):
            super().join(timeout)


def start(server: Any, request: Any, client_address: Any) -> None:
    """Do what ThreadingMixIn.process_request() does, unless a subclass does something else."""
    process_request = server.process_request
    plain = (
        getattr(process_request, "__func__", None) is socketserver.ThreadingMixIn.process_request
    )
    if not (plain and _CAN_START_ALONE):
        process_request(request, client_address)
        return
    if server.block_on_close:
        vars(server).setdefault("_threads", _Threads())
    thread = HandlerThread(
        server.process_request_thread, (request, client_address), server.daemon_threads
    )
    server._threads.append(thread)
    thread.start()
    connection = server._serving.connections.get(request)
    if connection is not None and connection.arrived_with is not None:
        thread.wait_running()  # hundreds migrate at once; as many new threads starve the loop


def wait_running() -> None:
    """Wait until each thread runs that was started here: the exit waits for no others."""
    for thread in threading.enumerate():
        if isinstance(thread, HandlerThread) and not thread.daemon:
            thread.wait_running()
