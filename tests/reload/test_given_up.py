"""A successor that serves one listener and not the other is given up: the other stays served."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest
from harness import TIMEOUT, Program

CODE = """
import os, socket, sys, threading
from endless_py.socketserver import StreamRequestHandler, ThreadingTCPServer

folder, keep_pid = sys.argv[1], sys.argv[2] == "True"
not_served = open(folder + "/not-served").read()

class Handler(StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"%d" % os.getpid())

class Server(ThreadingTCPServer):
    ready_timeout = 1
    drain_timeout = 5
    pid_file = folder + "/pid"

Server.keep_pid = keep_pid

class UnixServer(Server):
    address_family = socket.AF_UNIX

with UnixServer(folder + "/socket", Handler) as unix, Server(("127.0.0.1", 0), Handler) as tcp:
    served = [s for s, name in ((unix, "unix"), (tcp, "tcp")) if name != not_served]
    for server in served:
        threading.Thread(target=server.serve_forever).start()
    for thread in threading.enumerate()[1:]:
        thread.join()
"""


def ask(family: int, address) -> int:
    with socket.socket(family) as client:
        client.settimeout(TIMEOUT)
        client.connect(address)
        return int(client.recv(100))


@pytest.mark.parametrize("not_served", ["unix", "tcp"])
@pytest.mark.parametrize("keep_pid", [False, True])
def test_what_it_did_not_serve_is_served_as_before(tmp_path, not_served, keep_pid):
    wish = tmp_path / "not-served"
    wish.write_text("")
    command = [sys.executable, "-c", CODE, str(tmp_path), str(keep_pid)]
    with Program(command=command) as program:
        port = int(program.wait(r"serves tcp .*:(\d+)")[1])
        program.wait("serves unix ")
        where = (socket.AF_UNIX, str(tmp_path / "socket")), (socket.AF_INET, ("127.0.0.1", port))
        wish.write_text(not_served)
        os.kill(program.pid, signal.SIGHUP)
        program.wait("reload failed: .*it was not ready within 1 s")
        assert [ask(*each) for each in where] == [program.pid] * 2
        assert (tmp_path / "pid").read_text() == f"{program.pid}\n"
        wish.write_text("")  # and the next one is as good as ever
        after = len(program.lines)
        os.kill(program.pid, signal.SIGHUP)
        pid = int(program.wait(r"\[(\d+)\] generation 1: serves unix ", after)[1])
        program.wait_alone(pid)
        assert [ask(*each) for each in where] == [pid] * 2
        program.stop(pid)
    assert not (tmp_path / "socket").exists()
