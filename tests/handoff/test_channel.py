"""Frames and descriptors over a socket pair."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import threading
from types import SimpleNamespace

import pytest

from endless_py._handoff.channel import HEADER, MAGIC, MAX_BODY, MAX_DESCRIPTORS, Channel
from endless_py.exceptions import ChannelClosed, ChannelError


@pytest.fixture
def pair():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    left, right = Channel(a), Channel(b)
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def raw():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(b)
    yield a, channel
    a.close()
    channel.close()


def frame(body, count=0, magic=MAGIC):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HEADER.pack(magic, len(data), count) + data


def test_messages_come_whole_and_in_order(pair):
    left, right = pair
    for number in range(50):
        left.send({"type": "n", "number": number})
    assert [m.body["number"] for m in right.receive()] == list(range(50))
    assert right.receive() == []


def test_a_message_in_pieces_is_whole_at_its_last_byte(raw):
    sender, channel = raw
    data = frame({"type": "x"}) + frame({"type": "y"})
    for position in range(len(data) - 1):
        sender.send(data[position : position + 1])
        assert all(m.body == {"type": "x"} for m in channel.receive())
        assert channel.partial or position == len(frame({"type": "x"})) - 1
    sender.send(data[-1:])
    assert channel.receive()[0].body == {"type": "y"}
    assert not channel.partial


def test_descriptors_arrive_with_their_message_and_close_on_exec(pair):
    left, right = pair
    pipes = [os.pipe() for _ in range(5)]
    left.send({"n": 0})
    left.send({"n": 1}, (pipes[0][0], pipes[1][0]))
    left.send({"n": 2}, (pipes[2][0],))
    left.send({"n": 3})
    left.send({"n": 4}, (pipes[3][0], pipes[4][0]))
    got = right.receive()
    assert [len(m.descriptors) for m in got] == [0, 2, 1, 0, 2]
    for number, descriptor in enumerate(d for m in got for d in m.descriptors):
        assert not os.get_inheritable(descriptor)
        os.write(pipes[number][1], b"%d" % number)
        assert os.read(descriptor, 9) == b"%d" % number
        os.close(descriptor)
    for ends in pipes:
        for end in ends:
            os.close(end)


def test_a_message_larger_than_the_pipe_waits_and_carries_its_descriptor_once(pair):
    left, right = pair
    reading, writing = os.pipe()
    body = {"text": "x" * (MAX_BODY - 20)}
    for _ in range(4):
        left.send(body, (reading,))
    assert left.sending
    got = []
    while len(got) < 4:
        got += right.receive()
        left.flush()
    assert not left.sending
    for message in got:
        assert message.body == body
        assert len(message.descriptors) == 1
        os.close(message.descriptors[0])
    os.close(reading)
    os.close(writing)


def test_what_is_too_large_is_not_sent(pair):
    left, right = pair
    with pytest.raises(ChannelError):
        left.send({"text": "x" * MAX_BODY})
    with pytest.raises(ChannelError):
        left.send({}, (0,) * (MAX_DESCRIPTORS + 1))
    assert right.receive() == []


@pytest.mark.parametrize(
    "data",
    [
        frame({}, magic=b"GET "),
        frame(b"{nonsense"),
        frame(b"\xff\xfe"),
        frame(b"[1]"),
        frame(b"[" * 100_000),
        HEADER.pack(MAGIC, MAX_BODY + 1, 0),
        HEADER.pack(MAGIC, 2, MAX_DESCRIPTORS + 1),
    ],
    ids=["magic", "json", "utf-8", "list", "deep", "long", "many"],
)
def test_nonsense_is_an_error(raw, data):
    sender, channel = raw
    sender.sendall(data)
    with pytest.raises(ChannelError):
        channel.receive()


def test_the_end_comes_after_every_message(pair):
    left, right = pair
    left.send({"last": 1})
    left.close()
    assert right.receive()[0].body == {"last": 1}
    with pytest.raises(ChannelClosed):
        right.receive()


def test_sending_to_nobody_is_noticed_by_receive_only(pair):
    left, right = pair
    right.close()
    left.send({"text": "x"})
    assert not left.sending
    with pytest.raises(ChannelClosed):
        left.receive()


def test_descriptors_that_do_not_fit_are_none(pair):
    left, right = pair
    reading, writing = os.pipe()
    left.send({}, (reading,) * 4)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, before[1]))
        while True:
            try:
                fillers.append(os.dup(reading))
            except OSError:
                break
        os.close(fillers.pop())
        got = right.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(got[0].descriptors) == 4
    assert [d is None for d in got[0].descriptors] == [False, True, True, True]
    for descriptor in [*fillers, got[0].descriptors[0], reading, writing]:
        os.close(descriptor)


def test_close_closes_what_was_not_taken(pair):
    left, right = pair
    reading, writing = os.pipe()
    data = frame({"text": "never whole"}, 1)
    sender = left._socket
    socket.send_fds(sender, [data[:-1]], [reading])
    os.close(reading)
    assert right.receive() == []
    right.close()
    with pytest.raises(BrokenPipeError):
        os.write(writing, b"x")
    os.close(writing)


def test_threads_that_send_at_once_do_not_mix(pair):
    left, right = pair
    body = {"text": "x" * 5000}
    threads = [
        threading.Thread(target=lambda: [left.send(body) for _ in range(50)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    count = 0
    while count < 200:
        for message in right.receive():
            assert message.body == body
            count += 1
        left.flush()
    for thread in threads:
        thread.join()


def test_messages_given_back_come_first(pair):
    left, right = pair
    left.send({"n": 1})
    left.send({"n": 2})
    right.unread(right.receive()[1:])
    left.send({"n": 3})
    assert [m.body["n"] for m in right.receive()] == [2, 3]


@pytest.mark.parametrize("number", [errno.ETOOMANYREFS, errno.ENOBUFS])
def test_what_the_kernel_takes_later_is_not_tried_without_a_pause(pair, number, monkeypatch):
    left, right = pair
    tries, now = [], 100.0
    monkeypatch.setattr("endless_py._handoff.channel.time", SimpleNamespace(monotonic=lambda: now))

    class Full:
        def __init__(self, sock):
            self.sock = sock

        def sendmsg(self, *arguments):
            tries.append(now)
            if len(tries) < 3:
                raise OSError(number, os.strerror(number))
            return self.sock.sendmsg(*arguments)

        def close(self):
            self.sock.close()

    left._socket = Full(left._socket)
    left.send({"text": "x"})
    left.send({"text": "y"})
    left.flush()
    assert len(tries) == 1
    assert left.sending
    assert not left.waits_for_room
    while left.sending:
        now = left.retry_at
        left.flush()
    assert tries == pytest.approx([100.0, 100.01, 100.02, 100.02])  # the last is of "y"
    assert left.retry_at is None
    assert [message.body["text"] for message in right.receive()] == ["x", "y"]
