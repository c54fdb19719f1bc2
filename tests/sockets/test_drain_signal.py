"""A drain is told crowd by crowd, and nobody who waits misses it."""

from __future__ import annotations

import errno
import os
import select
import time

import pytest

from endless_py._reload.listener import Listener
from endless_py._reload.listeners import Listeners
from endless_py._sockets import drain_signal
from endless_py._sockets.drain_signal import DrainSignal

CROWD = drain_signal._CROWD


def told(crowds):
    """Return which of these wake who waits on them."""
    poll = select.poll()
    for crowd in crowds:
        poll.register(crowd.reader, select.POLLIN)
    found = {descriptor for descriptor, _ in poll.poll(0)}
    return {crowd for crowd in crowds if crowd.reader.fileno() in found}


def joined(signal, handlers):
    """Let so many join, one after the other; return on what each waits."""
    return [signal.join(number) for number in range(1, handlers + 1)]


def test_crowd_after_crowd_is_told_until_all_are():
    signal = DrainSignal()
    waiting = joined(signal, 3 * CROWD)
    crowds = set(waiting)
    assert len(crowds) == 3
    assert told(crowds) == set()
    signal.send(migrate=True)
    counts = [len(told(crowds))]
    while signal.due is not None:
        assert signal.due <= time.monotonic() + 1
        signal.tell()
        counts.append(len(told(crowds)))
    assert counts == [1, 2, 3]
    assert {each.reader.recv(9) for each in crowds} == {b"M"}


def test_those_who_come_and_go_are_one_crowd_however_many_they_have_been():
    signal = DrainSignal()
    assert len({signal.join(CROWD) for _ in range(10 * CROWD)}) == 1
    signal.send(migrate=False)
    assert signal.due is None


def test_who_comes_after_the_drain_has_begun_is_told_at_once():
    signal = DrainSignal()
    joined(signal, CROWD + 1)
    signal.send(migrate=False)
    late = signal.join(9 * CROWD)
    assert told([late]) == {late}


def test_who_makes_a_crowd_just_as_the_drain_begins_waits_with_the_first(monkeypatch):
    signal = DrainSignal()
    make = signal._add_crowd

    def meanwhile():
        signal.send(migrate=True)
        return make()

    monkeypatch.setattr(signal, "_add_crowd", meanwhile)
    late = signal.join(CROWD + 1)
    assert told([late]) == {late}


def test_without_descriptors_the_crowds_are_larger(monkeypatch):
    signal = DrainSignal()

    def fails():
        raise OSError(errno.EMFILE, "none left")

    monkeypatch.setattr(signal, "_add_crowd", fails)
    waiting = joined(signal, 3 * CROWD)
    assert len(set(waiting)) == 1
    signal.send(migrate=True)
    assert told(waiting[:1]) == {waiting[0]}


class Server:
    pass


def served():
    """Return a server, its listener among others, and the crowds that wait for its drain."""
    server, listeners = Server(), Listeners()
    listener = Listener(server)
    listener.drain_signal = DrainSignal()
    crowds = set(joined(listener.drain_signal, 4 * CROWD))
    listeners.add(listener)
    return server, listeners, listener, crowds


def test_who_was_not_told_of_a_drain_that_came_to_nothing_looks_for_the_next_one():
    _server, listeners, listener, crowds = served()
    signal = listener.drain_signal
    signal.send(migrate=True)
    assert len(told(crowds)) == 1
    listeners.resume()
    assert told(crowds) == crowds
    assert listener.drain_signal is not signal
    assert signal.due is None


def test_who_was_not_told_when_the_server_is_closed_is_told_then():
    _server, listeners, listener, crowds = served()
    listeners.remove(listener)
    assert told(crowds) == set()
    listeners.add(listener)
    listener.drain_signal.send(migrate=False)
    listeners.remove(listener)
    assert told(crowds) == crowds


def test_a_crowd_whose_last_handler_has_ended_is_gone():
    signal = DrainSignal()
    before = set(os.listdir("/dev/fd"))
    waiting = joined(signal, 4 * CROWD)
    assert len(set(os.listdir("/dev/fd"))) == len(before) + 3 * 2
    del waiting[:]
    assert len(set(os.listdir("/dev/fd"))) == len(before)


def test_a_forked_handler_is_told_with_the_first_crowd():
    signal = DrainSignal()
    crowds = set(joined(signal, 3 * CROWD))
    heard, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.in_forked_child()
            mine = signal.join(1)
            before = signal.was_sent()
            os.write(say, b"waits\n")
            select.select([mine.reader], [], [], 30)
            os.write(say, f"{before} {signal.was_sent()} {signal.migrate()}\n".encode())
        finally:
            os._exit(0)
    os.close(say)
    with os.fdopen(heard) as lines:
        assert lines.readline() == "waits\n"
        signal.send(migrate=True)
        assert len(told(crowds)) == 1
        assert lines.readline() == "False True True\n"
    os.waitpid(pid, 0)


@pytest.mark.parametrize("handlers", [1, 5 * CROWD])
def test_it_closes_what_it_has_opened(handlers):
    before = set(os.listdir("/dev/fd"))
    signal = DrainSignal()
    joined(signal, handlers)
    signal.send(migrate=True)
    del signal
    assert set(os.listdir("/dev/fd")) <= before
