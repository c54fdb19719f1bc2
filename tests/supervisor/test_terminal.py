"""A HUP from a terminal that went away stops; any other one reloads."""

from __future__ import annotations

import os
import pty
import sys
import threading
import time

import pytest
from harness import PROGRAMS, TIMEOUT, Program, connect, environment, get

# Makes the terminal that is named first its controlling one, and becomes the rest.
LAUNCH = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # whatever the tests were started with
    "fd = os.open(sys.argv[1], os.O_RDWR)\n"
    "if sys.argv[2] == 'foreground': os.tcsetpgrp(fd, os.getpgrp())\n"
    "os.close(fd)\n"
    "os.execvp(sys.argv[3], sys.argv[3:])\n"
)


class Terminal:
    """A pseudo terminal; closing it is what a lost connection does."""

    def __enter__(self):
        self.master, self.slave = pty.openpty()
        self.name = os.ttyname(self.slave)
        return self

    def start(self, *words):
        command = [sys.executable, "-c", LAUNCH, self.name, "foreground", *words]
        return Program(command=command, env=environment())

    def hang_up(self):
        for descriptor in (self.master, self.slave):
            os.close(descriptor)
        self.master = -1

    def __exit__(self, *_):
        if self.master >= 0:
            self.hang_up()


@pytest.fixture
def server(tmp_path):
    (tmp_path / "code").write_text("Server.keep_pid = False")
    return [sys.executable, str(PROGRAMS / "hooked.py"), str(tmp_path)]


SHELL = ["bash", "-c", '"$@"; exec sleep 60', "bash"]  # leads the session until the hangup


@pytest.mark.parametrize(("shell", "reloads"), [([], 0), (SHELL, 0), (SHELL, 1)])
def test_a_server_ends_with_its_terminal(shell, reloads, server):
    with Terminal() as terminal, terminal.start(*shell, *server) as program:
        pid = program.wait_serving()
        for generation in range(1, reloads + 1):
            pid = program.reload(generation, pid)
            program.wait(rf"\[{pid}\] generation {generation}: generation .* has ended")
        connection = connect(program.port)
        connection.connect()
        while len(os.listdir(f"/proc/{pid}/task")) == 1:
            time.sleep(0.01)
        terminal.hang_up()
        program.wait("SIGHUP from the terminal, which is gone; finishing")
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"%d end" % reloads
        program.wait_alone(None)
        assert f"generation {reloads + 1}" not in program.text


@pytest.mark.slow
@pytest.mark.parametrize("nohup", [[], ["nohup"]])
def test_a_terminal_that_goes_with_generation_0_changes_nothing(nohup, server):
    """As under `ssh -t host python server.py`, where the server leads the session."""
    with Terminal() as terminal, terminal.start(*nohup, *server) as program:
        pid = program.wait_serving()
        new = program.reload(1, pid)
        program.wait("SIGHUP ignored: the terminal went with an older generation")
        program.wait_alone(new)
        threading.Event().wait(0.5)  # so long a HUP would be taken for the terminal's
        new = program.reload(2, new)
        program.wait_alone(new)
        assert get(program.port) == "2 end"
        program.stop(new)


def test_with_nohup_it_reloads(server):
    with Terminal() as terminal, terminal.start(*SHELL[:3], "bash", "nohup", *server) as program:
        pid = program.wait_serving()
        new = program.reload(1, pid)  # the successor knows it too, though it is not ignored now
        program.wait("generation 0 .* has ended")
        terminal.hang_up()
        pid = program.wait_serving(2)
        program.wait_alone(pid)
        assert get(program.port) == "2 end"
        program.stop(pid)
        assert new != pid


@pytest.mark.slow
def test_an_operators_hup_after_the_terminal_is_gone_reloads(server):
    """A shell that ends in peace sends its background jobs nothing."""
    script = 'set -m; "$@" & read line'
    with Terminal() as terminal:
        command = [sys.executable, "-c", LAUNCH, terminal.name, "foreground", "bash", "-c", script]
        with Program(command=[*command, "bash", *server], env=environment()) as program:
            pid = program.wait_serving()
            program.process.wait(TIMEOUT)  # it has nothing to read
            threading.Event().wait(0.5)  # so long a HUP would be taken for the terminal's
            new = program.reload(1, pid)
            program.wait_alone(new)
            program.stop(new)
