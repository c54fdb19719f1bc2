"""Listeners: what they are bound to, and which one is meant by an address."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional


class Binding:
    """What a listener is bound to, told in a way that another process understands.

    address is the real one (getsockname), requested the one the program asked for, inode
    the device and inode of a Unix path, index the number in the predecessor's list. lent is
    the name (it may be empty) of one that a service manager has opened and keeps: its path
    is never unlinked, and every generation hands it on, used or not.
    """

    inode: Optional[tuple[int, int]] = None
    index: Optional[int] = None
    lent: Optional[str] = None

    def __init__(self, family: int, kind: int, address: Any, requested: Any) -> None:
        self.family = int(family)
        self.kind = int(kind)
        self.address = as_text(address)
        self.requested = as_text(requested)

    @classmethod
    def lent_by_manager(cls, family: int, kind: int, address: Any, name: str) -> Binding:
        """Describe a listener that this process neither made nor got from a predecessor."""
        found = cls(family, kind, address, address)
        found.inode = None if isinstance(address, tuple) else inode_of(address)
        found.lent = name
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "kind": self.kind,
            "address": address_to_json(self.address),
            "requested": address_to_json(self.requested),
            "inode": self.inode,
            "lent": self.lent,
        }

    @classmethod
    def from_json(cls, body: dict[str, Any], index: int) -> Binding:
        """Raises KeyError, TypeError or ValueError when the body is not what to_json() gives."""
        inode = body["inode"]
        for name in ("address", "requested"):
            if not isinstance(body[name], (list, str)):
                raise ValueError(f"{body[name]!r} is not an address")
        address, requested = (address_from_json(body[name]) for name in ("address", "requested"))
        found = cls(int(body["family"]), int(body["kind"]), address, requested)
        found.inode = (int(inode[0]), int(inode[1])) if inode else None
        found.index, found.lent = index, body.get("lent")
        return found

    def __str__(self) -> str:
        kind = "udp" if self.kind == socket.SOCK_DGRAM else "tcp"
        if isinstance(self.address, tuple):
            host, port = self.address[:2]
            return f"{kind} [{host}]:{port}" if ":" in host else f"{kind} {host}:{port}"
        name = os.fsdecode(self.address)
        return "unix " + ("@" + name[1:] if name.startswith("\0") else name)

    def unlink(self) -> None:
        """Remove the Unix path if it is still this listener's."""
        if self.lent is None and self.inode is not None and inode_of(self.requested) == self.inode:
            with suppress(OSError):
                os.unlink(self.requested)

    def matches(self, family: int, kind: int, address: Any, exact: bool) -> bool:
        """Whether a server that asks for `address` means this listener.

        exact compares with what was asked for last time, else with the real address.
        """
        if (self.family, self.kind) != (int(family), int(kind)):
            return False
        if not isinstance(address, tuple):
            name, mine = os.fsencode(address), os.fsencode(self.requested)
            if name.startswith(b"\0") or mine.startswith(b"\0"):
                return bool(name == mine)
            # The same path may have been bound anew, and another path may lead here.
            return self.inode is not None and inode_of(address) == self.inode
        address = as_text(address)
        if exact:
            return bool(address == self.requested)
        mine = self.requested if address[1] == 0 else self.address
        if address[1] != mine[1]:
            return False
        asked = _resolve(family, kind, address)
        return asked is not None and asked == _resolve(family, kind, self.address)


def as_text(address: Any) -> Any:
    """Return an address whose host is text; bind() takes it as bytes too."""
    if not isinstance(address, tuple):
        return address
    return tuple(os.fsdecode(part) if isinstance(part, bytes) else part for part in address)


def address_to_json(address: Any) -> Any:
    if isinstance(address, bytes):
        return os.fsdecode(address)
    return list(as_text(address)) if isinstance(address, tuple) else os.fspath(address)


def address_from_json(address: Any) -> Any:
    return tuple(address) if isinstance(address, list) else address


def inode_of(path: Any) -> Optional[tuple[int, int]]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _resolve(family: int, kind: int, address: Any) -> Optional[str]:
    """Return the numeric host that bind() would take for this address."""
    try:
        found = socket.getaddrinfo(
            address[0] or None, address[1], family, kind, 0, socket.AI_PASSIVE
        )
        return str(found[0][4][0])
    except (OSError, TypeError, ValueError):
        return None


def unlink_if_stale(path: Any, kind: int = socket.SOCK_STREAM) -> bool:
    """Remove the socket at a Unix path if nobody answers on it; whether it was removed."""
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return True
        except OSError:
            pass
    return False


class ReceivedListeners:
    """The listeners that came from the predecessor and wait to be adopted."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Binding, int]] = []
        # Asks for the listener of a process that has lost its pid; whether something came.
        self.claim: Callable[[int, int, Any], bool] = lambda family, kind, address: False
        self._lock = threading.Lock()

    def adopt(self, family: int, kind: int, address: Any) -> Optional[tuple[Binding, int]]:
        """Take the listener meant by `address` out, with its descriptor; None if there is none."""
        for exact in (True, False):
            for item in self.waiting:  # names are resolved here, without the lock
                if item[0].matches(family, kind, address, exact) and self._take_out(item):
                    return item
        return None

    def _take_out(self, item: tuple[Binding, int]) -> bool:
        with self._lock:  # else two threads may adopt the same one
            left = [other for other in self.waiting if other is not item]
            found = len(left) < len(self.waiting)
            self.waiting = left
        return found

    def close(self, indexes: Optional[set[int]] = None) -> None:
        """Close what nobody adopted (None: all of it), but for what a manager has lent."""
        with self._lock:
            waiting = self.waiting
            self.waiting = [
                item
                for item in waiting
                if item[0].lent is not None
                or (indexes is not None and item[0].index not in indexes)
            ]
            left = [item for item in waiting if item not in self.waiting]
        for _, descriptor in left:
            os.close(descriptor)

    def lent(self) -> list[tuple[Binding, int]]:
        """Return what a manager has lent and nobody uses."""
        return [item for item in self.waiting if item[0].lent is not None]
