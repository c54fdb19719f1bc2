"""A successor's error output: passed on as it comes, and its last lines kept for who asks."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time

import pytest

from endless_py._handoff import error_output
from endless_py._handoff.error_output import Capture, ErrorOutput, taken_back

TIMEOUT = 10


@pytest.fixture
def target():
    with tempfile.TemporaryFile() as file:
        yield file


@pytest.fixture
def piped(target):
    """An ErrorOutput with the end that the successor writes to."""
    reader, writer = os.pipe()
    output = ErrorOutput(reader, target.fileno())
    yield output, writer
    output.close()
    with contextlib.suppress(OSError):
        os.close(writer)


def written(target):
    target.seek(0)
    return target.read()


def test_what_comes_is_passed_on_and_nothing_is_waited_for(piped, target):
    output, writer = piped
    output.pass_on()
    assert output.lines() == []
    os.write(writer, b"one\ntw")
    output.pass_on()
    os.write(writer, b"o\n")
    output.pass_on()
    assert written(target) == b"one\ntwo\n"
    assert output.lines() == ["one", "two"]
    assert output.fileno() >= 0


def test_at_its_end_the_reader_is_closed_and_the_lines_stay(piped, target):
    output, writer = piped
    os.write(writer, b"last words")
    os.close(writer)
    output.pass_on()
    assert output.fileno() == -1
    output.pass_on()  # of a closed one nothing is read
    assert output.lines() == ["last words"]
    assert written(target) == b"last words"


def test_the_last_twenty_lines_are_kept_and_none_that_is_cut(piped, target):
    output, writer = piped
    for number in range(30):
        os.write(writer, b"line %d\n" % number)
    output.pass_on()
    assert output.lines() == [f"line {number}" for number in range(10, 30)]
    os.write(writer, b"x" * 4090 + b"\nshort \xff\n")
    output.pass_on()
    assert output.lines() == ["short \ufffd"]
    assert len(written(target)) > 4096  # nothing of it is cut there


def test_a_target_that_takes_nothing_loses_it_and_stops_nothing(piped):
    output, writer = piped
    with open("/dev/full", "wb", buffering=0) as full:
        output._target = full.fileno()
        os.write(writer, b"unheard\n")
        output.pass_on()
    assert output.lines() == ["unheard"]


def test_a_target_that_nobody_reads_is_not_waited_for(piped):
    output, writer = piped
    reader, output._target = os.pipe()
    try:
        os.close(reader)
        os.write(writer, b"unheard\n")
        output.pass_on()
        assert output._target not in output.watched()  # it would be ready for ever
        assert output.lines() == ["unheard"]
    finally:
        os.close(output._target)


def test_a_successor_knows_its_output_from_the_files_it_was_given():
    reader, writer = os.pipe()
    files = {error_output.READER: reader, error_output.ORIGINAL: writer, "own": 9}
    output = taken_back(files)
    assert output is not None
    assert output.fileno() == reader
    assert files == {"own": 9}
    assert taken_back(files) is None
    assert taken_back({error_output.READER: 7}) is None
    output.close()
    os.close(writer)


def test_a_capture_reads_what_the_successor_writes(capfd):
    capture = Capture()
    writer = os.dup(capture.writer)  # the successor's
    capture.given()
    os.write(writer, b"Traceback\n")
    os.close(writer)
    assert set(capture.files) == {error_output.READER, error_output.ORIGINAL}
    capture.close()
    assert capture.output.lines() == ["Traceback"]
    assert capfd.readouterr().err == "Traceback\n"
    for descriptor in (capture.original, *capture.files.values()):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_who_is_left_alone_with_a_full_pipe_reads_it_itself(piped, target):
    """A thread begins to read when the process at the channel's other end is gone."""
    output, writer = piped
    ours, theirs = socket.socketpair()
    with ours, theirs:
        output.guard(ours.fileno())
        os.write(writer, b"while the other one lives\n")
        time.sleep(0.02)
        assert written(target) == b""
        theirs.close()
        data = b"more than a pipe holds\n" * 10000
        while data:  # would block for ever if nobody read
            data = data[os.write(writer, data) :]
        output._end_guard()
    output.pass_on()
    assert len(written(target)) == len(b"while the other one lives\n") + 230000


def test_a_guard_that_is_not_needed_ends(piped, target):
    output, _ = piped
    ours, theirs = socket.socketpair()
    with ours, theirs:
        output.guard(ours.fileno())
        began = time.monotonic()
        output._end_guard()
        output._end_guard()
        assert time.monotonic() - began < TIMEOUT


def test_a_capture_that_no_successor_was_given_leaves_nothing_open():
    before = set(os.listdir("/proc/self/fd"))
    error_output.Capture().close()
    assert set(os.listdir("/proc/self/fd")) == before
