"""A connection between two handlers, as it travels from one process to another."""

from __future__ import annotations

import array
import binascii
import socket
from contextlib import suppress

from endless_py._sockets.listener import address_from_json, address_to_json

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._sockets.connection import Beacon

_LONGEST_TIMEOUT = 2.0**31  # seconds
MAX_STATE = 65536  # bytes of state that one connection may carry


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
