"""Clients behind a network of 5 to 100 ms round trip: the moment of a reload is in their past."""

from __future__ import annotations

import http.client
import random
import select
import socket
import struct
import threading
import time

import pytest
from custom_code import SERVE, custom
from harness import TIMEOUT, Load, Program, connect
from relay import Relay
from secure import SecureLoad, https, secure

ROUND_TRIPS = [5 + 95 * number / 63 for number in range(64)]


def pair(relay_port, listener):
    """A client behind the relay, and the server's end of its connection."""
    client = socket.create_connection(("127.0.0.1", relay_port), TIMEOUT)
    served, _ = listener.accept()
    served.settimeout(TIMEOUT)
    return client, served


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        yield listener


def test_the_relay_delays_data_and_ends_by_half_a_round_trip(listener):
    with Relay(listener.getsockname()[1], 200) as relay:
        client, served = pair(relay.ports[0], listener)
        with client, served:
            for here, there in ((client, served), (served, client)):
                begun = time.monotonic()
                here.sendall(b"x")
                assert there.recv(1) == b"x"
                assert time.monotonic() - begun >= 0.1
            for here, there in ((client, served), (served, client)):
                begun = time.monotonic()
                here.shutdown(socket.SHUT_WR)
                assert there.recv(1) == b""
                assert time.monotonic() - begun >= 0.1
                if here is client:  # the other direction is still open
                    served.sendall(b"y")
                    assert client.recv(1) == b"y"


@pytest.mark.parametrize("resetting", ["client", "server"])
def test_the_relay_passes_on_a_reset(resetting, listener):
    with Relay(listener.getsockname()[1], 5) as relay:
        client, served = pair(relay.ports[0], listener)
        here, there = (client, served) if resetting == "client" else (served, client)
        with here, there:
            here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            here.close()
            with pytest.raises(ConnectionResetError):
                there.recv(1)


def test_the_relay_keeps_the_order_of_what_it_carries(listener):
    data = random.Random(1).randbytes(3_000_000)
    with Relay(listener.getsockname()[1], 20) as relay:
        client, served = pair(relay.ports[0], listener)
        with client, served, served.makefile("rb") as stream:
            sender = threading.Thread(target=client.sendall, args=(data,))
            sender.start()
            assert stream.read(len(data)) == data
            sender.join(TIMEOUT)


class Client(threading.Thread):
    """Keeps a connection as long as it may, and pauses up to 50 ms between two requests."""

    def __init__(self, port, make, stopping):
        super().__init__(daemon=True)
        self.port, self.make, self.stopping = port, make, stopping
        self.random = random.Random(port)
        self.connection: http.client.HTTPConnection | None = None
        self.requests = self.told = self.carried = 0
        self.lost: list[str] = []
        self.closed: list[str] = []
        self.generation = ""

    def run(self):
        while not self.stopping.is_set():
            try:
                self.ask()
            except Exception as error:
                self.lost.append(repr(error))
                self.close()
            self.stopping.wait(self.random.uniform(0, 0.05))
        if self.connection is not None and select.select([self.connection.sock], [], [], 0)[0]:
            self.closed.append("while idle at the end")
        self.close()

    def ask(self):
        fresh = self.connection is None
        if fresh:
            self.connection = self.make(self.port)
            self.connection.connect()
            self.connection.auto_open = 0  # a closed connection is not replaced in silence
        try:
            self.connection.request("GET", "/")
            response = self.connection.getresponse()
            words = response.read().decode().split()
        except (OSError, http.client.HTTPException) as error:
            self.closed.append(repr(error))
            raise
        if response.status != 200 or words[-1:] != ["end"]:
            raise AssertionError(f"{response.status} {words}")
        self.requests += 1
        self.carried += not fresh and words[0] != self.generation
        self.generation = words[0]
        if response.getheader("Connection") == "close":
            self.told += 1
            self.close()

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Distant:
    """64 clients, each behind its own round trip."""

    def __init__(self, port, make):
        self.relay = Relay(port, *ROUND_TRIPS)
        self.stopping = threading.Event()
        self.clients = [Client(port, make, self.stopping) for port in self.relay.ports]

    def __enter__(self):
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *rest):
        self.stopping.set()
        for client in self.clients:
            client.join(TIMEOUT)
        self.relay.__exit__(*rest)

    def wait_all(self, generation):
        """Wait until each of them was answered by this generation."""
        deadline = time.monotonic() + TIMEOUT
        for client in self.clients:
            while client.generation != str(generation):
                assert time.monotonic() < deadline, (client.generation, self.all("lost"))
                time.sleep(0.005)

    def all(self, name):
        return [item for client in self.clients for item in getattr(client, name)]

    def sum(self, name):
        return sum(getattr(client, name) for client in self.clients)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_twenty_reloads_lose_no_request_and_close_no_connection():
    reloads = 20
    with Program("http_server.py", "ThreadingHTTPServer", 0) as program:
        pid = program.wait_serving()
        with Load(program.port) as load, Distant(program.port, connect) as distant:
            distant.wait_all(0)
            for generation in range(1, reloads + 1):
                pid = program.reload(generation, pid)
                load.wait_answer(f"{generation} ")
                distant.wait_all(generation)
        print(
            f"\nHTTP, 64 clients at 5-100 ms, {reloads} reloads: {distant.sum('requests')} "
            f"requests, {len(distant.all('lost'))} lost, {len(distant.all('closed'))} connections "
            f"closed, {distant.sum('told')} told to close, {distant.sum('carried')} carried over; "
            f"beside them {len(load.answers)} requests, {len(load.lost)} lost"
        )
        assert load.lost == []
        assert distant.all("lost") == []
        assert distant.all("closed") == []
        assert distant.sum("told") == 0
        assert distant.sum("carried") == 64 * reloads
        program.wait_alone(pid)
        program.stop(pid)
        assert "Traceback" not in program.text


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_six_reloads_of_https_lose_no_request(tmp_path):
    reloads = 6
    # On a busy machine some of so many clients do not get their turn for seconds.
    settings = f"request_queue_size = 100; keepalive_grace = {TIMEOUT}"
    with https(tmp_path, settings=settings) as program:
        pid = program.wait_serving()
        with SecureLoad(program.port) as load, Distant(program.port, secure) as distant:
            distant.wait_all(0)
            for generation in range(1, reloads + 1):
                pid = program.reload(generation, pid)
                load.wait_answer(f"{generation} ")
                distant.wait_all(generation)
        print(
            f"\nHTTPS, 64 clients at 5-100 ms, {reloads} reloads: {distant.sum('requests')} "
            f"requests, {len(distant.all('lost'))} lost, {len(distant.all('closed'))} connections "
            f"closed unasked, {distant.sum('told')} told to close; "
            f"beside them {len(load.answers)} requests, {len(load.lost)} lost"
        )
        assert load.lost == []
        assert distant.all("lost") == []
        assert distant.all("closed") == []
        program.wait_alone(pid)
        program.stop(pid)
        assert "Traceback" not in program.text


@pytest.mark.slow
def test_these_clients_would_notice(tmp_path):
    """The control: without migration, and closing at once, the same clients lose requests."""
    code = f"Handler.migrates = False\nThreadingHTTPServer.keepalive_grace = 0.0\n{SERVE}"
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        with Distant(program.port, connect) as distant:
            distant.wait_all(0)
            pid = program.reload(1, pid)
            distant.wait_all(1)
        print(f"\nwithout migration, 1 reload: {len(distant.all('lost'))} requests lost")
        assert distant.all("lost")
        assert distant.all("closed")
        program.stop(pid)
