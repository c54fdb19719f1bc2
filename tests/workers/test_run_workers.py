"""run_workers(): what is not socketserver's, and several servers, in several processes."""

from __future__ import annotations

import collections
import http.client
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest
from harness import (
    TIMEOUT,
    Load,
    Program,
    connect,
    cpu,
    environment,
    first,
    free_port,
    get,
    often,
    settled_descriptors,
    slow,
    until,
)
from worker_team import all_answer, leader_of, state, wait_settled, workers

KINDS = ("asyncio", "threads")


def start(folder, kind="asyncio", workers=3, addresses=(), **more):
    addresses = addresses or (free_port(),)
    program = Program("whole_server.py", folder, kind, workers, *addresses, env=environment(**more))
    program.addresses = addresses
    return program


# -- serving ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, slow("apart")])
def test_all_serve_all_and_the_leader_tells_of_all(kind, tmp_path):
    addresses = (free_port(), str(tmp_path / "socket"))
    with start(tmp_path, kind, addresses=addresses) as program:
        pid = program.wait_serving(count=2)
        for address in addresses:
            until(lambda a=address: len({get(a) for _ in range(6)}) == 3)  # told to accept
            answers = collections.Counter(get(address) for _ in range(30))
            assert len(answers) == 3
            assert min(answers.values()) >= 5
        for _ in range(6):
            found = state(addresses[0])["workers"]
            assert [worker["number"] for worker in found] == [0, 1, 2]
            assert found[0]["pid"] == pid
        assert sum(worker["served"] for worker in found) >= 66
        until(lambda: sum(w["active"] for w in state(addresses[0])["workers"]) == 1)
        wait_settled(program, pid)
        program.stop(pid)
        assert program.process.wait() == 0
        assert program.text.count("has served") == 3
        assert program.lines[-1] == f"left {pid}"
        assert "Traceback" not in program.text
    assert not os.path.exists(addresses[1])


def shares(port, count=64):
    kept, counts = [], collections.Counter()
    for _ in range(count):
        connection = connect(port)
        connection.request("GET", "/")
        counts[connection.getresponse().read()] += 1
        kept.append(connection)
    for connection in kept:
        connection.close()
    return counts


@pytest.mark.parametrize("kind", first(KINDS))
def test_kept_connections_are_shared_out(kind, tmp_path):
    with start(tmp_path, kind, 4) as program:
        program.wait_serving()
        all_answer(program.port, 4)  # all are told to accept
        counts = shares(program.port)
        assert len(counts) == 4
        assert all(8 <= count <= 32 for count in counts.values()), counts


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_burst_is_shared_out(kind, tmp_path):
    with start(tmp_path, kind, 4) as program:
        program.wait_serving()
        kept, counts = [connect(program.port) for _ in range(64)], collections.Counter()
        for connection in kept:
            connection.connect()
        for connection in kept:
            connection.request("GET", "/")
            counts[connection.getresponse().read()] += 1
        assert len(counts) == 4
        assert all(8 <= count <= 32 for count in counts.values()), counts
        for connection in kept:
            connection.close()


@pytest.mark.slow
def test_a_process_that_computes_is_passed_over(tmp_path):
    with start(tmp_path, workers=2) as program:
        program.wait_serving()
        before = {pid: cpu(pid) for pid in program.pids()}
        thread = threading.Thread(target=get, args=(program.port, "/burn?4"))
        thread.start()
        until(lambda: any(cpu(pid) > used + 0.3 for pid, used in before.items()))
        assert len({get(program.port) for _ in range(10)}) == 1
        assert thread.is_alive()  # nobody had to wait for that one
        thread.join()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_nobody_makes_a_system_call_while_idle(tmp_path):
    with start(tmp_path, workers=3) as program:
        pid = program.wait_serving()
        for _ in range(6):
            get(program.port)
        found = wait_settled(program, pid)
        time.sleep(0.5)
        pids = [option for each in found for option in ("-p", str(each))]
        trace = subprocess.run(
            ["timeout", "3", "strace", "-f", "-qq", *pids], capture_output=True, text=True
        )
        threads = sum(len(os.listdir(f"/proc/{each}/task")) for each in found)
        calls = [line for line in trace.stderr.splitlines() if line.strip()]
        # Each thread is in the middle of one when it is attached to.
        assert len(calls) <= threads, trace.stderr
        program.stop(pid)


# -- reloads ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("keep_pid", ["no", "yes"])
@pytest.mark.parametrize("kind", KINDS)
def test_many_reloads_under_load_lose_nothing(kind, keep_pid, tmp_path):
    addresses = (free_port(), str(tmp_path / "socket"))
    with start(tmp_path, kind, addresses=addresses, ENDLESS_PY_KEEP_PID=keep_pid) as program:
        pid = program.wait_serving(count=2)
        with Load(addresses[0]) as load, Load(addresses[1]) as other:
            last = often(20)
            for generation in range(1, last + 1):
                program.reload(generation, pid, count=2)
                load.wait_answer(f"{generation} ")
                if keep_pid == "yes":
                    until(lambda: not state(addresses[0])["bridge"])
                    until(lambda: state(addresses[0])["phase"] == "serving")
                pid = until(lambda n=generation: leader_of(addresses[0], n))
        assert (load.lost, other.lost) == ([], [])
        if keep_pid == "yes":
            assert pid == program.pid
        found = wait_settled(program, pid)
        if keep_pid == "no":
            held = [settled_descriptors(each) for each in found]
            pid = program.reload(last + 1, pid, count=2)
            assert [settled_descriptors(each) for each in wait_settled(program, pid)] == held
        program.stop(pid)
        assert "Traceback" not in program.text


@pytest.mark.slow
def test_reloads_under_load_lose_nothing(tmp_path):
    with start(tmp_path) as program:
        pid = program.wait_serving()
        with Load(program.port) as load:
            for generation in (1, 2):
                pid = program.reload(generation, pid)
                load.wait_answer(f"{generation} ")
        assert load.lost == []
        wait_settled(program, pid)
        all_answer(program.port)
        program.stop(pid)


def test_idle_connections_of_several_servers_move(tmp_path):
    addresses = (free_port(), str(tmp_path / "socket"))
    with start(tmp_path, "threads", addresses=addresses) as program:
        pid = program.wait_serving(count=2)
        kept = [connect(address) for address in addresses for _ in range(9)]
        for connection in kept:
            connection.request("GET", "/")
            connection.getresponse().read()
        sockets = [connection.sock for connection in kept]
        new = program.reload(1, pid, count=2)
        wait_settled(program, new)
        counts = collections.Counter()
        for connection in kept:
            connection.request("GET", "/")
            counts[connection.getresponse().read()] += 1
        assert sockets == [connection.sock for connection in kept]
        assert sorted(counts.values()) == [6, 6, 6]
        assert all(answer.startswith(b"1 ") for answer in counts)
        for connection in kept:
            connection.close()
        program.stop(new)


def active(port):
    """Return how many requests each process has, by its pid, but for this question."""
    found = state(port)
    counts = {worker["pid"]: worker["active"] for worker in found["workers"]}
    counts[found["pid"]] -= 1
    return counts


class InFlight:
    """Clients who have asked one after the other, so that each process has some of them."""

    def __init__(self, port, path, count=6):
        self.port, self.path, self.answers = port, path, []
        until(lambda: len({get(port) for _ in range(6)}) > 1)  # they are woken in turn by now
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for number, thread in enumerate(self._threads, 1):
            thread.start()
            until(lambda n=number: sum(active(port).values()) == n)
        self.counts = active(port)

    def _ask(self):
        try:
            self.answers.append(get(self.port, self.path))
        except (OSError, http.client.HTTPException) as error:
            self.answers.append(repr(error))

    def finished(self):
        """Wait for all; return what they were answered."""
        for thread in self._threads:
            thread.join(TIMEOUT)
        assert len(self.answers) == len(self._threads)
        return self.answers


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_requests_in_flight_are_finished(kind, tmp_path):
    with start(tmp_path, kind) as program:
        pid = program.wait_serving()
        asked = InFlight(program.port, "/slow?3")
        new = program.reload(1, pid)
        answers = asked.finished()
        assert len(set(answers)) > 1
        assert all(answer.startswith("0 ") for answer in answers)
        wait_settled(program, new)
        asked = InFlight(program.port, "/slow?3")
        os.killpg(program.pid, signal.SIGTERM)  # as a service manager sends it
        assert all(answer.endswith("end") for answer in asked.finished())
        program.wait_alone(None)
        assert "ends what is still active" not in program.text


@pytest.mark.slow
def test_a_second_order_ends_what_all_of_them_do(tmp_path):
    with start(tmp_path) as program:
        pid = program.wait_serving()
        asked = InFlight(program.port, "/slow?60")
        os.kill(pid, signal.SIGTERM)
        program.wait("finishing")
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        program.wait_alone(None)
        assert time.monotonic() - began < 10
        assert not [answer for answer in asked.finished() if answer.endswith("end")]


def fail_in(folder, number):
    (folder / "code").write_text(f"if number == {number}: raise LookupError('no database')")


@pytest.mark.parametrize("kind", first(KINDS))
def test_a_worker_that_cannot_begin_fails_the_start_and_a_reload(kind, tmp_path):
    fail_in(tmp_path, 2)
    with start(tmp_path, kind) as program:
        assert program.process.wait(TIMEOUT) == 1
        program.wait(r"WorkerFailed: worker 2 \(pid \d+\) has ended, before it could serve")
        program.wait_alone(None)
    (tmp_path / "code").unlink()
    with start(tmp_path, kind) as program:
        pid = program.wait_serving()
        port = program.port
        fail_in(tmp_path, 2)
        with Load(port, keep_alive=False) as load:
            os.kill(pid, signal.SIGHUP)
            program.wait("reload failed: generation 1 .* exited with status 1 before it was ready")
            position = len(load.answers)
            until(lambda: len(load.answers) > position + 20)
        assert load.lost == []
        assert {answer[0] for answer in load.answers} == {"0"}
        wait_settled(program, pid)
        (tmp_path / "code").unlink()
        new = program.reload(1, pid)
        wait_settled(program, new)
        program.stop(new)


@pytest.mark.slow
def test_a_worker_that_never_says_ready_fails_the_start(tmp_path):
    (tmp_path / "program.py").write_text(
        "import time, endless_py\nleads = endless_py.generation\n"
        "@endless_py.on_worker_start\ndef begin(number):\n    global worker\n    worker = number\n"
        "def main():\n    endless_py.listen(('127.0.0.1', 0), ready_timeout=1)\n"
        "    if worker:\n        time.sleep(60)\n    endless_py.ready()\n"
        "endless_py.run_workers(main, 3)\n"
    )
    with Program(tmp_path / "program.py") as program:
        assert program.process.wait(TIMEOUT) == 1
        program.wait(
            r"WorkerFailed: worker 1 \(pid \d+\) did not say ready within 1 s and was killed"
        )
        program.wait_alone(None)


@pytest.mark.slow
def test_a_worker_that_is_slow_to_begin_takes_no_client_before(tmp_path):
    """Else these would be lost if another one failed."""
    with start(tmp_path, workers=4) as program:
        pid = program.wait_serving()
        (tmp_path / "code").write_text("import time\ntime.sleep(number / 3)")
        with Load(program.port, keep_alive=False) as load:
            os.kill(pid, signal.SIGHUP)
            new = program.wait_serving(1)
            position = len(load.answers)
            assert {answer[0] for answer in load.answers[: position - 12]} == {"0"}
            load.wait_answer("1 ")
        assert load.lost == []
        wait_settled(program, new, 4)
        program.stop(new)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_successor_that_dies_while_the_workers_drain(kind, tmp_path):
    with start(tmp_path, kind) as program:
        pid, port = program.wait_serving(), program.port
        asked = InFlight(port, "/slow?4")
        new = program.reload(1, pid)
        time.sleep(0.3)
        os.kill(new, signal.SIGKILL)
        program.wait("this one accepts again")
        assert get(port)  # be it by a new successor, as asyncio's cannot accept again
        assert all(answer.endswith("end") for answer in asked.finished())
        until(lambda: len(workers(port)) == 3)
        newest = state(port)["workers"][0]["pid"]
        assert state(port)["generation"] == (1 if kind == "asyncio" else 0)
        wait_settled(program, newest)
        program.stop(newest)


# -- their ends ---------------------------------------------------------------


@pytest.mark.parametrize("kind", first(KINDS))
def test_a_worker_that_is_killed_under_load_is_replaced(kind, tmp_path):
    with start(tmp_path, kind) as program:
        pid = program.wait_serving()
        before = workers(program.port)
        with Load(program.port) as load:
            load.wait_answer("0 ")
            os.kill(before[1], signal.SIGKILL)
            program.wait(
                rf"lost worker 1 \(pid {before[1]}\), killed by SIGKILL; another one is started now"
            )
            until(lambda: len(workers(program.port)) == 3)
            position = len(load.answers)
            until(lambda: len(load.answers) > position + 20)
        assert len(load.lost) <= 6  # one for each client, of what that process itself handled
        after = workers(program.port)
        assert (after[0], after[2]) == (pid, before[2])
        assert after[1] not in before
        all_answer(program.port)
        wait_settled(program, pid)
        program.stop(pid)


def test_a_worker_whose_function_returns_is_replaced(tmp_path):
    with start(tmp_path) as program:
        pid = program.wait_serving()
        port = program.port

        def end_a_worker():
            connection = connect(port)
            try:
                connection.request("GET", "/")
                found = int(connection.getresponse().read().split()[1])
                if found != pid:
                    connection.request("GET", "/return")
                    connection.getresponse().read()
                    return found
            finally:
                connection.close()

        victim = until(end_a_worker)
        program.wait(rf"lost worker \d \(pid {victim}\), exited with status 0")
        until(lambda: len(workers(port)) == 3 and victim not in workers(port))
        wait_settled(program, pid)
        program.stop(pid)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_leader_that_is_killed_leaves_nothing_behind(kind, tmp_path):
    with start(tmp_path, kind) as program:
        pid, port = program.wait_serving(), program.port
        asked = InFlight(port, "/slow?3")
        os.kill(pid, signal.SIGKILL)
        finished = sum(answer.endswith("end") for answer in asked.finished())
        assert finished >= 6 - asked.counts[pid] > 0  # a question before may still have counted
        program.process.wait()
        until(lambda: not program.pids())
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_leader_that_is_killed_while_its_workers_begin(kind, tmp_path):
    (tmp_path / "code").write_text(
        "import time\nos.write(1, b'begins %d\\n' % number)\ntime.sleep(number)"
    )
    with start(tmp_path, kind) as program:
        program.wait("begins 2")
        os.kill(program.pid, signal.SIGKILL)
        program.process.wait()
        until(lambda: not program.pids())


@pytest.mark.slow
def test_a_leader_that_is_killed_during_a_reload(tmp_path):
    with start(tmp_path) as program:
        pid = program.wait_serving()
        port = program.port
        (tmp_path / "code").write_text("import time\ntime.sleep(1)")
        with Load(port, keep_alive=False) as load:
            os.kill(pid, signal.SIGHUP)
            program.wait("started generation 1")
            position = len(load.answers)
            until(lambda: len(load.answers) > position + 20)
            os.kill(pid, signal.SIGKILL)
            new = program.wait_serving(1)
            load.wait_answer("1 ")
        # Those that the leader had, and none that was not let in.
        assert not [each for each in load.lost if "Refused" in each]
        assert len(load.lost) <= 4
        program.process.wait()
        wait_settled(program, new)
        program.stop(new)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
def test_a_signal_to_a_worker_is_none_to_the_generation(number, tmp_path):
    with start(tmp_path) as program:
        pid = program.wait_serving()
        before = workers(program.port)
        os.kill(before[1], number)
        time.sleep(0.3)
        assert workers(program.port) == before
        assert state(program.port)["generation"] == 0
        os.killpg(pid, signal.SIGINT)
        program.wait_alone(None)
        assert "Traceback" not in program.text or "KeyboardInterrupt" in program.text


# -- loops of one's own -------------------------------------------------------

LOOP = """
import os, select, socket, threading, endless_py
address = {address!r}
def main():
    draining = threading.Event()
    streams = endless_py.listen(address, on_drain=draining.set)
    datagrams = endless_py.listen(("127.0.0.1", {port}), type=socket.SOCK_DGRAM, on_drain=int)
    endless_py.ready()
    while not draining.is_set():
        for each in select.select([streams, datagrams], [], [], 0.02)[0]:
            answer = b"%d %d end" % (endless_py.generation(), os.getpid())
            try:
                if each is streams:
                    client, _ = each.accept()
                    with client:
                        client.sendall(answer)
                else:
                    each.sendto(answer, each.recvfrom(100)[1])
            except BlockingIOError:
                pass
    endless_py.drained()
endless_py.run_workers(main, 3)
"""


@pytest.mark.slow
def test_loops_of_ones_own(tmp_path):
    address, port = str(tmp_path / "socket"), free_port()
    (tmp_path / "program.py").write_text(LOOP.format(address=address, port=port))
    lost, seen, over = [], set(), threading.Event()

    def ask():
        while not over.is_set():
            try:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(TIMEOUT)
                    client.connect(address)
                    seen.add(client.makefile().read())
            except OSError as error:
                lost.append(error)

    with Program(tmp_path / "program.py") as program:
        pid = program.wait_serving(count=2)
        thread = threading.Thread(target=ask)
        thread.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(TIMEOUT)
            client.connect(("127.0.0.1", port))
            for generation in range(4):
                for _ in range(50):
                    client.send(b"x")
                    seen.add(client.recv(100).decode())
                pid = program.reload(generation + 1, pid, count=2)
        until(lambda: len([each for each in seen if each.startswith("4 ")]) == 3)
        over.set()
        thread.join()
        assert lost == []
        assert all(each.endswith(" end") for each in seen)
        wait_settled(program, pid)
        program.stop(pid)
    assert not os.path.exists(address)


# -- what it refuses ----------------------------------------------------------

REFUSED = {
    "threads": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), name='poller', "
        "daemon=True).start()\nendless_py.run_workers(print, 2)",
        "RuntimeError: workers = 2: other threads run (poller)",
    ),
    "servers": (
        "endless_py.listen(('127.0.0.1', 0))\nendless_py.run_workers(print, 2)",
        "RuntimeError: workers = 2: make the servers in main(), not before (tcp 127.0.0.1:",
    ),
    "number": ("endless_py.run_workers(print, 0)", "ValueError: workers must be 1 to 512"),
    "twice": (
        "endless_py.run_workers(lambda: endless_py.run_workers(print, 2), 2)",
        "RuntimeError: this program has workers already",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_said(name, tmp_path):
    code, text = REFUSED[name]
    (tmp_path / "program.py").write_text(f"import endless_py\n{code}\n")
    with Program(tmp_path / "program.py") as program:
        assert program.process.wait(TIMEOUT) == 1
        program.wait_alone(None)
        assert text in program.lines[-1]


@pytest.mark.parametrize("count", [slow(1), 2])
def test_it_returns_what_the_leader_has_returned(count, tmp_path):
    (tmp_path / "program.py").write_text(
        f"import endless_py\nprint(endless_py.run_workers(lambda: 'so', {count}), flush=True)\n"
    )
    with Program(tmp_path / "program.py") as program:
        assert program.process.wait(TIMEOUT) == 0
        program.wait_alone(None)
        assert program.lines == ["so"]
