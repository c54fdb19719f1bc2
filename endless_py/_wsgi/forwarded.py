"""What proxies say of their clients, and which of them are believed."""

from __future__ import annotations

import ipaddress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Union

    _Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class Trust:
    """The proxies that are believed: `*`, or addresses and networks, separated by commas.

    Who comes over a Unix socket is one, as soon as there is any. Raises ValueError for what is
    neither address nor network.
    """

    def __init__(self, allowed: str) -> None:
        words = [word.strip() for word in allowed.split(",") if word.strip()]
        self._everybody = "*" in words
        self._networks: list[_Network] = [
            ipaddress.ip_network(word, strict=False) for word in words if word != "*"
        ]
        self._any = bool(words)
        self._known: dict[str, bool] = {}

    def believes(self, address: str) -> bool:
        """Whether this client is a proxy to be believed; "" is one of a Unix socket."""
        if self._everybody or not address:
            return self._any
        found = self._known.get(address)
        if found is None:
            try:
                ip: Any = ipaddress.ip_address(address.partition("%")[0])
            except ValueError:
                return False
            ip = getattr(ip, "ipv4_mapped", None) or ip
            found = any(ip in network for network in self._networks)
            if len(self._known) < 1024:
                self._known[address] = found
        return found

    def apply(self, environ: dict[str, Any]) -> None:
        """Have a believed proxy's word say who the client is, and how it came."""
        proto = environ.get("HTTP_X_FORWARDED_PROTO")
        if proto is not None:
            # The nearest proxy's is the last one.
            scheme = proto.rpartition(",")[2].strip().lower()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
        chain = environ.get("HTTP_X_FORWARDED_FOR")
        if chain is None:
            return
        # From the nearest one on, the first that is no proxy of ours. What stands before it could
        # have been written by anybody.
        for word in reversed(chain.split(",")):
            address = _address(word.strip())
            if not address:
                return
            environ["REMOTE_ADDR"] = address
            environ.pop("REMOTE_PORT", None)
            # With `*` everybody is a proxy: the first of the chain is the client.
            if not (self._everybody or self.believes(address)):
                return


def _address(word: str) -> str:
    """Return an address as a proxy writes it, without its port; "" for what is none."""
    if word.startswith("["):
        word = word[1:].partition("]")[0]
    elif word.count(":") == 1:
        word = word.partition(":")[0]
    try:
        return str(ipaddress.ip_address(word))
    except ValueError:
        return ""
