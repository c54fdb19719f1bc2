"""Children on their way to their end: reaped when they have ended, killed when they do not."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

import pytest

from endless_py._handoff.child import Child, Children

TIMEOUT = 10


@pytest.fixture
def start():
    started = []

    def start(code):
        """Start a child; return it, with a descriptor that becomes readable at its end."""
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        started.append(process)
        return Child(process.pid, 1), process.stdout

    yield start
    for process in started:
        process.stdout.close()
        try:
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        process.returncode = 0


def ended(stream):
    assert select.select([stream], [], [], TIMEOUT)[0]
    assert stream.read() == b""


def reap(children, draining=()):
    """Reap until nothing is due any more, as the driver would."""
    until = time.monotonic() + TIMEOUT
    found = []
    while children.due is not None:
        assert time.monotonic() < until
        time.sleep(max(0.0, children.due - time.monotonic()))
        found += children.reap(set(draining))
    return found


def test_one_that_fails_is_told_once_with_its_end(start):
    children = Children()
    child, stream = start("raise SystemExit(3)")
    children.leave(child)
    children.leave(child)
    ended(stream)
    assert reap(children) == [child]
    assert child.status == "exited with status 3"
    children.leave(child)  # it has been reaped
    assert len(children) == 0
    assert children.due is None


def test_one_that_does_not_end_is_killed_when_its_time_is_over(start):
    children = Children()
    child, _ = start("import time; time.sleep(60)")
    child.kill_after(0.1)
    children.leave(child)
    assert reap(children) == [child]
    assert child.status == "killed by SIGKILL"


def test_an_orphan_that_still_drains_is_left_alone(start):
    children = Children()
    orphan, stream = start("")
    children.orphans.append(orphan)
    ended(stream)
    children.soon()
    assert reap(children, [orphan.pid]) == []
    assert children.orphans == [orphan]
    children.soon()
    assert reap(children) == []  # nobody waits to hear of it
    assert children.orphans == []


def test_one_whose_status_was_taken_by_the_program(start):
    children = Children()
    child, _ = start("")
    os.waitpid(child.pid, 0)
    children.leave(child)
    assert reap(children) == [child]
    assert child.status == "has ended"
