"""The bytes of one connection: read ahead, sent, and waited for no longer than the settings say."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence

_PIECE = 65536
_SMALL = 16384  # bytes that are rather copied than sent from two places
_LINGER = 2.0  # seconds for which a client that still sends is listened to
_LINGERED = 1 << 20  # bytes that are thrown away meanwhile
_SENDFILE = 1 << 30  # bytes in one call


class ClientGone(ConnectionError):
    """The client has left, or takes nothing any more."""


class ClientTimeout(ClientGone):
    """The client has said nothing for too long."""


class Transport:
    """A socket whose descriptor does not wait, with what was read ahead of it."""

    def __init__(self, sock: socket.socket, patience: float) -> None:
        """patience is how long, in seconds, a client may take none of what is sent to it."""
        self.sock = sock
        self.data = b""  # read, and not used yet
        self.gone = False
        self._descriptor = sock.fileno()
        self._patience = patience
        self._poll: Optional[select.poll] = None

    def read(self) -> Optional[bytes]:
        """Return what is there: b"" is the client's end, None that there is nothing yet."""
        try:
            return os.read(self._descriptor, _PIECE)
        except BlockingIOError:
            return None
        except OSError as error:
            self.gone = True
            raise ClientGone(*error.args) from None

    def wait(self, events: int, seconds: float) -> bool:
        """Wait until it can be read or written."""
        if self._poll is None:
            self._poll = select.poll()
        self._poll.register(self._descriptor, events)
        return bool(self._poll.poll(max(0.0, seconds) * 1000))

    def receive(self, deadline: float) -> bytes:
        """Return some bytes, b"" at the client's end; ClientTimeout at the moment `deadline`."""
        while True:
            found = self.read()
            if found is not None:
                return found
            if not self.wait(select.POLLIN, deadline - time.monotonic()):
                raise ClientTimeout("the client has said nothing for too long")

    def _write(self, pieces: Sequence[Any]) -> int:
        if len(pieces) == 1:
            return os.write(self._descriptor, pieces[0])
        return os.writev(self._descriptor, pieces)

    def send(self, *pieces: bytes) -> None:
        """Send it all; raises ClientGone."""
        size = sum(map(len, pieces))
        if len(pieces) > 1 and size <= _SMALL:
            pieces = (b"".join(pieces),)
        try:
            sent = self._write(pieces)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.gone = True
            raise ClientGone(*error.args) from None
        if sent == size:
            return
        left = memoryview(b"".join(pieces))[sent:]
        while left:
            self._await_room()
            try:
                left = left[self._write([left]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                self.gone = True
                raise ClientGone(*error.args) from None

    def _await_room(self) -> None:
        if not self.wait(select.POLLOUT, self._patience):
            self.gone = True
            raise ClientTimeout("the client takes nothing of the response")

    def can_send_files(self) -> bool:
        return sys.platform == "linux"  # elsewhere the call differs, and reading does as well

    def send_file(self, descriptor: int, offset: int, count: int) -> int:
        """Send a part of a file; return how much there was."""
        sent = 0
        while sent < count:
            try:
                found = os.sendfile(
                    self._descriptor, descriptor, offset + sent, min(count - sent, _SENDFILE)
                )
            except BlockingIOError:
                self._await_room()
                continue
            except (BrokenPipeError, ConnectionError) as error:
                self.gone = True
                raise ClientGone(*error.args) from None
            if not found:
                break
            sent += found
        return sent

    def linger(self) -> None:
        """Say that this is the end, and hear the client out: a reset would take the response."""
        deadline, most = time.monotonic() + _LINGER, _LINGERED
        with suppress(OSError, ValueError):
            self._end_sending()
            while most > 0:
                found = self.receive(deadline)
                if not found:
                    return
                most -= len(found)

    def _end_sending(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)


class TLSTransport(Transport):
    """The same for TLS, whose records the ssl module reads and writes."""

    def __init__(self, sock: Any, patience: float) -> None:
        super().__init__(sock, patience)
        import ssl  # there already: the server has made the handshake

        sock.settimeout(0.0)
        self._ssl = ssl
        self._tls: Any = sock

    def read(self) -> Optional[bytes]:
        try:
            found: bytes = self._tls.recv(_PIECE)
            return found
        except self._ssl.SSLWantReadError:
            return None
        except self._ssl.SSLWantWriteError:
            self._await_room()
            return None
        except OSError as error:
            self.gone = True
            raise ClientGone(*error.args) from None

    def _write(self, pieces: Sequence[Any]) -> int:
        try:
            return int(self._tls.send(b"".join(pieces) if len(pieces) > 1 else pieces[0]))
        except (self._ssl.SSLWantWriteError, self._ssl.SSLWantReadError):
            # It has to be called with the same bytes again, which send() does.
            raise BlockingIOError from None

    def can_send_files(self) -> bool:
        return False

    def _end_sending(self) -> None:
        """The server says good-bye; what the client still sends is records."""


class Idle:
    """What waits at a message boundary of TLS: it has a time-out, though its socket never waits."""

    def __init__(self, sock: Any, timeout: float) -> None:
        self._timeout = timeout
        self.fileno = sock.fileno
        self.pending = sock.pending

    def gettimeout(self) -> float:
        return self._timeout
