"""Ctrl-C in the foreground of a terminal: nobody waits for what is idle, and sees for what else."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import sys
import threading
import time

import pytest
from harness import PROGRAMS, TIMEOUT, connect, environment, slow, until


class Foreground:
    """A program as a shell's foreground job, on a terminal of its own."""

    def __init__(self, *words, **variables):
        self.text = ""
        env = environment(ENDLESS_PY_LOG_LEVEL="info", **variables)
        self.pid, self._master = pty.fork()
        if not self.pid:
            with contextlib.suppress(OSError):
                arguments = [sys.executable, str(PROGRAMS / words[0]), *words[1:]]
                os.execve(sys.executable, arguments, env)
            os._exit(127)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                self.text += data.decode()

    @property
    def port(self):
        return int(until(lambda: re.search(r"serves tcp 127.0.0.1:(\d+);", self.text))[1])

    def ctrl_c(self):
        os.write(self._master, b"\x03")

    def end(self):
        """Wait for its end, and return its status."""
        found = []
        until(lambda: found.append(os.waitpid(self.pid, os.WNOHANG)) or found[-1][0])
        self.pid = 0
        self._reader.join(TIMEOUT)
        return os.waitstatus_to_exitcode(found[-1][1])

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.pid:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._master)
        if kind:
            print(self.text)


KINDS = ["ThreadingHTTPServer", slow("ForkingHTTPServer")]


@pytest.mark.parametrize("kind", KINDS)
def test_only_idle_connections_end_at_once(kind):
    with Foreground("http_server.py", kind, "0", keepalive_grace="25") as program:
        idle, silent = connect(program.port), connect(program.port)
        idle.request("GET", "/")
        idle.getresponse().read()
        silent.connect()  # as a browser does, in case
        until(lambda: len(os.listdir(f"/proc/{program.pid}/fd")) > 3)
        time.sleep(0.2)  # until both are waited for
        begins = time.monotonic()
        program.ctrl_c()
        program.end()
        assert time.monotonic() - begins < 10
        assert "press Ctrl-C again" not in program.text
        assert "cuts" not in program.text
        assert idle.sock.recv(1) == b""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_one_ends_what_is_shown_to_be_active(kind):
    with Foreground("http_server.py", kind, "0", drain_timeout="41") as program:
        client = connect(program.port)
        client.request("GET", "/slow?25")
        client.getresponse()
        program.ctrl_c()
        shown = r"\r1 connection, at most (\d+) s; press Ctrl-C again to end them now\x1b\[K"
        seen = until(lambda: len(drawn := re.findall(shown, program.text)) > 1 and drawn)
        assert 30 < int(seen[-1]) < int(seen[0]) <= 41
        program.ctrl_c()
        program.end()
        # The line makes room for the next one.
        assert re.search(r"now\x1b\[K(\^C)?\r\x1b\[K[\d-]+ [\d:]+ WARNING ", program.text)


def test_a_request_is_answered_all_the_same():
    with Foreground("http_server.py", "ThreadingHTTPServer", "0") as program:
        client = connect(program.port)
        client.request("GET", "/slow?1")
        response = client.getresponse()
        program.ctrl_c()
        assert response.read().endswith(b"end")
        program.end()
        assert "cuts" not in program.text
