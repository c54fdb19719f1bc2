"""The captured error output: given back once, and never into something else."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from harness import TIMEOUT, Program, environment

# Descriptor 2 is a captured pipe, as in a successor; "original" is what it is to be again.
PRELUDE = """
import os, signal, sys, threading
signal.alarm(20)
captured, writer = os.pipe()
original = os.open("original", os.O_CREAT | os.O_WRONLY)
os.dup2(writer, 2); os.close(writer)
from endless_py._handoff import error_output
from endless_py._support import log
def taken_back():
    files = {error_output.ORIGINAL: original, error_output.READER: captured}
    return error_output.taken_back(files)
def result(text):
    os.write(1, str(text).encode() + b"\\n")
"""


def run(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        capture_output=True,
        cwd=folder,
        env=environment(),
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done
    return done.stdout.decode().split("\n")[:-1]


def test_two_servers_give_it_back_once(tmp_path):
    code = """
    output = taken_back()
    real, came = os.dup2, threading.Barrier(3)
    def dup2(*arguments):  # as slow as it takes for the other thread to come
        import time
        time.sleep(0.2)
        return real(*arguments)
    os.dup2 = dup2
    def restore():
        came.wait()
        output.restore()
        result(os.readlink("/proc/self/fd/2").rpartition("/")[2])
    threads = [threading.Thread(target=restore) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    output.restore()
    result(os.readlink("/proc/self/fd/2").rpartition("/")[2])
    """
    assert run(code, tmp_path) == ["original"] * 4


def test_a_standard_error_of_the_programs_own_stays(tmp_path):
    code = """
    output = taken_back()
    os.dup2(os.open("own", os.O_CREAT | os.O_WRONLY), 2)
    output.restore()
    result(os.readlink("/proc/self/fd/2").rpartition("/")[2])
    """
    assert run(code, tmp_path) == ["own"]


def test_what_has_the_number_by_chance_is_not_replaced(tmp_path):
    code = """
    output = taken_back()
    os.close(2)
    data = os.open("data", os.O_CREAT | os.O_RDWR)
    output.restore()
    output.pass_on()
    result(data)
    result(os.readlink("/proc/self/fd/2").rpartition("/")[2])
    """
    assert run(code, tmp_path) == ["2", "data"]


def test_what_cannot_be_passed_on_at_once_waits_for_room(tmp_path):
    code = """
    reader, full = os.pipe()
    os.set_blocking(full, False)
    try:
        while True: os.write(full, b"x")
    except BlockingIOError: pass
    os.set_blocking(full, True)
    original = full
    output = taken_back()
    for stage in ("before it is restored", "after"):
        os.write(2 if stage != "after" else held, b"one\\ntwo\\n")
        output.pass_on()
        result(output.lines()[-1])
        if stage != "after": held = os.dup(2)
        output.restore()
    os.set_blocking(reader, False)
    seen = os.read(reader, 1 << 20)
    output.pass_on()
    seen += os.read(reader, 1 << 20)
    result(seen.count(b"two"))
    result(log.standard_error.take_dropped())
    """
    assert run(code, tmp_path) == ["two", "two", "2", "0"]


def test_no_descriptor_of_the_capture_has_a_standard_streams_number(tmp_path):
    code = """
    os.close(0)
    spare = os.dup(1); os.close(1)
    capture = error_output.Capture()
    found = sorted([*capture.files.values(), capture.writer])
    os.write(spare, repr(found[0] > 2).encode() + b"\\n")
    capture.given(); capture.close()
    os.close(2); os.open(os.devnull, os.O_RDONLY); os.open(os.devnull, os.O_RDONLY)
    data = os.open(os.devnull, os.O_RDONLY)
    try:
        error_output.Capture()
    except OSError as error:
        os.write(spare, str(error).encode() + b"\\n")
    """
    assert run(code, tmp_path) == ["True", "there is no standard error"]
    assert os.path.exists(tmp_path / "original")


def test_a_program_that_forks_as_it_starts_forks_no_thread_of_ours(tmp_path):
    """From 3.12 on Python warns of a fork beside a thread, and what it warns of is true."""
    code = tmp_path / "server.py"
    code.write_text(
        "import os, sys, threading, warnings\n"
        "warnings.simplefilter('error', DeprecationWarning)\n"
        "from endless_py.http.server import *\n"
        "count = len(os.listdir('/proc/self/task'))\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
        "left = len(os.listdir('/proc/self/task'))\n"
        "print('threads before', count, 'after', left, file=sys.stderr, flush=True)\n"
        "ThreadingHTTPServer(('127.0.0.1', 0), BaseHTTPRequestHandler).serve_forever()\n"
    )
    with Program(command=[sys.executable, str(code)]) as program:
        pid = program.wait_serving()
        new = program.reload(1, pid)
        program.wait("threads before 2 after 1")  # the guard was there
        assert "DeprecationWarning" not in program.text
        program.wait_alone(new)
        program.stop(new)
