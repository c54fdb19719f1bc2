"""Everything of ours that parses what another process says, as functions of bytes.

Each takes any bytes, leaves no descriptor open, and raises nothing but what its reader is
promised. test_strangers.py gives them what hypothesis makes up, fuzz.py what atheris does.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import tempfile
from pathlib import Path

from endless_py._control.socket import MAX_REQUEST, ControlSocket, Conversation
from endless_py._handoff import greeting
from endless_py._handoff.channel import Channel
from endless_py._reload import dry_start
from endless_py._sockets import activation
from endless_py._sockets.connection import MigratingConnection
from endless_py._supervisor.pidfile import PidFile, read_pid
from endless_py.exceptions import ChannelClosed, ChannelError, PidFileError
from endless_py.upgrade.errors import SwapError
from endless_py.upgrade.swap import Releases


def text(data: bytes) -> str:
    """As an environment variable would have it."""
    return os.fsdecode(data).replace("\0", "")


def handoff_word(data: bytes) -> None:
    with contextlib.suppress(ChannelError):
        descriptor, _, peer, children = greeting._parse(text(data))
        assert descriptor >= 0
        assert peer >= 0
        assert all(0 < pid < 1 << 31 for pid in children)


def inheritance(data: bytes, descriptors: int = 0) -> None:
    """A greeting from a process that is its own predecessor."""
    mine, other = socket.socketpair()
    with mine, other, open(os.devnull) as null:
        mine.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            if data:
                socket.send_fds(mine, [data], [null.fileno()] * descriptors)
        mine.shutdown(socket.SHUT_WR)
        number = other.detach()
        try:
            found = greeting.Greeting(f"{number}:{os.getpid()}:")
        except ChannelError:
            with contextlib.suppress(OSError):  # what is no channel was not touched
                os.close(number)
        else:  # a good one
            assert found.predecessor.pid > 0
            found.predecessor.channel.close()
            for descriptor in [*(d for _, d in found.listeners), *found.files.values()]:
                os.close(descriptor)


def channel(data: bytes, descriptors: int = 0, pieces: int = 1) -> None:
    mine, other = socket.socketpair()
    receiver = Channel(other)
    try:
        with mine, open(os.devnull) as null:
            mine.setblocking(False)
            step = max(1, len(data) // pieces)
            for start in range(0, len(data), step):
                with contextlib.suppress(BlockingIOError):
                    rights = [null.fileno()] * descriptors
                    socket.send_fds(mine, [data[start : start + step]], rights)
                for message in receiver.receive():
                    assert isinstance(message.body, dict)
                    message.close()
        while True:
            for message in receiver.receive():
                message.close()
    except (ChannelClosed, ChannelError):
        pass
    finally:
        receiver.close()


def listen_variables(data: bytes) -> None:
    pid, count, names, _ = (data + b"\n\n\n").split(b"\n", 3)
    environ = {"LISTEN_PID": text(pid), "LISTEN_FDS": text(count), "LISTEN_FDNAMES": text(names)}
    listeners, problems = activation.take(environ)
    assert not environ
    assert all(descriptor > 2 for _, descriptor in listeners)
    assert listeners or problems or text(count).strip("0") == ""


def pid_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pid"
        path.write_bytes(data)
        with contextlib.suppress(PidFileError):
            assert 0 < read_pid(path) < 1 << 31
        file = PidFile(path)
        with contextlib.suppress(PidFileError):
            file.write(os.getpid())
            assert read_pid(path) == os.getpid()
        file.close()


def request(data: bytes) -> None:
    """What somebody who may ask says to the control socket."""
    asked = []

    def answer(conversation: Conversation, body: dict) -> None:
        asked.append(body)
        conversation.send({"event": "error"}, last=True)

    mine, other = socket.socketpair()
    control = ControlSocket(answer)
    with mine, other, socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen(1)
        listener.setblocking(False)
        control._socket = listener
        control.conversations.append(Conversation(other))
        mine.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            mine.send(data[: 4 * MAX_REQUEST])
        mine.shutdown(socket.SHUT_WR)
        for _ in range(8):
            control.step()
        assert control.conversations == []
        assert all(isinstance(body, dict) for body in asked)
        control.close()


def traveller(data: bytes) -> None:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(body, dict):
        return
    mine, other = socket.socketpair()
    descriptor = other.detach()
    try:
        MigratingConnection.from_json(body, descriptor).socket.close()
    except (KeyError, OSError, TypeError, ValueError):
        os.close(descriptor)
    finally:
        mine.close()


def dry_start_word(data: bytes) -> None:
    environ = {dry_start.VARIABLE: text(data)}
    warnings: list[str] = []
    found = dry_start.DryStart(environ, warnings.append)
    assert not environ
    if warnings:
        found.end_here()


def upgrade_state(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        releases = Releases(Path(folder) / "app", folder)
        releases._own("json").write_bytes(data)
        with contextlib.suppress(SwapError):
            state = releases.load()
            state.find(state.current)
            releases.save()
            assert Releases(Path(folder) / "app", folder).load() == state


def frame(body: bytes, count: int = 0) -> bytes:
    """A message around any bytes."""
    return struct.pack("!4sIH", b"EPY1", len(body), count) + body


ALL = {
    f.__name__: f
    for f in (
        handoff_word,
        inheritance,
        channel,
        listen_variables,
        pid_file,
        request,
        traveller,
        dry_start_word,
        upgrade_state,
    )
}
