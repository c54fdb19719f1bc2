"""Keeping the numbers 0, 1 and 2 free for standard input, output and error."""

from __future__ import annotations

import socket

_FIRST = 3  # the lowest number that means nothing to a program that is started


def above_standard(sock: socket.socket) -> socket.socket:
    """Return the socket, or one with a number above 2 for it, which is then closed.

    A program whose standard streams are closed gets their numbers for what it opens next, and
    what is kept there would be the input or output of every program that it starts. Raises
    OSError, with the socket closed, when there is no number left.
    """
    if sock.fileno() >= _FIRST:
        return sock
    import fcntl  # late: where it is missing nothing is served

    with sock:
        number = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, _FIRST)
        moved = socket.socket(sock.family, sock.type, sock.proto, fileno=number)
        moved.settimeout(sock.gettimeout())
    return moved
