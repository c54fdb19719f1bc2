"""Idle connections on their way to the successor.

The sender keeps each one until the receiver says that it has it, and serves it again
when the receiver refuses it or is gone. A forked handler sends its connection home to
the serving process first, which then does the same.
"""

from __future__ import annotations

import array
import binascii
import socket
from collections import deque
from contextlib import suppress

from endless_py import faults
from endless_py.channel import Channel
from endless_py.listeners import address_from_json, address_to_json

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Iterable, Optional

    from endless_py.connections import Beacon
    from endless_py.serving import Serving


_LONGEST_TIMEOUT = 2.0**31  # seconds
MAX_STATE = 65536  # bytes of state that one connection may carry
_BATCH = 16
_BATCH_BYTES = 131072
# Linux counts descriptors under way against the limit of open ones.
_UNDER_WAY = 128


class Traveller:
    """A connection between two handlers: its socket, and what the next handler must know."""

    def __init__(
        self,
        sock: socket.socket,
        client_address: Any,
        state: bytes,
        refused_for: Optional[Beacon] = None,
    ) -> None:
        self.socket = sock
        self.client_address = client_address
        self.state = state
        self.refused_for = refused_for

    def to_json(self) -> dict[str, Any]:
        return {
            "address": address_to_json(self.client_address),
            "state": binascii.b2a_base64(self.state, newline=False).decode(),
            "timeout": self.socket.gettimeout(),
        }

    @classmethod
    def from_json(cls, body: dict[str, Any], descriptor: int) -> Traveller:
        """Raises KeyError, OSError, TypeError or ValueError; the descriptor stays the caller's."""
        address = address_from_json(body["address"])
        state = binascii.a2b_base64(body["state"])
        timeout = None if body["timeout"] is None else float(body["timeout"])
        if timeout is not None and not 0 <= timeout < _LONGEST_TIMEOUT:
            raise ValueError(f"{timeout} is no time-out")
        sock = socket.socket(fileno=descriptor)
        sock.settimeout(timeout)
        return cls(sock, address, state)


class Migration:
    """The sender's side. Handlers add, whoever drives the generation does the rest."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Serving, Traveller]] = deque()
        self._under_way: dict[int, tuple[Serving, Traveller]] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way)

    def add(self, serving: Serving, traveller: Traveller) -> None:
        """Take over a connection whose handler has ended."""
        self._waiting.append((serving, traveller))

    def send(self, channel: Channel) -> None:
        """Send what waits, as far as the window allows."""
        while self._waiting and len(self._under_way) < _UNDER_WAY:
            items: list[dict[str, Any]] = []
            batch: dict[int, tuple[Serving, Traveller]] = {}
            size = 0
            while self._waiting and len(items) < _BATCH and size < _BATCH_BYTES:
                serving, traveller = self._waiting.popleft()
                if serving.migrates_to is None:
                    _stay(serving, traveller)
                    continue
                self._number += 1
                batch[self._number] = serving, traveller
                size += len(traveller.state) * 4 // 3
                items.append(
                    {**traveller.to_json(), "id": self._number, "listener": serving.migrates_to}
                )
            if not items:
                continue
            try:
                faults.at("migrating")
                descriptors = tuple(traveller.socket.fileno() for _, traveller in batch.values())
                channel.send({"type": "connections", "items": items}, descriptors)
            except BaseException:
                self._waiting.extendleft(reversed(list(batch.values())))
                raise
            self._under_way.update(batch)

    def answered(self, numbers: Iterable[Any], taken: bool) -> None:
        """The receiver has these, or has refused them."""
        for number in numbers:
            serving, traveller = self._under_way.pop(number, (None, None))
            if serving is None or traveller is None:
                continue
            if taken:
                traveller.socket.close()
            else:
                _stay(serving, traveller)

    def let_go(self) -> int:
        """The drain's time is over: return how many were on their way.

        A receiver that is merely busy has what was sent, and serves it in its own time.
        """
        everything = [*self._under_way.values(), *self._waiting]
        self._under_way.clear()
        self._waiting.clear()
        for _, traveller in everything:
            traveller.socket.close()
        return len(everything)

    def give_back(self) -> None:
        """Nobody receives any more: everything that was not taken is served here."""
        everything = [*self._under_way.values(), *self._waiting]
        self._under_way.clear()
        self._waiting.clear()
        for serving, traveller in everything:
            _stay(serving, traveller)


def _stay(serving: Serving, traveller: Traveller) -> None:
    beacon = serving.beacon
    traveller.refused_for = beacon if beacon is not None and beacon.lit() else None
    serving.arrivals.append(traveller)
    serving.wake()


class Home:
    """The way from a server's forked handlers back to its process: a pair of datagram sockets."""

    def __init__(self) -> None:
        self._parent, self._child = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._parent.setblocking(False)

    def fileno(self) -> int:
        return self._parent.fileno()

    def send(self, traveller: Traveller) -> None:
        """In a forked handler: send a connection to the serving process."""
        import json  # late, as only a reload needs it

        data = json.dumps(traveller.to_json()).encode()
        rights = array.array("i", [traveller.socket.fileno()])
        with suppress(OSError):
            self._child.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def receive(self) -> list[Traveller]:
        """In the serving process: return the connections that came."""
        import json

        found: list[Traveller] = []
        size = array.array("i").itemsize
        while True:
            try:
                data, ancillary, _, _ = self._parent.recvmsg(
                    2 * MAX_STATE, socket.CMSG_SPACE(size), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
                )
            except OSError:
                return found
            for _, _, payload in ancillary:
                descriptor = array.array("i", payload[:size])[0]
                found.append(Traveller.from_json(json.loads(data), descriptor))
                found[-1].socket.set_inheritable(False)

    def close(self) -> None:
        self._parent.close()
        self._child.close()
