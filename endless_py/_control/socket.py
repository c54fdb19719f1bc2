"""What other processes of the same user (or root) may ask this one: a Unix socket of its own.

The commands of `python -m endless_py` are the clients (see `commands`). The socket is PID.sock in a
folder that only its user can enter, so no stranger can fill its queue, and whoever shares nothing
but the network with this process does not reach it. A name in Linux's abstract namespace, which
belongs to the network, would be open to both (CVE-2020-15257 was that).

A request is one message of a channel, so is every answer, and none has descriptors; the
conversation lasts until the client has what it wants, or this process ends.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
import time
from contextlib import suppress

from endless_py._handoff.channel import Channel, peer
from endless_py._sockets.listener import unlink_if_stale
from endless_py._sockets.poller import READ
from endless_py._support.descriptors import keep_socket_off_standard_streams
from endless_py._support.reserve import no_room
from endless_py.exceptions import ChannelClosed, ChannelError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, Optional

    Answer = Callable[["Conversation", dict[str, Any]], None]

_NAME = "endless_py"  # of the folder; what follows it is the user's id
MAX_REQUEST = 1024  # bytes of JSON
_MAX_CONVERSATIONS = 64
_MAX_UNSENT = 65536  # bytes of answers that a client may leave unread, beside the kernel's buffer
_SILENCE = 10.0  # seconds a client has to send its request
_STALE_AFTER = 60.0  # seconds that a socket is there before it may be called stale
_MAX_STALE = 200  # sockets that are looked at
_PAUSE = 0.1  # seconds until clients are accepted again when there is no descriptor for one


class Conversation:
    """One client: its request, and what it is answered."""

    def __init__(self, sock: socket.socket) -> None:
        self.channel = Channel(sock, max_body=MAX_REQUEST, max_descriptors=0)
        self.peer = peer(sock)  # pid and user id, where the system tells
        self._must_ask_by = time.monotonic() + _SILENCE
        self._asked = False
        self._last = False  # no further answer follows
        self._ended = False

    def fileno(self) -> int:
        return self.channel.fileno()

    @property
    def deadline(self) -> Optional[float]:
        """The moment (time.monotonic) at which something is to be done here."""
        return self.channel.retry_at if self._asked else self._must_ask_by

    def send(self, body: dict[str, Any], last: bool = False) -> None:
        """Send an answer; `last` ends the conversation once the client has it."""
        if self._ended:
            return
        self._last = self._last or last
        if self.channel.unsent >= _MAX_UNSENT:
            self._ended = True  # a client that does not read
            return
        try:
            self.channel.send(body)
        except ChannelError as error:
            self._last = True
            self.channel.send({"event": "error", "reason": f"the answer cannot be sent: {error}"})

    def step(self) -> Optional[dict[str, Any]]:
        """Send what waits to be sent; return the request when it has just come whole."""
        self.channel.flush()
        try:
            messages = self.channel.receive()
        except ChannelClosed:
            self._ended = True  # the client has left
            return None
        except ChannelError as error:
            if not self._asked:
                self.send({"event": "error", "reason": f"protocol error: {error}"})
            self._ended = True
            return None
        for message in messages:
            message.close()
        if self._asked or not messages:
            return None  # nothing more is expected from it
        self._asked = True
        return messages[0].body

    @property
    def over(self) -> bool:
        silent = not self._asked and time.monotonic() >= self._must_ask_by
        return self._ended or silent or (self._last and not self.channel.sending)

    def leave_open(self) -> None:
        """Let only the operating system close it, when the process ends."""
        self.channel.flush()
        self.channel.leave_open()

    def close(self) -> None:
        self.channel.close()


class ControlSocket:
    """The socket and the conversations on it. One thread at a time calls anything here."""

    def __init__(self, answer: Answer, spares: Callable[[], bool] = lambda: True) -> None:
        """answer is called with each request and the conversation that it came in.

        spares says whether there is a descriptor for one conversation more.
        """
        self._answer = answer
        self._spares = spares
        self._socket: Optional[socket.socket] = None
        self._path = ""
        self._accepts_again_at: Optional[float] = None
        self.kept: Optional[int] = None  # the descriptor that this pid had before an exec
        self.conversations: list[Conversation] = []

    def open(self) -> None:
        """Start to listen, unless it does; raises OSError when that cannot be."""
        if self._socket is not None or not hasattr(socket, "AF_UNIX"):
            return
        kept, self.kept = self.kept, None
        if kept is not None:
            with suppress(OSError):
                sock = socket.socket(fileno=kept)
                self._path = str(sock.getsockname())
                self._socket = sock
                return
        sock = keep_socket_off_standard_streams(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            path = os.path.join(_make_folder(), f"{os.getpid()}.sock")
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
        found = {k: v for c in self.conversations for k, v in c.channel.watched().items()}
        again_at = self._accepts_again_at
        if again_at is not None and time.monotonic() >= again_at:
            self._accepts_again_at = again_at = None
        has_room = len(self.conversations) < _MAX_CONVERSATIONS
        if self._socket is not None and has_room and again_at is None:
            found[self._socket.fileno()] = READ
        return found

    def deadline(self) -> Optional[float]:
        """Return the moment (time.monotonic) at which `step()` must be called; None is never."""
        times = [self._accepts_again_at, *(c.deadline for c in self.conversations)]
        return min((moment for moment in times if moment is not None), default=None)

    def step(self) -> None:
        """Accept clients, answer what they ask, send what waits to be sent."""
        if self._socket is None:
            return
        if self._accepts_again_at is None or time.monotonic() >= self._accepts_again_at:
            self._accepts_again_at = None
            self._accept(self._socket)
        for conversation in self.conversations:
            request = conversation.step()
            if request is not None:
                self._answer(conversation, request)
        for conversation in list(self.conversations):
            if conversation.over:
                self.conversations.remove(conversation)
                conversation.close()

    def _accept(self, listener: socket.socket) -> None:
        # As many at a time: a stranger who connects again and again must not hold the loop.
        for _ in range(_MAX_CONVERSATIONS - len(self.conversations)):
            try:
                if self.conversations and not self._spares():
                    raise no_room()
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionError, InterruptedError):
                return
            except OSError:  # no descriptor for it: the listener stays readable meanwhile
                self._accepts_again_at = time.monotonic() + _PAUSE
                return
            if may_ask(sock):
                with suppress(OSError):
                    self.conversations.append(Conversation(keep_socket_off_standard_streams(sock)))
            else:
                sock.close()

    def close(self) -> None:
        """Stop listening, and end the conversations. In a forked child the path is the parent's."""
        for conversation in self.conversations:
            conversation.close()
        self.conversations = []
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        kept, self.kept = self.kept, None
        if kept is not None:
            os.close(kept)

    def descriptors(self) -> list[int]:
        """Return the one to which commands connect; a forked child has to give it up."""
        return [] if self._socket is None else [self._socket.fileno()]

    def keep_for_exec(self) -> Optional[int]:
        """Return the descriptor that is to outlast an exec: who connects meanwhile waits in its
        queue. What is asked already ends with the exec, as with the end of the process.
        """
        sock, self._socket, self._path = self._socket, None, ""
        return None if sock is None else sock.detach()

    def leave_open(self) -> None:
        """The process ends: clients take the end of their conversation for its end, so only
        the operating system closes them.
        """
        if self._path:
            with suppress(OSError):
                os.unlink(self._path)
        for conversation in self.conversations:
            conversation.leave_open()
        self.conversations = []


def may_ask(sock: socket.socket) -> bool:
    """Whether the client may ask; where the system does not tell, the folder keeps others out."""
    found = peer(sock)
    return found is None or found[1] in (0, os.geteuid())


def folder_pattern() -> str:
    """Return a regular expression for the folders' names."""
    return rf"{_NAME}-\d+(?:-[0-9a-f]+)?"


def folders(uid: int) -> list[str]:
    """Return where a user's sockets are to be, the first choice first."""
    found = [os.environ.get("TMPDIR") or "/tmp", "/tmp"]
    if uid == 0 and sys.platform.startswith("linux"):
        found.insert(0, "/run")
    return [os.path.join(parent, f"{_NAME}-{uid}") for parent in found if len(parent) < 60]


def private_folders(uid: Optional[int] = None) -> Iterator[str]:
    """Return the folders of a user's sockets that are there; None: those of every user."""
    import re  # late, as a server that only starts does not look for others

    for parent in dict.fromkeys(map(os.path.dirname, folders(os.geteuid()))):
        with suppress(OSError):
            for name in os.listdir(parent):
                found = re.fullmatch(folder_pattern(), name)
                owner = int(name.split("-")[1]) if found else -1
                path = os.path.join(parent, name)
                if found and uid in (None, owner) and is_private(path, owner):
                    yield path


def is_private(path: str, uid: int) -> bool:
    """Whether this is a folder of that user's which nobody else can enter."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid and not status.st_mode & 0o077


def _make_folder() -> str:
    """Return a folder that only this user can enter; raises OSError when there can be none."""
    uid, problem = os.geteuid(), None
    wanted = folders(uid)
    # Another user may have made what has the name: then it is one that nobody can know before.
    for path in [*wanted, f"{wanted[-1]}-{os.urandom(6).hex()}"]:
        try:
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
        except OSError as error:
            problem = error
        if is_private(path, uid):
            _remove_stale(path)
            return path
    raise problem or PermissionError(1, "not a folder that only its user can enter", path)


def _remove_stale(folder: str) -> None:
    """Remove the sockets of processes that were killed."""
    with suppress(OSError):
        for name in os.listdir(folder)[:_MAX_STALE]:
            path = os.path.join(folder, name)
            if time.time() - os.lstat(path).st_mtime >= _STALE_AFTER:  # else it may not listen yet
                unlink_if_stale(path)
