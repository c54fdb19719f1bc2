"""The promise: 20 reloads under load, and no client notices."""

from __future__ import annotations

import json

import pytest
from harness import Load, Program, connect, get, often, slow


@pytest.mark.parametrize(
    ("kind", "unix", "last"),
    [
        ("ThreadingHTTPServer", False, 20),
        slow("ThreadingHTTPServer", True, often(20)),
        slow("ForkingHTTPServer", False, often(20)),
        slow("ForkingHTTPServer", True, often(20)),
        slow("HTTPServer", False, often(20)),
        slow("HTTPServer", True, often(20)),
    ],
)
def test_twenty_reloads_under_load_lose_nothing(kind, unix, last, tmp_path):
    path = str(tmp_path / "socket")
    with Program("http_server.py", kind, path if unix else 0) as program:
        pid = program.wait_serving()
        address = path if unix else program.port
        with Load(address, keep_alive=kind != "HTTPServer") as load:
            for generation in range(1, last + 1):
                pid = program.reload(generation, pid)
                load.wait_answer(f"{generation} ")
        assert load.lost == []
        assert get(address).startswith(f"{last} ")
        program.wait_alone(pid)
        program.stop(pid)


def test_answers_in_flight_come_from_the_old_process_and_new_ones_from_the_new(tmp_path):
    with Program("http_server.py", "ThreadingHTTPServer", 0) as program:
        old = program.wait_serving()
        slow = connect(program.port)
        slow.request("GET", "/slow?1")
        response = slow.getresponse()  # the head has come, the rest is in flight
        new = program.reload(1, old)
        program.wait("finishing ")
        assert get(program.port) == f"1 {new} end"
        assert response.read().decode() == f"0 {old} end"
        slow.close()
        program.wait_alone(new)
        state = json.loads(get(program.port, "/state"))
        assert state["generation"] == 1
        assert state["phase"] == "serving"
        program.stop(new)
