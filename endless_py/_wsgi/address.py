"""What --bind names."""

from __future__ import annotations

import os
import socket

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional


class Address:
    """What is bound: HOST:PORT, [IPV6]:PORT, HOST, :PORT or unix:PATH. ValueError for others."""

    def __init__(self, text: str, directory: str = "") -> None:
        """directory is the one in which a relative path is meant."""
        self.text = text
        self.path: Optional[str] = None
        if text.startswith("unix:"):
            path = text[5:]
            if path.startswith("//"):
                path = path[2:]
            if not path:
                raise ValueError(f"{text!r} has no path; give unix:PATH")
            self.path = os.path.join(directory, path)
            return
        if "://" in text:
            text = text.partition("://")[2]
        host, bracket, rest = text[1:].partition("]") if text[:1] == "[" else ("", "", text)
        if not bracket:
            host, _, port = rest.partition(":") if rest.count(":") == 1 else (rest, "", "")
            if rest.count(":") > 1:
                raise ValueError(f"{text!r}: an IPv6 address goes in brackets: [{text}]:8000")
        elif rest and rest[0] != ":":
            raise ValueError(f"{text!r} is not an address; give [ADDRESS]:PORT")
        else:
            port = rest[1:]
        self.host = host or "0.0.0.0"
        if port and not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise ValueError(f"{port!r} is not a port; give a number from 0 to 65535")
        self.port = int(port or 8000)

    def resolve(self) -> tuple[int, Any]:
        """Return family and address; raises OSError."""
        if self.path is not None:
            return socket.AF_UNIX, self.path
        found = socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return int(found[0][0]), found[0][4]
