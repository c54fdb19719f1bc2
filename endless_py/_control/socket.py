"""What other processes of the same user (or root) may ask this one: a Unix socket of its own.

The commands of `python -m endless_py` are the clients (see `commands`). On Linux the socket has
an abstract name, "endless_py/PID/RANDOM": nobody can occupy it beforehand, and /proc/net/unix
lists it. Elsewhere it is PID.sock in a folder that only its user can enter.

A request is one JSON object on one line, so is every answer; the connection lasts until the
asker has what it wants, or this process ends.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
import time
from contextlib import suppress

from endless_py._sockets.poller import READ, WRITE

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    Answer = Callable[["Conversation", dict[str, Any]], None]

PREFIX = "endless_py/"
MAX_REQUEST = 1024  # bytes
_MAX_CONVERSATIONS = 8
_MAX_ANSWERS = 65536  # bytes that an asker may leave unread
_SILENCE = 10.0  # seconds an asker has to send its request


class Conversation:
    """One asker."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._incoming = b""
        self._outgoing = b""
        self._since = time.monotonic()
        self._last = False
        self.asked = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def events(self) -> int:
        return READ | (WRITE if self._outgoing else 0)

    @property
    def due(self) -> Optional[float]:
        """The moment (time.monotonic) at which it must have asked."""
        return None if self.asked else self._since + _SILENCE

    def send(self, body: dict[str, Any], last: bool = False) -> None:
        """Answer one line; `last` ends the conversation."""
        if len(self._outgoing) < _MAX_ANSWERS:
            import json  # late, as only a command needs it

            self._outgoing += json.dumps(body).encode() + b"\n"
        self._last = self._last or last
        self.flush()

    def flush(self) -> None:
        try:
            while self._outgoing:
                sent = self._socket.send(self._outgoing, getattr(socket, "MSG_NOSIGNAL", 0))
                self._outgoing = self._outgoing[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self.end()

    def end(self) -> None:
        """The asker has left."""
        self._outgoing, self._last = b"", True

    def read(self) -> Optional[bytes]:
        """Return the request once it is whole, b"" when the asker has left."""
        try:
            data = self._socket.recv(MAX_REQUEST + 1)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""
        if not data:
            return b""
        if self.asked:
            return None  # nothing more is expected from it
        self._incoming += data
        if b"\n" in self._incoming or len(self._incoming) > MAX_REQUEST:
            self.asked = True
            return self._incoming
        return None

    @property
    def over(self) -> bool:
        return self._last and not self._outgoing

    def leave_open(self) -> None:
        """Let only the operating system close it, when the process ends."""
        self.flush()
        self._socket.detach()

    def close(self) -> None:
        self._socket.close()


class Remote:
    """The socket and the conversations on it. One thread at a time calls anything here."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._socket: Optional[socket.socket] = None
        self._path = ""
        self.conversations: list[Conversation] = []

    def open(self) -> None:
        """Start to listen, unless it does; raises OSError when that cannot be."""
        if self._socket is not None or not hasattr(socket, "AF_UNIX"):
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if sys.platform.startswith("linux"):
                sock.bind(f"\0{PREFIX}{os.getpid()}/{os.urandom(6).hex()}")
            else:
                path = os.path.join(private_folder(os.geteuid(), make=True), f"{os.getpid()}.sock")
                with suppress(OSError):
                    os.unlink(path)
                sock.bind(path)
                self._path = path
            sock.listen(_MAX_CONVERSATIONS)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        self._socket = sock

    def watched(self) -> dict[int, int]:
        """Return the descriptors that lead to `step()`."""
        found = {c.fileno(): c.events for c in self.conversations}
        if self._socket is not None and len(self.conversations) < _MAX_CONVERSATIONS:
            found[self._socket.fileno()] = READ
        return found

    def deadline(self) -> Optional[float]:
        return min((c.due for c in self.conversations if c.due is not None), default=None)

    def step(self) -> None:
        """Take new askers in, read what they ask, write what they have not read yet."""
        if self._socket is None:
            return
        # As many at a time: a stranger who connects again and again must not hold the loop.
        for _ in range(_MAX_CONVERSATIONS - len(self.conversations)):
            try:
                sock, _ = self._socket.accept()
            except OSError:
                break
            if may_ask(sock):
                self.conversations.append(Conversation(sock))
            else:
                sock.close()
        for conversation in self.conversations:
            self._hear(conversation)
        for conversation in list(self.conversations):
            if conversation.over or (
                conversation.due is not None and time.monotonic() >= conversation.due
            ):
                self._forget(conversation)

    def _hear(self, conversation: Conversation) -> None:
        conversation.flush()
        line = conversation.read()
        if line is None:
            return
        if not line:
            conversation.end()
            return
        import json

        try:
            if len(line) > MAX_REQUEST:
                raise ValueError(f"it is longer than {MAX_REQUEST} bytes")
            body = json.loads(line.partition(b"\n")[0].decode())
            if not isinstance(body, dict):
                raise ValueError("it is not an object")
        except (ValueError, RecursionError) as error:
            conversation.send({"event": "error", "reason": f"not a request: {error}"}, last=True)
            return
        self._answer(conversation, body)

    def _forget(self, conversation: Conversation) -> None:
        self.conversations.remove(conversation)
        conversation.close()

    def close(self) -> None:
        """Stop listening, and talking. In a forked child the path is the parent's."""
        for conversation in self.conversations:
            conversation.close()
        self.conversations = []
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def leave_open(self) -> None:
        """The process ends: that is what the conversations' ends are to tell, not any earlier."""
        if self._path:
            with suppress(OSError):
                os.unlink(self._path)
        for conversation in self.conversations:
            conversation.leave_open()
        self.conversations = []


def peer(sock: socket.socket) -> Optional[tuple[int, int]]:
    """Return the pid and user id at the other end; None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid


def may_ask(sock: socket.socket) -> bool:
    """Whether who connected may ask; where nobody tells, the folder has kept others out."""
    found = peer(sock)
    return found is None or found[1] in (0, os.geteuid())


def private_folder(uid: int, make: bool = False) -> str:
    """Return the folder of a user's sockets; raises OSError when others could have made it."""
    import tempfile  # takes long to import, and Linux does not come here

    path = os.path.join(tempfile.gettempdir(), f"endless_py-{uid}")
    if make:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & 0o077:
        raise PermissionError(1, "not a folder that only its user can enter", path)
    return path
