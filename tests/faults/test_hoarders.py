"""What clients and handlers use up leaves what a reload, a command and a stop need."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time

import commands
import pytest
from custom_code import COUNTS, SERVE, custom
from entry_points import frame
from harness import TIMEOUT, get, slow

from endless_py._control import client as control_client

LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0}))
for kind in (ThreadingHTTPServer, HTTPServer):
    kind.request_queue_size = 4096
    kind.keepalive_grace = 0.2
    kind.drain_timeout = 5
"""
FULL = r"cannot accept on tcp .*: Too many open files; clients wait until there is room \(raise "


def command(*words):
    """Run a command, which has to succeed."""
    status, output, errors = commands.command(*words, "--timeout", TIMEOUT, seconds=2 * TIMEOUT)
    assert status == 0, (output, errors)
    return output


@pytest.fixture
def hoard():
    """Connects so many clients that say no more than a word."""
    clients = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))

    def connect(port, count, word=b""):
        for _ in range(count):
            clients.append(socket.create_connection(("127.0.0.1", port), TIMEOUT))
            clients[-1].sendall(word)
        return clients

    yield connect
    for sock in clients:
        sock.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def reload_twice(program, pid):
    """Reload by a HUP, then by the command, and see the status; return the newest pid."""
    assert "serving" in command("status", pid)
    pid = program.reload(1, pid)
    program.wait(r"generation 0: generation 1 .* is ready after ")
    command("reload", pid)
    return program.wait_serving(2)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("limit", [64, *(slow(limit) for limit in (40, 256, 1024))])
def test_idle_connections_in_all_descriptors_hold_up_no_order(limit, hoard, tmp_path):
    with custom(tmp_path, LIMIT.format(limit) + SERVE) as program:
        pid = program.wait_serving()
        hoard(program.port, 3 * limit)
        program.wait(f"generation 0: {FULL}")
        pid = reload_twice(program, pid)
        program.wait(f"generation 2: {FULL}")
        command("stop", pid)
        program.wait_alone(None)
        assert "cannot be started" not in program.text
        assert "this goes on" not in program.text


@pytest.mark.timeout(120)
def test_a_signal_stops_a_server_without_a_free_descriptor_and_the_queue_is_served(hoard, tmp_path):
    with custom(tmp_path, LIMIT.format(64) + SERVE) as program:
        pid = program.wait_serving()
        clients = hoard(program.port, 150)
        program.wait(FULL)
        for client in clients[-20:]:  # they wait in the accept queue
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        os.kill(pid, signal.SIGTERM)
        for client in clients[-20:]:
            assert client.makefile("rb").read().endswith(b"end")
        program.wait_alone(None)


OPENS = """
opened = []

class Handler(Handler):
    def do_GET(self):
        if self.path == "/open":
            try:
                while not (folder / "go").exists():
                    opened.append(open(os.devnull))
            except OSError:
                print("full", flush=True)
            while not (folder / "go").exists():
                time.sleep(0.01)
        super().do_GET()
"""


@pytest.mark.timeout(120)
def test_files_that_handlers_open_hold_up_no_order(hoard, tmp_path):
    with custom(tmp_path, LIMIT.format(128) + OPENS + SERVE) as program:
        pid = program.wait_serving()
        hoard(program.port, 1, b"GET /open HTTP/1.0\r\n\r\n")
        program.wait("^full$")
        command("status", pid)
        new = program.reload(1, pid)
        assert get(program.port).startswith("1 ")
        (tmp_path / "go").touch()
        program.wait_alone(new)
        program.stop(new)


KEPT = "for kind in (ThreadingHTTPServer, HTTPServer): kind.keep_pid = True\n"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_kept_pid_is_reloaded_without_a_free_descriptor(hoard, tmp_path):
    with custom(tmp_path, LIMIT.format(64) + KEPT + SERVE) as program:
        pid = program.wait_serving()
        hoard(program.port, 300)
        program.wait(FULL)
        for generation in (1, 2):
            command("reload", pid)
            assert f'"generation": {generation}' in command("status", "--json", pid)
        program.stop(pid)


FOREIGN = """
import asyncio

async def main():
    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    await endless_py.serve_asyncio(
        lambda listener: asyncio.start_server(handle, sock=listener),
        ("127.0.0.1", 0), backlog=128, drain_timeout=1,
    )

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_of_asyncio_is_reloaded_without_a_free_descriptor(hoard, tmp_path):
    with custom(tmp_path, LIMIT.format(64) + FOREIGN) as program:
        pid = program.wait_serving()
        hoard(program.port, 110)
        program.wait("socket.accept.. out of system resource")
        pid = reload_twice(program, pid)
        # asyncio tries each place of the queue, were it let, and says so each time.
        assert program.text.count("socket.accept() out of") < 40
        program.stop(pid)


TWO = """
servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
print("second", servers[1].server_address[1], flush=True)
threading.Thread(target=servers[1].serve_forever).start()
servers[0].serve_forever()
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_while_one_server_s_loop_takes_a_step_another_one_takes_none_of_it(hoard, tmp_path):
    """The reserve is open just then, and clients stand in the other one's queue."""
    with custom(tmp_path, LIMIT.format(64) + TWO) as program:
        pid = program.wait_serving(count=2)
        second = int(program.wait(r"second (\d+)")[1])
        for port in (program.port, second):
            hoard(port, 100)
            program.wait(rf"cannot accept on tcp 127.0.0.1:{port}:")
        for _ in range(5):
            command("status", pid)
        new = program.reload(1, pid, count=2)
        program.wait_alone(new)
        program.stop(new)


SPIN = """
class Handler(Handler):
    def do_GET(self):
        print("waits", waits, flush=True)
        super().do_GET()
"""


@pytest.mark.timeout(120)
def test_commands_that_wait_for_a_descriptor_do_not_make_the_loop_spin(hoard, tmp_path):
    """Six are let in; the others wait, and the rest of the reserve is left to a reload."""
    with custom(tmp_path, LIMIT.format(64) + COUNTS + SPIN + SERVE) as program:
        pid = program.wait_serving()
        clients = hoard(program.port, 150)
        program.wait(FULL)
        (path,) = control_client.addresses(pid)
        asking = []
        for _ in range(40):
            asking.append(socket.socket(socket.AF_UNIX))
            asking[-1].connect(path)
            asking[-1].sendall(frame(b'{"command": "watch"}'))
        time.sleep(1)  # what it would spin in
        clients[0].sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert int(program.wait(r"^waits (\d+)$")[1]) < 400
        os.kill(pid, signal.SIGHUP)
        program.wait_serving(1)
        for sock in asking:
            sock.close()
        program.wait(r"generation 0: generation 1 .* is ready after ")
