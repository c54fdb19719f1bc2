"""What ENDLESS_PY_FAULTS names in these tests: a process stops at a step and asks what to do.

FAULT_FOLDER/place is JSON that says at which step ("step") of which process: the one with a
pid ("pid"), or any other one ("other": true). It happens once: the first process that comes
there takes the file away, says so on standard error, with its pid and the lowest descriptor
that is free, and waits for one letter on the FIFO FAULT_FOLDER/orders. A worker is at no step.

While there is FAULT_FOLDER/no-forks, nothing is forked, and who wanted to says so.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

_folder = Path(os.environ["FAULT_FOLDER"])
_slow = 1.0  # seconds


def at(step: str) -> None:
    if not _is_mine(step):
        return
    orders = os.open(_folder / "orders", os.O_RDONLY)
    os.write(2, f"at {step!r}: pid {os.getpid()}, descriptor {orders}\n".encode())
    try:
        order = os.read(orders, 1).decode()
    finally:
        os.close(orders)
    _CARRY_OUT[order]()


def _is_mine(step: str) -> bool:
    global _slow
    if _is_worker():
        return False
    if step == "ready" and threading.current_thread() is not threading.main_thread():
        return False  # an exception in another thread would not end the program
    try:
        place: dict[str, Any] = json.loads((_folder / "place").read_text())
        here = place["step"] == step and (os.getpid() == place["pid"]) != place["other"]
        if here:
            (_folder / "place").unlink()
    except OSError:  # none, or none any more, or a limit of descriptors forbids to look
        return False
    _slow = place["slow"]
    return here


def _is_worker() -> bool:
    process = sys.modules.get("endless_py._reload.process")
    current = getattr(process, "current", None)  # there is none yet while a handoff is received
    return current is not None and current.worker > 0


def _try_to_fork() -> None:
    if (_folder / "no-forks").exists():
        os.write(2, f"no fork: pid {os.getpid()}\n".encode())
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _fork() -> int:
    _try_to_fork()
    return _real_fork()


_real_fork, os.fork = os.fork, _fork


def _fork_no_more() -> None:
    """The start of another program is a fork as well."""
    import subprocess  # late, as where it is tested

    def execute(*arguments: Any, **keywords: Any) -> None:
        _try_to_fork()
        real(*arguments, **keywords)

    real: Any = subprocess.Popen._execute_child  # type: ignore[attr-defined]
    subprocess.Popen._execute_child = execute  # type: ignore[attr-defined]


def _stop_here() -> None:
    """Let the test look at this process; none of its other threads runs Python after that."""
    sys.setswitchinterval(1000)
    # Sent to the process, another thread could take it while this one went on.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _raise() -> None:
    raise RuntimeError("a fault for a test")


def _exit() -> None:
    _stop_here()
    os._exit(3)


def _allocate() -> None:
    bytearray(1 << 30)  # a limit forbids it: MemoryError


def _step_clock() -> None:
    real, shift = time.time, 86400 if os.getsid(0) == os.getpid() else -86400
    time.time = lambda: real() + shift  # type: ignore[assignment]


def _fill() -> None:
    """Write into the channel, whose other end does not read, until nothing more goes."""
    from endless_py._reload import process

    current = process.current
    if current.successor is not None:
        channel, body = current.successor.channel, {"type": "ancestor_ended"}
    else:
        assert current.predecessors.parent is not None
        channel, body = current.predecessors.parent.channel, {"type": "taken", "ids": []}
    while not channel.sending:
        channel.send(body)


_CARRY_OUT = {
    "g": lambda: None,
    "r": _raise,
    "x": _exit,
    "m": _allocate,
    "c": _step_clock,
    "f": _fill,
    "n": _fork_no_more,
    "s": lambda: time.sleep(_slow),
}
