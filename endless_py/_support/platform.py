"""What the system and the interpreter must have for a program to be replaced while it runs."""

from __future__ import annotations

import functools
import importlib
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


@functools.cache
def is_subinterpreter() -> bool:
    """Whether this is another interpreter than the process's first one."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # from 3.13 on, and before
        try:
            module = importlib.import_module(name)
            return bool(module.get_current() != module.get_main())
        except (ImportError, AttributeError):
            continue
    return False


def require() -> None:
    """Raise UnsupportedPlatform when this system, or interpreter, lacks what a reload needs."""
    if is_subinterpreter():
        raise UnsupportedPlatform(
            "endless_py cannot serve in a sub-interpreter: signals, which order a reload, reach "
            "only the main interpreter; make the server there, or use the standard library's class"
        )
    lacks = missing()
    if lacks:
        raise UnsupportedPlatform(
            f"endless_py cannot serve on this platform: it has no {lacks}; "
            "use the standard library's class here"
        )
