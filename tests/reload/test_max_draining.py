"""How many generations drain at a time: with one more, the oldest is forced to end."""

from __future__ import annotations

import http.client
import os
import re
import signal
import threading
import time

import pytest
from custom_code import SERVE, custom
from harness import TIMEOUT, get

from endless_py._reload.listeners import Listeners

SLOW = """
class Handler(Handler):
    def do_GET(self):
        if "slow" in self.path:
            print(f"begun {{self.path}} {{endless_py.generation()}}\\n", end="", flush=True)
            while not (folder / self.path[1:]).exists():
                time.sleep(0.01)
        super().do_GET()

for kind in (ThreadingHTTPServer, HTTPServer):
    kind.max_draining, kind.keep_pid = {most}, {keep}
"""
FOREIGN = """
import asyncio

async def main():
    async def handle(reader, writer):
        path = (await reader.readline()).split()[1].decode()
        while (await reader.readline()).strip():
            pass
        print(f"begun {path} {endless_py.generation()}\\n", end="", flush=True)
        while "slow" in path and not (folder / path[1:]).exists():
            await asyncio.sleep(0.01)
        body = f"{endless_py.generation()} end".encode()
        writer.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
        writer.close()

    await endless_py.serve_asyncio(
        lambda listener: asyncio.start_server(handle, sock=listener),
        ("127.0.0.1", 0), max_draining=2, keep_pid=False,
    )

asyncio.run(main())
"""


class Slow(threading.Thread):
    """A request to generation N that is answered when FOLDER/slowN is there; "" when it was cut."""

    def __init__(self, program, folder, number):
        super().__init__()
        self.answer = ""
        self._port, self._path = program.port, f"/slow{number}"
        self.start()
        after = 0
        begun = rf"^begun {self._path} (\d+)$"
        while int(program.wait(begun, after)[1]) != number:
            # asyncio accepts until it hears of the drain.
            (folder / self._path[1:]).touch()
            self.join(TIMEOUT)
            (folder / self._path[1:]).unlink()
            after = len(program.lines)
            super().__init__()
            self.start()

    def run(self):
        self.answer = ""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2 * TIMEOUT)
        try:
            connection.request("GET", self._path)
            self.answer = connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()


def wait_forced(program, generation):
    program.wait(
        rf"generation {generation}(?: \(bridge\))?: generation {generation} \(pid \d+\) is the "
        r"oldest of 3 that drain, and 2 may \(max_draining\): ends what is still active now$"
    )


def forced(program):
    return re.findall(r"generation (\d+) \(pid \d+\) is the oldest of", program.text)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("code", [SLOW.format(most=2, keep=False) + SERVE, FOREIGN])
def test_the_oldest_is_forced_to_end(code, tmp_path):
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        requests = []
        for generation in range(5):
            requests.append(Slow(program, tmp_path, generation))
            pid = program.reload(generation + 1, pid)
            program.wait(rf"generation {generation}: .* is ready after ")
            if generation >= 2:
                wait_forced(program, generation - 2)
                requests[generation - 2].join(TIMEOUT)
        for number in range(5):
            (tmp_path / f"slow{number}").touch()
        for request in requests:
            request.join(TIMEOUT)
        assert [request.answer[:1] for request in requests] == ["", "", "", "3", "4"]
        assert forced(program) == ["0", "1", "2"]
        program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_one_that_has_ended_does_not_count(tmp_path):
    """It ends in the middle of the chain, which closes without it."""
    with custom(tmp_path, SLOW.format(most=2, keep=False) + SERVE) as program:
        pid = program.wait_serving()
        requests = []
        for generation in range(2):
            requests.append(Slow(program, tmp_path, generation))
            pid = program.reload(generation + 1, pid)
            program.wait(rf"generation {generation}: .* is ready after ")
        (tmp_path / "slow1").touch()
        program.wait(r"generation 2: generation 1 \(pid \d+\) has ended")
        requests.append(Slow(program, tmp_path, 2))
        pid = program.reload(3, pid)
        program.wait(r"generation 2: .* is ready after ")
        requests.append(Slow(program, tmp_path, 3))
        assert forced(program) == []
        pid = program.reload(4, pid)
        wait_forced(program, 0)
        for number in (2, 3):
            (tmp_path / f"slow{number}").touch()
        for request in requests:
            request.join(TIMEOUT)
        assert [request.answer[:1] for request in requests] == ["", "1", "2", "3"]
        assert forced(program) == ["0"]
        program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_none_is_no_limit(tmp_path):
    with custom(tmp_path, SLOW.format(most=None, keep=False) + SERVE) as program:
        pid = program.wait_serving()
        requests = []
        for generation in range(10):
            requests.append(Slow(program, tmp_path, generation))
            pid = program.reload(generation + 1, pid)
        for number in range(10):
            (tmp_path / f"slow{number}").touch()
        for request in requests:
            request.join(TIMEOUT)
        assert [request.answer[:1] for request in requests] == list("0123456789")
        program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_kept_pid_that_is_the_oldest_comes_back_sooner(tmp_path):
    """The bridges that drain are generations as well."""
    grace = "ThreadingHTTPServer.exit_grace = 0.5\n"
    with custom(tmp_path, SLOW.format(most=2, keep=True) + grace + SERVE) as program:
        pid = program.wait_serving()
        requests = []
        for generation in range(4):
            requests.append(Slow(program, tmp_path, generation))
            os.kill(pid, signal.SIGHUP)
            program.wait(rf"generation {generation + 1} \(bridge\): serves ")
            program.wait(rf"generation {generation}(?: \(bridge\))?: .* is ready after ")
            if generation >= 2:
                wait_forced(program, generation - 2)
        # It waits longer than its program is given, for younger ones that still drain.
        program.wait(rf"\[{pid}\] generation 0: finished; exiting, then this pid starts it anew")
        time.sleep(1)
        for number in range(4):
            (tmp_path / f"slow{number}").touch()
        for request in requests:
            request.join(TIMEOUT)
        assert [request.answer[:1] for request in requests] == ["", "", "2", "3"]
        program.wait(rf"\[{pid}\] generation 4: serves ")
        assert "has not ended" not in program.text
        program.wait_alone(pid)
        assert get(program.port).startswith("4 ")
        program.stop(pid)


class Server:
    def __init__(self, most):
        self.max_draining = most


@pytest.mark.parametrize(
    ("settings", "most"), [([], None), ([None], None), ([8, 3, None], 3), ([0, "x", 5], 5)]
)
def test_of_several_servers_the_least_counts(settings, most):
    class Record:
        def __init__(self, setting):
            self.server = Server(setting)

    listeners = Listeners()
    listeners.all = tuple(map(Record, settings))
    assert listeners.max_draining() == most
