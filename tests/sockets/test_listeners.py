"""Listeners: which one is meant by an address, adopting it, and Unix paths."""

from __future__ import annotations

import os
import socket
import threading
import warnings

import pytest

from endless_py._sockets.keeper import Keeper
from endless_py._sockets.listener import Binding, ReceivedListeners
from endless_py._sockets.shared import ListenerSocket

INET, INET6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM

MATCHES = [
    # real address, asked for last time, asked for now, family, does it match by real address
    (("127.0.0.1", 80), ("127.0.0.1", 80), ("127.0.0.1", 80), INET, True),
    (("127.0.0.1", 80), ("localhost", 80), ("127.0.0.1", 80), INET, True),
    (("127.0.0.1", 80), ("127.0.0.1", 80), ("127.0.0.2", 80), INET, False),
    (("127.0.0.1", 80), ("127.0.0.1", 80), ("127.0.0.1", 81), INET, False),
    (("0.0.0.0", 80), ("", 80), ("0.0.0.0", 80), INET, True),
    (("0.0.0.0", 80), ("", 80), ("127.0.0.1", 80), INET, False),
    (("127.0.0.1", 40000), ("127.0.0.1", 0), ("127.0.0.1", 0), INET, True),
    (("127.0.0.1", 40000), ("127.0.0.1", 0), ("127.0.0.1", 40000), INET, True),
    (("127.0.0.1", 40000), ("127.0.0.1", 40000), ("127.0.0.1", 0), INET, False),
    (("::1", 80, 0, 0), ("::1", 80), ("::1", 80), INET6, True),
    (("::", 80, 0, 0), ("::", 80), ("", 80), INET6, True),
    (("::", 80, 0, 0), ("::", 80), ("::1", 80), INET6, False),
    (b"\0name", b"\0name", "\0name", UNIX, True),
    (b"\0name", "\0name", b"\0other", UNIX, False),
]


@pytest.mark.parametrize(("real", "before", "now", "family", "expected"), MATCHES)
def test_the_real_address_decides(real, before, now, family, expected):
    binding = Binding(family, STREAM, real, before)
    assert binding.matches(family, STREAM, now, exact=False) is expected
    assert not binding.matches(family, DGRAM, now, exact=False)
    assert not binding.matches(INET if family != INET else INET6, STREAM, now, exact=False)


def test_an_exact_repetition_comes_before_the_real_address():
    received = ReceivedListeners()
    first = Binding(INET, STREAM, ("127.0.0.1", 4000), ("localhost", 4000))
    second = Binding(INET, STREAM, ("127.0.0.1", 4000), ("127.0.0.1", 4000))
    descriptors = [os.dup(0), os.dup(0)]
    received.waiting = [(first, descriptors[0]), (second, descriptors[1])]
    assert received.adopt(INET, STREAM, ("127.0.0.1", 4000)) == (second, descriptors[1])
    os.close(descriptors[1])
    assert received.adopt(INET, STREAM, ("127.0.0.1", 4000)) == (first, descriptors[0])
    assert received.adopt(INET, STREAM, ("127.0.0.1", 4000)) is None
    os.close(descriptors[0])


def test_two_ports_of_zero_are_handed_out_in_order():
    received = ReceivedListeners()
    bindings = [Binding(INET, STREAM, ("127.0.0.1", 4000 + n), ("127.0.0.1", 0)) for n in (0, 1)]
    received.waiting = [(binding, os.dup(0)) for binding in bindings]
    taken = [received.adopt(INET, STREAM, ("127.0.0.1", 0)) for _ in bindings]
    assert [item[0] for item in taken] == bindings
    for item in taken:
        os.close(item[1])


@pytest.mark.parametrize(
    "address", [("::1", 80, 0, 0), "/run/x", b"\0abstract", b"/run/\xff", ("127.0.0.1", 1)]
)
def test_a_binding_survives_json(address):
    family = UNIX if not isinstance(address, tuple) else INET6
    binding = Binding(family, STREAM, address, address)
    binding.inode = (1, 2)
    body = binding.to_json()
    again = Binding.from_json(body, 7)
    assert again.index == 7
    assert again.inode == (1, 2)
    assert again.to_json() == body


def make(address, family=UNIX, received=None):
    return ListenerSocket.wrap(
        socket.socket(family, STREAM), Keeper(received or ReceivedListeners())
    ), address


def test_bind_adopts_without_a_second_bind_or_a_leak():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with socket.create_server(("127.0.0.1", 0)) as old:
            binding = Binding(INET, STREAM, old.getsockname(), ("127.0.0.1", 0))
            binding.index = 0
            received = ReceivedListeners()
            received.waiting = [(binding, os.dup(old.fileno()))]
            before = len(os.listdir("/proc/self/fd"))
            listener, _ = make(None, INET, received)
            listener.bind(("127.0.0.1", 0))
            assert len(os.listdir("/proc/self/fd")) == before  # one came, one went
            assert listener.getsockname() == old.getsockname()
            assert not listener.get_inheritable()
            listener.close()


def test_a_path_is_matched_by_the_file_it_leads_to(tmp_path):
    path, link, other = tmp_path / "a", tmp_path / "link", tmp_path / "b"
    with socket.socket(UNIX) as sock:
        sock.bind(str(path))
        link.symlink_to(path)
        status = path.stat()
        binding = Binding(UNIX, STREAM, str(path), str(path))
        binding.inode = (status.st_dev, status.st_ino)
        assert binding.matches(UNIX, STREAM, str(link), exact=False)
        assert not binding.matches(UNIX, STREAM, str(other), exact=False)
        other.write_text("")
        other.replace(path)  # the same name, another file
        assert not binding.matches(UNIX, STREAM, str(path), exact=True)


def test_a_stale_path_is_taken_over(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(UNIX) as dead:
        dead.bind(path)
        dead.listen()
    listener, _ = make(path)
    with listener:
        listener.bind(path)
        listener.listen()
        with socket.socket(UNIX) as client:
            client.connect(path)


def test_a_path_that_is_answered_on_is_a_clear_error(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(UNIX) as living:
        living.bind(path)
        living.listen()
        listener, _ = make(path)
        with listener, pytest.raises(OSError, match="another process answers on it"):
            listener.bind(path)
        with socket.socket(UNIX) as client:
            client.connect(path)


def test_a_file_that_is_no_socket_stays(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    listener, _ = make(path)
    with listener, pytest.raises(OSError, match="in use"):
        listener.bind(str(path))
    assert path.read_text() == "data"


def test_only_its_own_path_is_removed(tmp_path):
    path = str(tmp_path / "socket")
    listener, _ = make(path)
    with listener:
        listener.bind(path)
        os.rename(path, path + ".old")
        with socket.socket(UNIX) as other:
            other.bind(path)
            listener.binding.unlink()
            assert os.path.exists(path)
            os.unlink(path)
            os.rename(path + ".old", path)
            listener.binding.unlink()
            assert not os.path.exists(path)


def test_nothing_waits_when_another_process_was_faster():
    listener, _ = make(None, INET)
    with listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(30)
        listener.begin_loop()
        listener.receiver = threading.get_ident()
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert listener.gettimeout() == 30
