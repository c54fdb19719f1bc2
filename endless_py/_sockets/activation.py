"""Listeners that a service manager has opened before this process: sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import MutableMapping

from endless_py._sockets.listener import Binding

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

_FIRST = 3  # after the standard streams
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def take(environ: MutableMapping[str, str]) -> tuple[list[tuple[Binding, int]], list[str]]:
    """Take the variables out of `environ`; return the listeners that they pass, and problems.

    Each problem is a sentence about something that is not valid and is ignored.
    """
    pid, count, names = (environ.pop(variable, None) for variable in VARIABLES)
    if pid is None and count is None:
        return [], []
    if not (_is_number(pid) and _is_number(count)):
        return [], [f"LISTEN_PID={pid!r} and LISTEN_FDS={count!r} are not two numbers"]
    assert pid is not None
    assert count is not None
    if int(pid) != os.getpid():
        return [], [f"LISTEN_FDS is meant for process {pid} (start this one with exec)"]
    problems: list[str] = []
    labels = names.split(":") if names else []
    if labels and len(labels) != int(count):
        problems.append(f"LISTEN_FDNAMES has {len(labels)} names for {count} descriptors")
        labels = []
    listeners = []
    for position in range(int(count)):
        descriptor = _FIRST + position
        try:
            mode = os.fstat(descriptor).st_mode
            os.set_inheritable(descriptor, False)
        except OSError:
            problems.append(f"descriptor {descriptor} of LISTEN_FDS={count} is not open")
            break
        label = labels[position] if labels else ""
        binding = _describe(descriptor, label) if stat.S_ISSOCK(mode) else None
        if binding is None:
            problems.append(f"descriptor {descriptor} of LISTEN_FDS={count} is not a listener")
        else:
            listeners.append((binding, descriptor))
    return listeners, problems


def _is_number(word: Optional[str]) -> bool:
    return word is not None and word.isascii() and word.isdigit() and len(word) < 10


def _describe(descriptor: int, label: str) -> Optional[Binding]:
    sock = socket.socket(fileno=descriptor)
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            return None
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.type != socket.SOCK_DGRAM and not listens:
            return None
        address = sock.getsockname()
        if not address:
            return None  # a Unix socket without a name
        return Binding.lent_by_manager(sock.family, sock.type, address, label)
    except OSError:
        return None
    finally:
        sock.detach()
