"""Handler threads that serve one connection after the other, without a server."""

from __future__ import annotations

import contextlib
import contextvars
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from endless_py._server import threads as handler_threads

TIMEOUT = 10


class Threading:
    """As ThreadingMixIn."""

    def __init__(self):
        self.served, self.threads = [], []

    def process_request(self, request, client_address):
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address)
        )
        self.threads.append(thread)
        thread.start()

    def process_request_thread(self, request, client_address):
        self.served.append(request)


def test_whatever_comes_while_a_thread_gives_up_waiting_is_served(monkeypatch):
    monkeypatch.setattr(handler_threads, "PATIENCE", 0.0005)
    server = Threading()
    threads = handler_threads.HandlerThreads(server)
    threads.begin()
    for number in range(1000):
        threads.process(server, number, None)
        if number % 3 == 0:
            time.sleep(0.0005)
    threads.end()
    for thread in server.threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert sorted(server.served) == list(range(1000))
    assert 1 < len(server.threads) < 1000


def test_a_thread_that_waits_for_nothing_ends(monkeypatch):
    monkeypatch.setattr(handler_threads, "PATIENCE", 0.01)
    server = Threading()
    threads = handler_threads.HandlerThreads(server)
    threads.begin()
    threads.process(server, 1, None)
    server.threads[0].join(TIMEOUT)
    assert not server.threads[0].is_alive()


def test_threads_that_become_idle_after_the_end_do_not_stay():
    server = Threading()
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def serve(request, client_address):
        begun.release()
        go_on.wait(TIMEOUT)

    server.process_request_thread = serve
    threads = handler_threads.HandlerThreads(server)
    threads.begin()
    for number in range(5):
        threads.process(server, number, None)
    for _ in range(5):
        assert begun.acquire(timeout=TIMEOUT)
    threads.end()
    go_on.set()
    for thread in server.threads:
        thread.join(handler_threads.PATIENCE / 2)
        assert not thread.is_alive()


def test_an_idle_thread_keeps_no_socket_open():
    server = Threading()
    server.process_request_thread = lambda request, client_address: None
    threads = handler_threads.HandlerThreads(server)
    threads.begin()
    for _ in range(2):  # in a new thread, and in one that is used again
        ours, theirs = socket.socketpair()
        theirs.settimeout(0.05)
        threads.process(server, ours, None)
        del ours
        # Without the GIL an object goes when the thread that has made it, this one, looks up.
        until = time.monotonic() + handler_threads.PATIENCE / 2
        closed = False
        while not closed and time.monotonic() < until:
            with contextlib.suppress(socket.timeout):
                closed = theirs.recv(1) == b""
        assert closed
        theirs.close()
    threads.end()


def test_one_thread_serves_one_after_the_other_each_in_a_new_context():
    server = Threading()
    variable = contextvars.ContextVar("variable", default="new")
    served = threading.Semaphore(0)
    seen = []

    def serve(request, client_address):
        seen.append((request, variable.get(), threading.current_thread()))
        variable.set("used")
        served.release()

    server.process_request_thread = serve
    threads = handler_threads.HandlerThreads(server)
    threads.begin()
    for number in range(3):
        threads.process(server, number, None)
        assert served.acquire(timeout=TIMEOUT)
        while not threads._idle:
            time.sleep(0.0001)
    threads.end()
    assert [(request, value) for request, value, _ in seen] == [(n, "new") for n in range(3)]
    assert {thread for _, _, thread in seen} == set(server.threads)
    assert len(server.threads) == 1
    server.threads[0].join(TIMEOUT)
    assert not server.threads[0].is_alive()
    assert "process_request_thread" not in vars(server)  # the class's own again


@pytest.mark.parametrize(("inherits", "expected"), [(0, ["none"] * 3), (1, ["0", "1", "2"])])
def test_a_thread_has_the_context_that_a_new_one_would_have(inherits, expected, monkeypatch):
    """From 3.14 on a new thread may inherit it: -X thread_inherit_context, or no GIL."""
    flags = SimpleNamespace(thread_inherit_context=inherits)
    monkeypatch.setattr(handler_threads, "sys", SimpleNamespace(flags=flags))
    variable = contextvars.ContextVar("variable", default="none")
    served, seen = threading.Semaphore(0), []

    def serve(request, client_address):
        seen.append(variable.get())
        variable.set("a handler's own")
        served.release()

    server = Threading()
    server.process_request_thread = serve
    threads = handler_threads.HandlerThreads(server)
    threads.begin()
    for number in range(3):
        token = variable.set(str(number))
        threads.process(server, number, None)
        assert served.acquire(timeout=TIMEOUT)
        while not threads._idle:
            time.sleep(0.001)
        variable.reset(token)
    threads.end()
    assert seen == expected
    assert len(server.threads) == 1
