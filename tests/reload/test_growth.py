"""What a program holds does not grow with the number of its reloads."""

from __future__ import annotations

import pytest
from harness import Program, get, held


@pytest.mark.slow
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
