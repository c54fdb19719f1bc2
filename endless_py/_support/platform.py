"""What the operating system must have for a program to be replaced while it runs."""

from __future__ import annotations

import os
import select
import signal
import socket

from endless_py.exceptions import UnsupportedPlatform

_NEEDED = {
    "signal.SIGHUP": hasattr(signal, "SIGHUP"),
    "signal.pthread_sigmask": hasattr(signal, "pthread_sigmask"),
    "select.poll": hasattr(select, "poll"),
    "os.fork": hasattr(os, "fork"),
    "socket.AF_UNIX": hasattr(socket, "AF_UNIX"),
    "socket.SCM_RIGHTS": hasattr(socket, "SCM_RIGHTS"),
}


def missing() -> str:
    """Return the names of what this one lacks; empty where all is there."""
    return ", ".join(name for name, there in _NEEDED.items() if not there)


def require() -> None:
    """Raise UnsupportedPlatform when this system lacks what a reload needs."""
    lacks = missing()
    if lacks:
        raise UnsupportedPlatform(
            f"endless_py cannot serve on this platform: it has no {lacks}; "
            "use the standard library's class here"
        )
