"""Threads that the interpreter's exit is not to wait for."""

from __future__ import annotations

import functools
import threading

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Iterable


def let_threads_go(threads: Iterable[threading.Thread]) -> None:
    """Stop the interpreter's exit from waiting for these threads, which do not end.

    The library has no public way to do this for a thread that runs already. Up to 3.12
    the exit waits for the locks in a set of threading's, from 3.13 on in a function of C.
    """
    left = [thread for thread in threads if thread.is_alive()]
    locks = getattr(threading, "_shutdown_locks", None)
    if locks is not None:
        for thread in left:
            locks.discard(getattr(thread, "_tstate_lock", None))
    elif left and hasattr(threading, "_thread_shutdown"):
        previous = getattr(threading._thread_shutdown, "keywords", {}).get("without", [])
        threading._thread_shutdown = functools.partial(_join_threads, without=previous + left)


def _join_threads(without: list[threading.Thread]) -> None:
    """As threading's own, for all threads but those."""
    passed_over = [*without, threading.current_thread(), threading.main_thread()]
    while True:
        left = [t for t in threading.enumerate() if not t.daemon and t not in passed_over]
        if not left:
            return
        left[0].join()
