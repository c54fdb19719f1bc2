"""What a program holds does not grow with the number of its reloads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import Load, Program, descriptors, environment, get, held, often, rests, until


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_grows_over_many_reloads():
    with Program("http_server.py", "ThreadingHTTPServer", 0) as program:
        pid = program.wait_serving()
        first = (0, 0, 0)
        last = often(200)
        for generation in range(1, last + 1):
            pid = program.reload(generation, pid)
            if generation == 10:
                program.wait_alone(pid)
                assert get(program.port).startswith("10 ")
                first = held(pid)
        program.wait_alone(pid)  # zombies count
        assert get(program.port).startswith(f"{last} ")
        assert held(pid) == first
        program.stop(pid)


def used(program: Program, workers: int) -> tuple[list[int], int]:
    """Return the descriptors of each process, and the memory of all (KiB), once they rest."""

    def found():
        program.process.poll()
        pids = program.pids()  # zombies count
        return pids if len(pids) == workers + 1 and all(map(rests, pids)) else None

    pids = until(found)
    kib = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):  # the files are shared with all that runs Python
                kib += int(line.split()[1])
    return sorted(map(descriptors, pids)), kib


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_grows_over_many_reloads_with_workers_under_load():
    env = environment(ENDLESS_PY_WORKERS="3")
    with Program("http_server.py", "ThreadingHTTPServer", 0, env=env) as program:
        pid = program.wait_serving()
        found = []
        for first, last in ((1, 10), (11, often(200))):
            with Load(program.port) as load:
                for generation in range(first, last + 1):
                    pid = program.reload(generation, pid)
                load.wait_answer(f"{last} ")
            assert load.lost == []
            found.append(used(program, 3))
        (numbers, kib), (numbers_at_last, kib_at_last) = found
        print(f"{numbers} descriptors and {kib} KiB, then {numbers_at_last} and {kib_at_last} KiB")
        assert numbers_at_last == numbers
        assert kib_at_last < 1.1 * kib
        os.kill(pid, 0)
        program.stop(pid)
