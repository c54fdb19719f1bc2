"""A listener that the new code does not have: its clients are answered or refused, never kept."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import pytest
from custom_code import custom, slow_request
from harness import TIMEOUT, first, free_port, get

TWO = """
class Server(ThreadingHTTPServer):
    keep_pid = {keep_pid}

servers = [Server(("127.0.0.1", FIRST), Handler)]
if not (folder / "without").exists():
    servers.append({second})
threads = [threading.Thread(target=server.serve_forever) for server in servers[1:]]
for thread in threads:
    thread.start()
servers[0].serve_forever()
for thread in threads:
    thread.join()
"""
FOREIGN = """
class Foreign:
    def __init__(self):
        self.socket = endless_py.listen(("127.0.0.1", PORT), on_drain=self.end)
    def serve_forever(self):
        endless_py.ready()
        while not self.ended:
            try:
                connection = self.socket.accept()[0]
            except OSError:
                time.sleep(0.01)
                continue
            connection.recv(1000)
            connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nforeign")
            connection.close()
        self.socket.drained()
        self.socket.close()
    ended = False
    def end(self):
        self.ended = True
"""
SECOND = {
    "threads": "Server(('127.0.0.1', PORT), Handler)",
    "no threads": "HTTPServer(('127.0.0.1', PORT), Handler)",
    "not ours": "Foreign()",
}


def wait_answered(*ports):
    """Servers in threads do not each say that they serve."""
    until = time.monotonic() + TIMEOUT
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < until
                time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("keep_pid", first([False, True]))
@pytest.mark.parametrize("second", first(SECOND))
def test_clients_are_answered_or_refused_during_the_drain(second, keep_pid, tmp_path):
    first, port = free_port(), free_port()
    code = FOREIGN + TWO.format(keep_pid=keep_pid, second=SECOND[second])
    answers = []
    with custom(tmp_path, code.replace("PORT", str(port)).replace("FIRST", str(first))) as program:
        program.wait_serving()
        wait_answered(first, port)
        old = program.pid
        held = slow_request(tmp_path, first, answers)
        (tmp_path / "without").touch()
        os.kill(old, signal.SIGHUP)
        program.wait(f"the new code has no tcp 127.0.0.1:{port}; it is closed")
        program.wait("finishing 1 requests")
        until = time.monotonic() + TIMEOUT
        while True:
            try:
                get(port)  # whoever is let in is answered
            except ConnectionRefusedError:
                break
            except OSError:  # just as it was closed
                pass
            assert time.monotonic() < until
        for _ in range(5):
            with pytest.raises(ConnectionRefusedError):
                get(port)
        assert held.is_alive()  # the old process drains as ever
        assert old in program.pids()
        (tmp_path / "go").touch()
        held.join(TIMEOUT)
        assert answers[0].endswith(" end")
        new = int(program.wait(r"\[(\d+)\] generation 1: serves [^;]*; kill")[1])
        program.wait_alone(new)
        assert get(first).startswith("1 ")
        program.stop(new)


@pytest.mark.slow
def test_what_waits_in_its_queue_is_answered(tmp_path):
    """The server of the missing port is busy, and has clients in its queue."""
    first, port = free_port(), free_port()
    code = TWO.format(keep_pid=False, second=SECOND["no threads"])
    code = code.replace("PORT", str(port)).replace("FIRST", str(first))
    answers = []
    with custom(tmp_path, code) as program:
        program.wait_serving()
        wait_answered(first, port)
        held = slow_request(tmp_path, port, answers)
        waiting = [threading.Thread(target=lambda: answers.append(get(port))) for _ in range(3)]
        for thread in waiting:
            thread.start()
        (tmp_path / "without").touch()
        os.kill(program.pid, signal.SIGHUP)
        program.wait(f"the new code has no tcp 127.0.0.1:{port}; it is closed")
        (tmp_path / "go").touch()
        for thread in (held, *waiting):
            thread.join(TIMEOUT)
        assert [answer.split()[0] for answer in answers] == ["0"] * 4
        new = int(program.wait(r"\[(\d+)\] generation 1: serves ")[1])
        program.wait_alone(new)
        program.stop(new)
