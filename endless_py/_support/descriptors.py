"""No descriptor of ours has the number of a standard stream.

A program that was started without one of them, or has closed one, gives its number away to the
next descriptor that is opened. What is meant for standard error would then go into it.
"""

from __future__ import annotations

import os
import socket

_FIRST = 3  # after the standard streams


def keep_off_standard_streams(descriptor: int) -> int:
    """Return the descriptor, or one like it with a number above 2 in its place.

    It is not inherited by programs that are started. Raises OSError when there is no number left;
    the descriptor is closed then.
    """
    if descriptor >= _FIRST:
        return descriptor
    import fcntl  # late: every other one has a number above 2, and not every system has fcntl

    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    finally:
        os.close(descriptor)


def keep_socket_off_standard_streams(sock: socket.socket) -> socket.socket:
    """As keep_off_standard_streams(), for a socket of the plain class."""
    if sock.fileno() >= _FIRST:
        return sock
    timeout = sock.gettimeout()
    descriptor = keep_off_standard_streams(sock.detach())
    sock = socket.socket(sock.family, sock.type, sock.proto, fileno=descriptor)
    sock.settimeout(timeout)
    return sock


def pipe() -> tuple[int, int]:
    """As os.pipe(), with both numbers above 2."""
    reader, writer = os.pipe()
    try:
        reader = keep_off_standard_streams(reader)
    except OSError:
        os.close(writer)
        raise
    try:
        return reader, keep_off_standard_streams(writer)
    except OSError:
        os.close(reader)
        raise
