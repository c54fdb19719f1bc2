"""What a program holds does not grow with the number of its reloads."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from harness import TIMEOUT, Program, get


def held(pid: int) -> tuple[int, int, int]:
    """Open descriptors, variables in the environment, threads; once no handler runs."""
    process = Path(f"/proc/{pid}")
    deadline = time.monotonic() + TIMEOUT
    while len(os.listdir(process / "task")) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    variables = (process / "environ").read_bytes().count(b"\0")
    return len(os.listdir(process / "fd")), variables, len(os.listdir(process / "task"))


@pytest.mark.timeout(240)  # two hundred starts of an interpreter
def test_nothing_grows_over_two_hundred_reloads():
    with Program("http_server.py", "ThreadingHTTPServer", 0) as program:
        pid = program.wait_serving()
        first = (0, 0, 0)
        for generation in range(1, 201):
            pid = program.reload(generation, pid)
            if generation == 10:
                program.wait_alone(pid)
                assert get(program.port).startswith("10 ")
                first = held(pid)
        program.wait_alone(pid)  # zombies count
        assert get(program.port).startswith("200 ")
        assert held(pid) == first
        program.stop(pid)
