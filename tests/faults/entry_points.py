"""Everything of ours that parses what another process says, as functions of bytes.

Each takes any bytes, leaves no descriptor open, and raises nothing but what its reader is
promised. test_strangers.py gives them what hypothesis makes up, fuzz.py what atheris does.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import struct
import tarfile
import tempfile
from pathlib import Path

from endless_py._control.socket import MAX_REQUEST, ControlSocket, Conversation
from endless_py._handoff import greeting
from endless_py._handoff.channel import Channel
from endless_py._reload import dry_start
from endless_py._server import framing
from endless_py._sockets import activation
from endless_py._sockets.connection import MigratingConnection
from endless_py._supervisor.pidfile import PidFile, read_pid
from endless_py.exceptions import ChannelClosed, ChannelError, PidFileError
from endless_py.upgrade import archive, signature
from endless_py.upgrade.check import Candidate
from endless_py.upgrade.errors import Refused, SwapError
from endless_py.upgrade.sources import Artifact
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


def request_head(data: bytes) -> None:
    """A head that passes has no line that another reader could end elsewhere."""
    line, _, head = data.partition(b"\n")
    with contextlib.suppress(framing.FramingError):
        framing.check_head(line + b"\n", head)
        assert head.replace(b"\r\n", b"\n").endswith(b"\n")
        assert b"\r" not in data.replace(b"\r\n", b"")
        assert b"\0" not in data


def request_body(data: bytes) -> None:
    """A body in chunks: never a byte of the next request, nothing after an error."""
    stream = io.BytesIO(data)
    body = framing.Body(stream, None)
    got = b""
    try:
        while not body.at_end:
            got += body.read(7) or b""
    except framing.FramingError:
        assert body.failed
        assert not body.skip()
        return
    taken = data[: stream.tell()]
    assert taken.endswith(b"\r\n")
    assert len(got) < len(taken)
    assert body.read(7) == b""
    assert stream.tell() == len(taken)


def statement(data: bytes) -> None:
    """A signed statement about an artifact that has the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "app.pyz"
        path.write_bytes(data)
        candidate = Candidate(Artifact(path), path, path, digest=hashlib.sha256(data).hexdigest())
        with contextlib.suppress(Refused):
            assert signature._judge(data, "app.pyz.statement", candidate)


def _unpack(data: bytes, suffix: str) -> None:
    """Nothing is written outside of the folder, nor more than is allowed."""
    with tempfile.TemporaryDirectory() as name:
        outer = Path(name)
        path = outer / f"app{suffix}"
        path.write_bytes(data)
        with contextlib.suppress(Refused):
            archive.unpack(path, outer / "in", 1 << 20, 100)
            found = list((outer / "in").rglob("*"))
            assert len(found) <= 200  # the folders of members come with them
            for each in found:
                # pathlib's own raises at a link to itself, which is harmless.
                assert outer.resolve() / "in" in Path(os.path.realpath(each)).parents
            assert sum(each.lstat().st_size for each in found if each.is_file()) <= 1 << 20
        assert set(os.listdir(outer)) <= {path.name, "in"}


def tar(data: bytes) -> None:
    _unpack(data, ".tar")


def zip_file(data: bytes) -> None:
    _unpack(data, ".zip")


def tar_of(data: bytes) -> bytes:
    """Well-formed headers around what the bytes say: names, kinds, links, sizes, modes."""
    result = io.BytesIO()
    with tarfile.open(fileobj=result, mode="w", format=tarfile.GNU_FORMAT) as made:
        for line in data.split(b"\n")[:20]:
            name, _, link = line[1:].partition(b" ")
            member = tarfile.TarInfo(os.fsdecode(name))
            member.linkname = os.fsdecode(link)
            member.type = line[:1] or tarfile.REGTYPE
            member.mode = len(line) << 6 & 0o7777
            member.size = len(link) if member.isreg() else 0
            made.addfile(member, io.BytesIO(link))
    return result.getvalue()


SIGNED = {
    "_type": "endless_py release",
    "name": "app.pyz",
    "version": "1.0",
    "length": 1,
    "hashes": {"sha256": "0"},
    "expires": "2999-01-01T00:00:00Z",
}


def body_of(data: bytes) -> bytes:
    """Pieces of a body in chunks, one for each byte."""
    pieces = b"5\r\n", b"hello", b"\r\n", b"0\r\n", b"X: y\r\n", b"\n", b"1;a\r\n", b"!", b"ff\r\n"
    return b"".join(pieces[number % len(pieces)] for number in data)


def head_of(data: bytes) -> bytes:
    """A request line, and pieces of a head, one for each byte."""
    whole = b"Host: x\r\n", b"A:\t\r\n", b"Length: 1 \n", b"X: \x80\r\n"
    pieces = (*whole, b"Host", b": ", b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b"()", b"x: y")
    line = (b"GET / HTTP/1.1", b"GET  / HTTP/1.1", b"G\xc3T /\r HTTP/1.0", b"GET /")[len(data) % 4]
    ends = (b"\r\n\r\n", b"\n", b"")[len(data) % 3]
    return line + b"\r\n" + b"".join(pieces[number % len(pieces)] for number in data) + ends


def statement_of(data: bytes) -> bytes:
    """A statement, with the fields that the bytes name changed."""
    said: dict[str, object] = dict(SIGNED)
    for line in data.split(b"\n"):
        value: object = text(line[1:])
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(line[1:])
        said[sorted(said)[line[0] % len(said) if line else 0]] = value
    return json.dumps(said).encode()


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
        request_head,
        request_body,
        statement,
        tar,
        zip_file,
    )
}

# Few inputs would ever find the way into these: what makes bytes that are nearly good.
SHAPES = {
    request_head: head_of,
    request_body: body_of,
    statement: statement_of,
    tar: tar_of,
}

# What reads from a channel, and how each takes a number of descriptors that come with the bytes.
FRAMED = {
    channel: lambda count: (count,),
    inheritance: lambda count: (count,),
    request: lambda count: (),
}
