"""A datagram that was sent is answered, whichever generation reads it."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from contextlib import suppress

import pytest
from harness import TIMEOUT, Program, first, often

AT_ONCE = 20  # datagrams under way at one time; far less than any socket's buffer holds
UDP = ["UDPServer", "ThreadingUDPServer", "ForkingUDPServer"]
UNIX = ["UnixDatagramServer", "ThreadingUnixDatagramServer", "ForkingUnixDatagramServer"]


class Asker:
    """Sends numbered datagrams and notes which were answered, by whom and how often."""

    def __init__(self, address, own_path=None):
        self._socket = socket.socket(
            socket.AF_UNIX if own_path else socket.AF_INET, socket.SOCK_DGRAM
        )
        self._socket.bind(own_path or ("127.0.0.1", 0))
        self._socket.settimeout(10)
        self._address = address
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0
        self.missing: set[int] = set()
        self.answers: list[dict] = []

    def _run(self):
        with suppress(socket.timeout):
            while self.missing or not self._stopping.is_set():
                while len(self.missing) < AT_ONCE and not self._stopping.wait(0.001):
                    self.missing.add(self.sent)
                    self._socket.sendto(str(self.sent).encode(), self._address)
                    self.sent += 1
                answer = json.loads(self._socket.recv(4096))
                self.answers.append(answer)
                self.missing.discard(int(answer["text"]))

    def wait_answer(self, generation):
        """Wait for an answer by this generation."""
        deadline = time.monotonic() + TIMEOUT
        while not any(answer["generation"] == generation for answer in self.answers[-AT_ONCE:]):
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join(TIMEOUT)
        self._socket.close()


def configure(path, cls, address):
    path.write_text(json.dumps([{"class": cls, "address": address}]))
    return path


@pytest.mark.parametrize("cls", first(UDP) + first(UNIX, 0))
def test_every_datagram_is_answered_over_twenty_reloads(cls, tmp_path):
    unix, last = cls in UNIX, 20 if cls == UDP[0] else often(20)
    address = str(tmp_path / "server") if unix else ["127.0.0.1", 0]
    with Program("echo_servers.py", configure(tmp_path / "config", cls, address)) as program:
        pid = program.wait_serving()
        pids = [pid]
        target = address if unix else ("127.0.0.1", program.port)
        with Asker(target, str(tmp_path / "client") if unix else None) as asker:
            for generation in range(1, last + 1):
                pid = program.reload(generation, pid)
                pids.append(pid)
        assert asker.missing == set()
        assert len(asker.answers) == asker.sent  # and none of them twice
        if not cls.startswith("Forking"):
            assert {answer["pid"] for answer in asker.answers} <= set(pids)
        program.wait_alone(pid)
        program.stop(pid)
        assert "Traceback" not in program.text


@pytest.mark.slow
def test_datagrams_that_wait_when_the_server_drops_the_address_are_answered(tmp_path):
    """The handler of a first datagram holds the loop while more arrive and the reload passes."""
    config = configure(tmp_path / "config", "UDPServer", ["127.0.0.1", 0])
    with (
        Program("echo_servers.py", config) as program,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        old = program.wait_serving()
        client.settimeout(TIMEOUT)
        client.connect(("127.0.0.1", program.port))
        client.send(b"slow 1")
        configure(config, "TCPServer", ["127.0.0.1", 0])
        for number in range(5):
            client.send(str(number).encode())
        new = program.reload(1, old)
        answers = [json.loads(client.recv(4096)) for _ in range(6)]
        assert [answer["text"] for answer in answers] == ["slow 1", "0", "1", "2", "3", "4"]
        assert {answer["pid"] for answer in answers} == {old}
        program.wait_alone(new)
        program.stop(new)


def test_datagrams_sent_while_no_process_reads_are_read_by_the_one_that_is_left(tmp_path):
    config = configure(tmp_path / "config", "ThreadingUDPServer", ["127.0.0.1", 0])
    with (
        Program("echo_servers.py", config) as program,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        old = program.wait_serving()
        client.settimeout(TIMEOUT)
        client.connect(("127.0.0.1", program.port))
        client.send(b"slow 5")  # keeps the incumbent draining
        new = program.reload(1, old)
        program.wait("finishing ")
        os.kill(new, signal.SIGKILL)
        for number in range(10):
            client.send(str(number).encode())
        answers = [json.loads(client.recv(4096)) for _ in range(10)]
        assert sorted(answer["text"] for answer in answers) == [str(n) for n in range(10)]
        assert {answer["pid"] for answer in answers} == {old}
        program.wait("died without a word")
        os.kill(old, signal.SIGUSR2)
        program.wait_alone(None)
