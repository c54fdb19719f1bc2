"""Log lines: none waits for room, none goes to what is not standard error."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import sys
import tempfile
import termios
import textwrap

import pytest
from harness import TIMEOUT, environment

from endless_py._support import log

PRELUDE = """
import io, logging, os, signal, socket, sys
signal.alarm(20)  # one that waits ends with that
from endless_py._support import log
def say(text):
    log.write(log.INFO, "0", text)
def result(text):
    os.write(1, text.encode() + b"\\n")
"""


def run(code, stderr, input=b"", **more):
    """Run a program with this standard error; return what it wrote to standard output."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        input=input,
        env=environment(),
        timeout=TIMEOUT,
        **more,
    )
    assert done.returncode == 0, done
    return done.stdout.decode().split("\n")[:-1]


def fill(descriptor):
    """Write until there is no room for a byte, and leave the shared flags as they were."""
    os.set_blocking(descriptor, False)
    for piece in (b"x" * 4096, b"x"):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(descriptor, piece)
    os.set_blocking(descriptor, True)


def full_pipe():
    reader, writer = os.pipe()
    fill(writer)
    return reader, writer


def full_socket():
    ours, theirs = socket.socketpair()
    fill(theirs.fileno())
    return ours.detach(), theirs.detach()


def stopped_terminal():
    """As by Ctrl-S."""
    reader, writer = pty.openpty()
    termios.tcflow(writer, termios.TCOOFF)
    return reader, writer


def empty(descriptor):
    """Return what there is to read, without the filling."""
    os.set_blocking(descriptor, False)
    found = b""
    with contextlib.suppress(BlockingIOError):
        while True:
            found += os.read(descriptor, 65536)
    return found.decode().replace("\r\n", "\n").lstrip("x\n")


# There is room again between the second line and the third.
FULL = """
import select
say("first"); say("second")
result("full")
sys.stdin.readline()
say("third")
"""


@pytest.mark.parametrize("unreadable_proc", [False, True])
@pytest.mark.parametrize("kind", [full_pipe, full_socket, stopped_terminal])
def test_a_full_standard_error_loses_lines_and_counts_them(kind, unreadable_proc):
    reader, writer = kind()
    code = FULL
    if unreadable_proc:  # as where the pipe is another user's
        code = "os_open, os.open = os.open, None\ndef refused(*a): raise PermissionError\n"
        code += "os.open = refused\nsocket.MSG_DONTWAIT = 0\n" + FULL
    program = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writer,
        env=environment(),
    )
    with program:
        assert program.stdout.readline() == b"full\n"
        assert os.get_blocking(writer)  # the flag is everybody's
        empty(reader)
        if os.isatty(writer):
            termios.tcflow(writer, termios.TCOON)
        program.stdin.write(b"\n")
        program.stdin.close()
        assert program.wait(TIMEOUT) == 0
    lines = empty(reader).splitlines()
    assert [line.partition("generation 0: ")[2] for line in lines] == [
        "2 lines dropped: standard error could not be written at once",
        "third",
    ]
    os.close(reader)
    os.close(writer)


def test_a_handler_of_logging_that_would_wait_is_not_called():
    reader, writer = full_pipe()
    code = """
    logging.basicConfig(level=logging.INFO)
    say("first")
    result("full")
    os.read(int(sys.stdin.readline()), 65536)
    say("second")
    """
    run(code, writer, input=b"%d\n" % reader, pass_fds=[reader])
    text = empty(reader)
    assert "1 line dropped" in text.splitlines()[-2]
    assert text.endswith("generation 0: second\n")


def test_a_long_line_is_whole_where_there_is_room():
    with tempfile.TemporaryFile() as file:
        run("say('y' * 100_000)", file)
        file.seek(0)
        assert file.read().endswith(b"y" * 100_000 + b"\n")


def test_a_line_that_was_cut_does_not_run_into_the_next():
    reader, writer = os.pipe()
    code = """
    say("y" * 1_000_000)
    os.read(int(sys.stdin.readline()), 1 << 20)
    say("next")
    """
    run(code, writer, input=b"%d\n" % reader, pass_fds=[reader])
    lines = empty(reader).splitlines()
    assert "1 line dropped" in lines[0]
    assert lines[1].endswith("generation 0: next")


def test_what_a_peer_says_cannot_move_the_cursor():
    with tempfile.TemporaryFile() as file:
        run(r"say('a\x1b[2J\r\x9bb\nc')", file)
        file.seek(0)
        assert file.read().endswith(rb"a\x1b[2J\x0d\x9bb c" + b"\n")


ACCIDENTS = {
    "a connection": "a, b = socket.socketpair(); found = a",
    "a file": "found = io.FileIO('data', 'w+')",
}


@pytest.mark.parametrize("name", ACCIDENTS)
def test_nothing_is_written_to_what_merely_has_the_number(name, tmp_path):
    code = f"""
    os.close(2)
    {ACCIDENTS[name]}
    assert found.fileno() == 2
    say("secret")
    log.standard_error.pass_on(b"secret")
    logging.basicConfig(level=logging.INFO)
    say("secret")
    if isinstance(found, socket.socket):
        b.setblocking(False)
        try: data = b.recv(100)
        except BlockingIOError: data = b""
    else:
        data = open("data", "rb").read()
    result(repr(data))
    """
    with tempfile.TemporaryFile() as file:
        assert run(code, file, cwd=tmp_path) == ["b''"]


ON_PURPOSE = {
    "dup2": "new = os.open('log', os.O_CREAT | os.O_WRONLY); os.dup2(new, 2)",
    "assigned": "os.close(2); sys.stderr = open('log', 'w'); assert sys.stderr.fileno() == 2",
}


@pytest.mark.parametrize("name", ON_PURPOSE)
def test_a_standard_error_that_the_program_chose_gets_its_lines(name, tmp_path):
    with tempfile.TemporaryFile() as file:
        run(ON_PURPOSE[name] + "\nsay('here')", file, cwd=tmp_path)
        file.seek(0)
        assert file.read() == b""
    assert (tmp_path / "log").read_text().endswith("generation 0: here\n")


def test_a_replacement_of_sys_stderr_gets_lines_through_its_write():
    code = """
    class Tee:
        def __getattr__(self, name): return getattr(sys.__stderr__, name)  # its fileno() is 2
        def write(self, text): result("wrote " + text.strip())
    sys.stderr = Tee()
    say("here")
    class Broken(Tee):
        def write(self, text): raise RuntimeError("never mind")
    sys.stderr = Broken()
    say("lost")
    sys.stderr = None
    say("lost")
    """
    with tempfile.TemporaryFile() as file:
        (line,) = run(code, file)
    assert line.startswith("wrote ")
    assert line.endswith("generation 0: here")


def test_a_program_without_standard_error(tmp_path):
    code = """
    data = os.open("data", os.O_CREAT | os.O_RDWR)
    result(str(data))
    say("secret")
    result(repr(os.read(data, 100)))
    """
    (tmp_path / "code").write_text(PRELUDE + textwrap.dedent(code))
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} code 2>&-"],
        capture_output=True,
        cwd=tmp_path,
        env=environment(),
        timeout=TIMEOUT,
    )
    assert done.stdout.split()[1:] == [b"b''"]


def test_a_pipe_is_not_kept_open():
    """Whoever reads the pipe waits for its end."""
    code = """
    name = os.readlink("/proc/self/fd/2")
    say("here")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for number in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{number}"):
            assert os.readlink(f"/proc/self/fd/{number}") != name
    """
    reader, writer = os.pipe()
    run(code, writer)
    assert empty(reader).endswith(": here\n")


def test_a_child_of_a_thread_that_logs_can_log():
    standard = log.StandardError()
    with standard._lock:
        child = os.fork()
        if not child:
            standard.renew_lock()
            standard.count_dropped()
            os._exit(standard.take_dropped())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
