"""The commands' socket, with both of its ends in this process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from harness import TIMEOUT, environment

from endless_py._control import client
from endless_py._control import socket as control_socket
from endless_py._control.client import Client, Deadline, Failed, TimedOut
from endless_py._control.socket import MAX_REQUEST, ControlSocket
from endless_py._handoff.channel import HEADER, MAGIC
from endless_py._sockets.poller import Poller
from endless_py._support.descriptors import keep_socket_off_standard_streams


def frame(data, count=0):
    return HEADER.pack(MAGIC, len(data), count) + data


@pytest.fixture
def asked():
    return []


@pytest.fixture
def control(asked):
    """A control socket that answers every request but "watch" with what it was asked."""

    def answer(conversation, request):
        asked.append(request)
        if request.get("command") != "watch":
            conversation.send({"event": "answer", "request": request}, last=True)

    before = set(os.listdir("/proc/self/fd"))
    found = ControlSocket(answer)
    found.open()
    yield found
    found.close()
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def connect(control):
    """Connect to it, as a raw socket."""
    opened = []

    def connect_to_it(data=b""):
        sock = socket.socket(socket.AF_UNIX)
        opened.append(sock)
        sock.settimeout(TIMEOUT)
        sock.connect(control._socket.getsockname())
        if data:
            sock.sendall(data)
        return sock

    yield connect_to_it
    for sock in opened:
        sock.close()


def answers(sock):
    """Return the answers until the other end closes."""
    data = b""
    try:
        while True:
            more = sock.recv(65536)
            if not more:
                break
            data += more
    except ConnectionResetError:
        pass  # it left something unread
    found = []
    while data:
        magic, length, count = HEADER.unpack_from(data)
        assert (magic, count) == (MAGIC, 0)
        found.append(json.loads(data[HEADER.size : HEADER.size + length]))
        data = data[HEADER.size + length :]
    return found


def error(sock):
    """Return the reason of the one answer, an error."""
    (answer,) = answers(sock)
    assert answer["event"] == "error"
    return answer["reason"]


def test_a_request_is_answered_and_the_conversation_ends(control, connect, asked):
    sock = connect(frame(b'{"command": "status"}'))
    control.step()
    assert answers(sock) == [{"event": "answer", "request": {"command": "status"}}]
    assert asked == [{"command": "status"}]
    assert control.conversations == []


def test_a_request_may_come_byte_by_byte(control, connect, asked):
    sock = connect()
    for byte in frame(b'{"command": "watch"}'):
        assert asked == []
        sock.send(bytes([byte]))
        control.step()
    assert asked == [{"command": "watch"}]
    assert control.deadline() is None  # it has asked, and may wait as long as it likes


def test_only_the_first_request_counts(control, connect, asked):
    sock = connect(frame(b'{"command": "watch"}') + frame(b'{"command": "stop"}'))
    control.step()
    sock.sendall(frame(b'{"command": "stop"}'))
    control.step()
    assert asked == [{"command": "watch"}]
    assert len(control.conversations) == 1
    sock.close()
    control.step()
    assert control.conversations == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frame(b"{" + b" " * MAX_REQUEST + b"}"), f"at most {MAX_REQUEST} may come"),
        (HEADER.pack(MAGIC, 1 << 31, 0), f"at most {MAX_REQUEST} may come"),
        (frame(b"{}", 1), "a message with 1 descriptors; at most 0 may come"),
        (b'{"command": "stop"}\n', "not a message of this protocol"),
        (frame(b"stop"), "not JSON"),
        (frame(b"[]"), "not an object"),
    ],
    ids=["too long", "longer", "descriptors", "a line", "no JSON", "no object"],
)
def test_a_protocol_error_is_answered_once(control, connect, asked, data, reason):
    sock = connect(data + b"x" * 1000)
    control.step()
    assert control.conversations == []
    assert error(sock).startswith("protocol error: ")
    sock = connect(data)
    control.step()
    assert reason in error(sock)
    assert asked == []


def test_the_longest_request_is_taken(control, connect, asked):
    body = json.dumps({"command": "x" * (MAX_REQUEST - 15)}).encode()
    assert len(body) == MAX_REQUEST
    connect(frame(body))
    control.step()
    assert asked == [json.loads(body)]


def test_descriptors_that_come_are_closed(control, connect, asked):
    reading, writing = os.pipe()
    sock = connect()
    socket.send_fds(sock, [frame(b'{"command": "stop"}')], [writing] * 5)
    os.close(writing)
    control.step()
    assert "descriptors" in error(sock)
    assert os.read(reading, 1) == b""  # nobody has the other end any more
    os.close(reading)
    assert asked == []


def test_a_silent_client_has_its_time_and_no_more(control, connect, asked, monkeypatch):
    sock = connect(frame(b'{"command": "stop"}')[:-1])
    before = time.monotonic()
    control.step()
    assert len(control.conversations) == 1
    assert before < control.deadline() <= time.monotonic() + control_socket._SILENCE
    over = control.deadline()
    monkeypatch.setattr(time, "monotonic", lambda: over)
    control.step()
    assert answers(sock) == []
    assert control.conversations == []
    assert control.deadline() is None
    assert asked == []


def test_more_clients_than_there_is_room_for_wait_in_the_queue(control, connect, monkeypatch):
    monkeypatch.setattr(control_socket, "_MAX_CONVERSATIONS", 8)
    listener = control._socket.fileno()
    clients = [connect(frame(b'{"command": "watch"}')) for _ in range(8)]
    assert listener in control.watched()
    control.step()
    assert len(control.conversations) == 8
    late = connect(frame(b'{"command": "status"}'))
    control.step()
    assert len(control.conversations) == 8
    assert listener not in control.watched()  # it would be readable all the time
    clients.pop().close()
    control.step()
    assert listener in control.watched()
    control.step()
    assert [answer["event"] for answer in answers(late)] == ["answer"]


def test_strangers_are_turned_away_a_few_at_a_time(control, connect, asked, monkeypatch):
    seen = []
    monkeypatch.setattr(control_socket, "_MAX_CONVERSATIONS", 8)
    monkeypatch.setattr(control_socket, "peer", lambda sock: seen.append(sock) or (1, 54321))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    strangers = [connect(frame(b'{"command": "stop"}')) for _ in range(9)]
    control.step()
    assert len(seen) == 8  # then the loop does something else
    control.step()
    assert len(seen) == 9
    assert all(answers(sock) == [] for sock in strangers)
    assert control.conversations == []
    assert asked == []


def test_a_client_that_does_not_read_is_forgotten_at_a_bound(control, connect):
    sock = connect(frame(b'{"command": "watch"}'))
    control.step()
    (conversation,) = control.conversations
    sent = 0
    while not conversation.over:
        assert conversation.channel.unsent < 65536 + 20_000
        conversation.send({"event": "more", "text": "x" * 10_000})
        sent += 1
        assert sent < 200
    control.step()
    assert control.conversations == []
    sock.close()


def test_an_answer_waits_for_room(control, connect):
    sock = connect(frame(b'{"command": "watch"}'))
    control.step()
    (conversation,) = control.conversations
    text = "x" * 250_000  # more than the kernel takes at once
    conversation.send({"event": "more", "text": text}, last=True)
    found = []
    thread = threading.Thread(target=lambda: found.extend(answers(sock)))
    thread.start()
    waiter = Poller()
    while control.conversations:
        waiter.watch(control.watched())
        waiter.wait(TIMEOUT)
        control.step()
    waiter.close()
    thread.join(TIMEOUT)
    assert found == [{"event": "more", "text": text}]


def test_an_answer_that_is_too_long_is_an_error(control, connect):
    sock = connect(frame(b'{"command": "watch"}'))
    control.step()
    control.conversations[0].send({"event": "more", "text": "x" * 300_000})
    control.step()
    assert error(sock) == "the answer cannot be sent: message too large"


def test_without_descriptors_nobody_is_accepted_for_a_moment(control, connect, monkeypatch):
    listener = control._socket

    class Full:
        def accept(self):
            raise OSError(24, "Too many open files")

        def fileno(self):
            return listener.fileno()

    sock = connect(frame(b'{"command": "status"}'))
    control._socket = Full()
    control.step()
    assert control.watched() == {}
    again = control.deadline()
    assert again <= time.monotonic() + control_socket._PAUSE
    control._socket = listener
    monkeypatch.setattr(time, "monotonic", lambda: again)
    assert listener.fileno() in control.watched()
    assert control.deadline() is None
    control.step()
    assert [answer["event"] for answer in answers(sock)] == ["answer"]


def test_the_end_of_the_process_is_what_ends_a_conversation(control, connect):
    sock = connect(frame(b'{"command": "watch"}'))
    control.step()
    descriptor = control.conversations[0].fileno()
    control.leave_open()
    assert control.conversations == []
    sock.settimeout(0.05)
    with pytest.raises(TimeoutError if sys.version_info >= (3, 10) else socket.timeout):
        sock.recv(1)
    os.close(descriptor)
    assert sock.recv(1) == b""


def test_a_forked_child_has_none_of_it_be_it_open_or_kept_from_before_an_exec():
    kept, other = socket.socketpair()
    found = ControlSocket(lambda *_: None)
    found.kept = kept.detach()
    found.close()
    with other:
        other.settimeout(TIMEOUT)
        assert other.recv(1) == b""
    found.close()


# -- the client's end ---------------------------------------------------------


@pytest.fixture
def pair():
    """A client, and the socket of the process that it asks."""
    mine, other = socket.socketpair()
    with Client(os.getpid(), mine, Deadline(TIMEOUT)) as asking, other:
        yield asking, other


def test_a_client_takes_answers_one_by_one(pair):
    asking, other = pair
    asking.ask("upgrade", check_only=True)
    assert other.recv(1000) == frame(b'{"command": "upgrade", "check_only": true}')
    other.sendall(frame(b'{"event": "a"}') + frame(b'{"event": "b"}'))
    other.shutdown(socket.SHUT_WR)
    assert asking.next() == {"event": "a"}
    assert asking.next() == {"event": "b"}
    assert asking.next() is None


def test_a_client_says_what_was_refused_and_what_is_no_answer(pair):
    asking, other = pair
    other.sendall(frame(b'{"event": "error", "reason": "no"}'))
    with pytest.raises(Failed, match=f"process {os.getpid()}: no$"):
        asking.next()
    other.sendall(b"not a message")
    with pytest.raises(Failed, match="protocol error: not a message of this protocol"):
        asking.next()


def test_a_client_waits_until_its_deadline_and_interrupts_once(monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda *what: sent.append(what))
    mine, other = socket.socketpair()
    with Client(os.getpid(), mine, Deadline(0.5)) as asking, other:
        began = time.monotonic()
        with pytest.raises(TimedOut):
            asking.next()
        assert 0.49 < time.monotonic() - began < 5
    assert len(sent) == 1


def test_a_client_can_have_a_high_descriptor(pair):
    asking, other = pair
    high = asking._channel._socket.fileno()
    import fcntl
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1100:
        pytest.skip("this user may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
    try:
        moved = socket.socket(fileno=fcntl.fcntl(high, fcntl.F_DUPFD_CLOEXEC, 1050))
        with Client(os.getpid(), moved, Deadline(TIMEOUT)) as far:
            threading.Timer(0.1, other.sendall, [frame(b'{"event": "a"}')]).start()
            assert far.next() == {"event": "a"}  # select() would raise
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_both_ends_find_each_other(control, asked):
    ended = threading.Event()

    def serve():
        while not ended.is_set():
            control.step()
            time.sleep(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.connect(os.getpid(), Deadline(TIMEOUT)) as asking:
            asking.ask("status")
            assert asking.next()["request"] == {"command": "status"}
            assert asking.next() is None
    finally:
        ended.set()
        thread.join()
    assert asked == [{"command": "status"}]


# -- closed standard streams --------------------------------------------------

CLOSED = """
import os, socket
from endless_py._control.socket import ControlSocket
for number in range(3):
    os.close(number)
control = ControlSocket(lambda conversation, request: None)
control.open()
holes = [os.open(os.devnull, os.O_RDWR) for _ in range(2)]
asking = socket.socket(socket.AF_UNIX)
asking.connect(control._socket.getsockname())
control.step()
numbers = [control._socket.fileno(), control.conversations[0].fileno()]
inherited = any(map(os.get_inheritable, numbers))
os._exit(0 if holes == [0, 1] and min(numbers) > 2 and not inherited else 1)
"""


def test_what_is_missing_from_one_reading_of_the_kernels_table_is_found(control, monkeypatch):
    """It is read in pieces, while other processes make sockets and close them."""
    readings = []
    real = client._sockets

    def read(pid):
        readings.append(real(pid))
        return readings[-1] if len(readings) > 2 else ""

    monkeypatch.setattr(client, "_sockets", read)
    assert f"/proc/{os.getpid()}/root{control._path}" in client.addresses(os.getpid())
    assert len(readings) == 3


def test_no_socket_takes_the_number_of_a_standard_stream():
    done = subprocess.run([sys.executable, "-c", CLOSED], env=environment(), timeout=TIMEOUT)
    assert done.returncode == 0


def test_a_socket_above_the_standard_streams_is_left_alone():
    with socket.socket() as sock:
        assert keep_socket_off_standard_streams(sock) is sock


@pytest.fixture
def parent(monkeypatch):
    """The folder of sockets, in one with a short path instead of /run and /tmp."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        found = Path(short) / f"endless_py-{os.geteuid()}"
        monkeypatch.setattr(control_socket, "folders", lambda uid: [str(found)])
        yield found


def test_nobody_else_can_enter_the_folder(parent):
    found = ControlSocket(lambda *_: None)
    found.open()
    assert found._path == str(parent / f"{os.getpid()}.sock")
    assert parent.stat().st_mode & 0o777 == 0o700
    found.leave_open()
    assert os.listdir(parent) == []
    found.close()


@pytest.mark.parametrize("what", ["open to others", "a link", "a file"])
def test_a_folder_that_another_user_may_have_made_is_not_used(what, parent):
    if what == "open to others":
        parent.mkdir(0o755)
    elif what == "a link":
        (parent.parent / "elsewhere").mkdir(0o700)
        parent.symlink_to(parent.parent / "elsewhere")
    else:
        parent.touch()
    found = ControlSocket(lambda *_: None)
    found.open()
    try:
        assert os.path.dirname(os.path.dirname(found._path)) == str(parent.parent)
        assert found._path.startswith(f"{parent}-")
        # Another test in this process may have left the socket of a server that it served.
        assert f"/proc/{os.getpid()}/root{found._path}" in client.addresses(os.getpid())
    finally:
        found.leave_open()
        found.close()


def test_the_sockets_of_killed_processes_are_removed(parent):
    parent.mkdir(0o700)
    long_ago = time.time() - 3600
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as dead:
        living.bind(str(parent / "1.sock"))
        living.listen()
        dead.bind(str(parent / "2.sock"))
        for name in ("1.sock", "2.sock"):
            os.utime(parent / name, (long_ago, long_ago))
        with socket.socket(socket.AF_UNIX) as young:
            young.bind(str(parent / "3.sock"))
            found = ControlSocket(lambda *_: None)
            found.open()
        assert set(os.listdir(parent)) == {"1.sock", "3.sock", f"{os.getpid()}.sock"}
        found.leave_open()
        found.close()


def test_more_ask_at_once_than_the_queue_holds(control):
    """They wait: that nobody answers at once does not mean that nobody is there."""
    answered = []

    def ask():
        with client.connect(os.getpid(), Deadline(TIMEOUT)) as asking:
            asking.ask("status")
            answered.append(asking.next())

    threads = [threading.Thread(target=ask) for _ in range(150)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + TIMEOUT
    while len(answered) < len(threads):
        assert time.monotonic() < deadline
        control.step()
    for thread in threads:
        thread.join(TIMEOUT)
