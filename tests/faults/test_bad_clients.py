"""Clients that behave badly during reloads: honest ones lose nothing, and old code ends in time."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import threading
import time

import pytest
from harness import TIMEOUT, Load, Program, connect, queued, slow

DRAIN = 3.0  # seconds
CODE = """
class Server({kind}):
    drain_timeout, keepalive_grace, request_queue_size = {drain}, 1, 1024
class Wide(Handler):
    protocol_version = "HTTP/{protocol}"
    def do_GET(self):
        time.sleep(min(float(self.path.partition("?")[2] or 0), 0.05))
        super().do_GET()
with Server(("127.0.0.1", 0), Wide) as server:
    server.serve_forever()
"""
KINDS = ["ThreadingHTTPServer", "ForkingHTTPServer", "HTTPServer"]


class Rude:
    """Clients of one kind, each in a thread, again and again until the block ends."""

    def __init__(self, port, kind, count=4):
        self._port, self._kind = port, kind
        self.stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def _run(self):
        while not self.stopping.is_set():
            with contextlib.suppress(OSError):
                self._kind(self)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self._port), TIMEOUT)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self._threads:
            thread.join(TIMEOUT)


def slow_headers(rude):
    """A byte now and then, for as long as the server stands it.

    What it has said when it leaves may be a request of HTTP/0.9, for the beginning of the path.
    """
    with rude.connect() as sock:
        for byte in b"GET /late?0 HTTP/1.1\r\nHost: rude\r\nX-Long: " + b"x" * 10_000:
            sock.send(bytes([byte]))
            if rude.stopping.wait(0.05):
                return


def half_closed(rude):
    """It says that it will say no more, before, in or after its request."""
    for text in (b"", b"GET / HT", b"GET / HTTP/1.1\r\n\r\n"):
        with rude.connect() as other:
            other.sendall(text)
            other.shutdown(socket.SHUT_WR)
            while other.recv(4096):
                pass


def resets(rude):
    """RST in the middle of the request, and in the middle of the response."""
    for text in (b"", b"GET / HT", b"GET /late?0.05 HTTP/1.1\r\n\r\n"):
        with rude.connect() as other:
            other.sendall(text)
            if text.endswith(b"\n"):
                other.recv(10)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    rude.stopping.wait(0.01)


def never_reads(rude):
    """It asks and asks, until the server cannot answer any more, and stays."""
    with rude.connect() as sock:
        sock.settimeout(0.2)
        with contextlib.suppress(OSError):
            for _ in range(2000):
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n" * 20)
        rude.stopping.wait(TIMEOUT)


class Lag:
    """How late, in seconds and in all, this machine is for one who sleeps again and again."""

    def __enter__(self):
        self.seconds = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self):
        asleep = time.monotonic()
        while not self._done.wait(0.01):
            self.seconds += time.monotonic() - asleep - 0.01
            asleep = time.monotonic()

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()


def ended_in_time(program, old, tracebacks=0):
    """Wait for an old generation's end: `drain_timeout` and a second after its last accept.

    A busy machine's lag comes on top, and the tracebacks that the standard library prints of
    handlers that were cut, among which a line of ours may find no room; and the interpreter's
    own way out.
    """
    program.wait(rf"\[{old}\] .*finishing ")
    began = time.monotonic()
    with Lag() as lag:
        while old in program.pids():
            program.process.poll()  # the first generation is a child of this process
            most = DRAIN + 2 + tracebacks / 50 + lag.seconds
            assert time.monotonic() - began < most, program.text
            time.sleep(0.01)


@pytest.fixture
def start(tmp_path):
    def start(kind, protocol="1.1"):
        (tmp_path / "code").write_text(CODE.format(kind=kind, drain=DRAIN, protocol=protocol))
        return Program("custom.py", tmp_path)

    return start


CASES = [
    (kind, rude)
    for kind in KINDS
    for rude in (slow_headers, half_closed, resets, never_reads)
    # A server without threads is its slowest client's by nature: there is nothing to lose.
    if kind != "HTTPServer" or rude in (half_closed, resets)
]
QUICK = [("ThreadingHTTPServer", rude) for rude in (half_closed, resets)]


@pytest.mark.parametrize(
    ("kind", "rude"),
    [(kind, rude) if (kind, rude) in QUICK else slow(kind, rude) for kind, rude in CASES],
    ids=[f"{kind}-{rude.__name__}" for kind, rude in CASES],
)
def test_honest_clients_lose_nothing(kind, rude, start):
    # A client that is kept alive would hold a server without threads.
    with start(kind, "1.0" if kind == "HTTPServer" else "1.1") as program:
        pid = program.wait_serving()
        port = program.port
        with Load(port, keep_alive=kind != "HTTPServer") as load, Rude(port, rude):
            for generation in (1, 2):
                load.wait_answer(f"{generation - 1} ")
                old, pid = pid, program.reload(generation, pid)
                ended_in_time(program, old)
            load.wait_answer("2 ")
        assert load.lost == []
        program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.parametrize("rude", [slow(slow_headers), never_reads])
def test_a_server_without_threads_ends_in_time(rude, start):
    """Its only handler is the rude client's: the hammer ends it, and the next one serves."""
    with start("HTTPServer", "1.0") as program:
        old = program.wait_serving()
        with Rude(program.port, rude, count=1) as clients:
            program.reload(1, old)
            ended_in_time(program, old)
            clients.stopping.set()
        pid = program.wait_serving(1)
        with Load(program.port, keep_alive=False) as load:
            load.wait_answer("1 ")
        assert load.lost == []
        program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.parametrize(
    ("kind", "count"),
    # max_children of the forking one is 40, and all others wait in the accept queue.
    [slow("ThreadingHTTPServer", 1000), slow("ForkingHTTPServer", 30)],
)
def test_a_thousand_connections_opened_and_left(kind, count, start):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2 * count and hard != resource.RLIM_INFINITY and hard < 2 * count:
        pytest.skip(f"needs {2 * count} open files: raise ulimit -Hn, which is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * count), hard))
    with start(kind) as program:
        pid = program.wait_serving()
        port = program.port
        left = []
        try:
            for _ in range(count):
                left.append(socket.create_connection(("127.0.0.1", port), TIMEOUT))
            for number, sock in enumerate(left):
                if number % 2:
                    sock.sendall(b"GET / HT")  # the others are idle, and migrate
            with Load(port) as load:
                for generation in (1, 2):
                    load.wait_answer(f"{generation - 1} ")
                    old, pid = pid, program.reload(generation, pid)
                    ended_in_time(program, old, tracebacks=count // 2)
                load.wait_answer("2 ")
            assert load.lost == []
        finally:
            for sock in left:
                sock.close()
        program.wait_alone(pid)
        program.stop(pid)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_a_busy_successor_does_not_hold_the_old_generation(start, tmp_path):
    """Without threads it cannot say that it has what migrates while a client holds its loop."""
    with start("HTTPServer") as program:
        old = program.wait_serving()
        port = program.port
        with contextlib.closing(connect(port)) as kept, contextlib.closing(connect(port)) as idle:
            kept.request("GET", "/slow")
            while not (tmp_path / "slow").exists():
                assert program.process.poll() is None
            new = program.reload(1, old)
            idle.connect()
            while queued(port):  # the successor's only handler waits for it from then on
                assert program.process.poll() is None
            (tmp_path / "go").touch()
            assert kept.getresponse().read().startswith(b"0 ")
            ended_in_time(program, old)
            assert "idle connections are left to generation 1" in program.text
            idle.close()
            kept.request("GET", "/")
            assert kept.getresponse().read().startswith(b"1 ")
        program.wait_alone(new)
        program.stop(new)
