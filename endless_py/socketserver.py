"""The standard library's socketserver, with servers that can be replaced while they run."""

from __future__ import annotations

import socket as _socket
import socketserver as _std
import sys
from socketserver import (
    BaseRequestHandler,
    BaseServer,
    DatagramRequestHandler,
    StreamRequestHandler,
    ThreadingMixIn,
)

from endless_py._server.mixin import GracefulMixIn

TYPE_CHECKING = False  # true for checkers

__all__ = [
    "BaseRequestHandler",
    "BaseServer",
    "DatagramRequestHandler",
    "GracefulMixIn",
    "StreamRequestHandler",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "UDPServer",
]


if TYPE_CHECKING:
    # What checkers see: the constructors, attributes and methods of the standard classes first.
    class TCPServer(_std.TCPServer, GracefulMixIn): ...
else:

    class TCPServer(GracefulMixIn, _std.TCPServer):
        """socketserver.TCPServer, replaceable while it runs."""


class UDPServer(TCPServer, _std.UDPServer):
    """socketserver.UDPServer, replaceable while it runs."""


class ThreadingTCPServer(TCPServer, _std.ThreadingTCPServer):
    """socketserver.ThreadingTCPServer, replaceable while it runs."""


class ThreadingUDPServer(UDPServer, _std.ThreadingUDPServer):
    """socketserver.ThreadingUDPServer, replaceable while it runs."""


if hasattr(_socket, "AF_UNIX") and hasattr(_std, "UnixStreamServer"):

    class UnixStreamServer(TCPServer, _std.UnixStreamServer):
        """socketserver.UnixStreamServer, replaceable while it runs."""

    class UnixDatagramServer(UDPServer, _std.UnixDatagramServer):
        """socketserver.UnixDatagramServer, replaceable while it runs."""

    class ThreadingUnixStreamServer(UnixStreamServer, _std.ThreadingUnixStreamServer):
        """socketserver.ThreadingUnixStreamServer, replaceable while it runs."""

    class ThreadingUnixDatagramServer(UnixDatagramServer, _std.ThreadingUnixDatagramServer):
        """socketserver.ThreadingUnixDatagramServer, replaceable while it runs."""

    __all__ += [
        "ThreadingUnixDatagramServer",
        "ThreadingUnixStreamServer",
        "UnixDatagramServer",
        "UnixStreamServer",
    ]

if hasattr(_std, "ForkingMixIn"):
    from socketserver import ForkingMixIn

    class ForkingTCPServer(TCPServer, _std.ForkingTCPServer):
        """socketserver.ForkingTCPServer, replaceable while it runs."""

    class ForkingUDPServer(UDPServer, _std.ForkingUDPServer):
        """socketserver.ForkingUDPServer, replaceable while it runs."""

    __all__ += ["ForkingMixIn", "ForkingTCPServer", "ForkingUDPServer"]

    if hasattr(_socket, "AF_UNIX") and hasattr(_std, "UnixStreamServer"):
        if sys.version_info >= (3, 12):
            from socketserver import ForkingUnixDatagramServer as _ForkingUnixDatagram
            from socketserver import ForkingUnixStreamServer as _ForkingUnixStream
        else:

            class _ForkingUnixStream(ForkingMixIn, _std.UnixStreamServer):
                pass

            class _ForkingUnixDatagram(ForkingMixIn, _std.UnixDatagramServer):
                pass

        class ForkingUnixStreamServer(UnixStreamServer, _ForkingUnixStream):
            """socketserver.ForkingUnixStreamServer, replaceable while it runs."""

        class ForkingUnixDatagramServer(UnixDatagramServer, _ForkingUnixDatagram):
            """socketserver.ForkingUnixDatagramServer, replaceable while it runs."""

        __all__ += ["ForkingUnixDatagramServer", "ForkingUnixStreamServer"]
