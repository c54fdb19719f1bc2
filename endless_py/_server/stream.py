"""What a handler's stream has read already, seen without waiting and without taking it."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional


def own(handler: Any, name: str, default: Any = None) -> Any:
    """As getattr(), without asking a __getattr__() of the program's that answers to every name."""
    try:
        return object.__getattribute__(handler, name)
    except AttributeError:
        return default


@contextmanager
def reading_raises(handler: Any, error: Exception) -> Iterator[None]:
    """Have the next read raise what `wait()` has raised: the class says what follows from it."""
    rfile = handler.rfile
    raw = rfile.raw if type(rfile) is io.BufferedReader else rfile

    def readinto(buffer: Any) -> int:
        raise error

    raw.readinto = readinto
    try:
        yield
    finally:
        del raw.readinto


def can_be_looked_into(handler: Any) -> bool:
    """Whether what its rfile has read ahead can be seen.

    Something that a program has put in its place (a counter, a limit, a tee) may have bytes of
    the next message. So nothing is waited for but by reading, and the bytes stay here.
    """
    rfile = own(handler, "rfile")
    if type(rfile) is io.BufferedReader:
        rfile = rfile.raw
    return rfile is None or type(rfile) is socket.SocketIO


def has_more(handler: Any) -> bool:
    """Whether bytes of the next message were read already, or nobody can know."""
    rfile = own(handler, "rfile")
    if type(rfile) is io.BufferedReader:
        if type(rfile.raw) is not socket.SocketIO or _peek(rfile, _nothing_yet):
            return True
    elif not can_be_looked_into(handler):
        return True
    pending = getattr(handler.connection, "pending", None)  # what TLS has decrypted
    return pending is not None and bool(pending())


def _peek(rfile: io.BufferedReader, readinto: Callable[[Any], Optional[int]]) -> bool:
    """Whether there is something in the buffer, once readinto() was asked for more if not."""
    raw = vars(rfile.raw)
    raw["readinto"] = readinto  # SocketIO's own would wait for the socket
    try:
        return bool(rfile.peek(1))
    finally:
        del raw["readinto"]


def read_ahead(handler: Any) -> bool:
    """Whether a fresh connection's client has said something already, which is read then.

    It nearly always has. What is found is in the handler's own buffer, where its own read finds
    it, so that the look costs nothing: no poll object, no system call more.
    """
    rfile, connection = own(handler, "rfile"), own(handler, "connection")
    if type(rfile) is not io.BufferedReader or type(connection) is not socket.socket:
        return False
    # With a time-out the call would wait, in spite of its flag.
    if type(rfile.raw) is not socket.SocketIO or connection.gettimeout() is not None:
        return False

    def readinto(buffer: Any) -> Optional[int]:
        try:
            return connection.recv_into(buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    return _peek(rfile, readinto)


def _nothing_yet(buffer: Any) -> None:
    """Stand in for SocketIO.readinto(): no byte is there, as a socket without any would say."""
