"""serve_forever(): the loop of one process, or of several."""

from __future__ import annotations

from endless_py._reload import process, settings
from endless_py._server.accept_loop import AcceptLoop

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any


def run_loop(base: type, server: Any, poll_interval: float) -> None:
    """Serve in this process, or in as many as the server has set."""
    current, hooks = process.current, process.current.hooks
    hooked = bool(hooks.worker_start or hooks.worker_exit)
    if current.runs_main or (settings.of(server).workers == 1 and not hooked):
        AcceptLoop(server, poll_interval).run()
    else:
        workers = current.load("endless_py._server.workers")
        workers.serve(base, server, poll_interval)
