"""The protocols of systemd, spoken with a stand-in that is as strict as NotifyAccess=main."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import threading
import time

import pytest
from harness import PROGRAMS, TIMEOUT, Program, connect, environment, get

# Becomes the program that follows the name, with sockets as systemd would pass them.
LAUNCH = "import fcntl, os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
LAUNCH += "high = [fcntl.fcntl(int(d), fcntl.F_DUPFD, 50) for d in sys.argv[1].split(',')]; "
LAUNCH += "[os.dup2(d, 3 + i) for i, d in enumerate(high)]; "
LAUNCH += "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"


class Manager:
    """Receives notifications as systemd does: in order, each with its sender's pid."""

    def __init__(self, place):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.settimeout(TIMEOUT)
        name = "" if place is None else str(place / "notify")
        self.socket.bind(name)  # an empty one makes Linux choose an abstract name
        self.name = name or "@" + os.fsdecode(self.socket.getsockname()[1:])
        self.messages: list[tuple[int, dict[str, str]]] = []
        self.main = 0

    def next(self):
        data, ancillary, _, _ = self.socket.recvmsg(8192, socket.CMSG_SPACE(12))
        sender = struct.unpack("3i", ancillary[0][2])[0]
        states = dict(line.split("=", 1) for line in data.decode().split("\n"))
        self.main = self.main or sender
        assert sender == self.main, f"from {sender}, but the main process is {self.main}: {states}"
        self.main = int(states.get("MAINPID", self.main))
        self.messages.append((sender, states))
        return sender, states

    def wait(self, name, value=None):
        """Return the next message with this state, and its sender."""
        while True:
            sender, states = self.next()
            if name in states and value in (None, states[name]):
                return sender, states

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    with Manager(tmp_path if request.param == "path" else None) as manager:
        yield manager


def start(manager, tmp_path, *addresses, **more):
    (tmp_path / "code").touch()
    more = {"NOTIFY_SOCKET": manager.name, "LENT_CODE": str(tmp_path / "code"), **more}
    return Program("lent_server.py", *(addresses or ["127.0.0.1:0"]), env=environment(**more))


# -- notifications ------------------------------------------------------------


@pytest.mark.slow
def test_each_step_of_reloads_is_told_by_the_main_process(manager, tmp_path):
    with start(manager, tmp_path) as program:
        old, states = manager.wait("READY", "1")
        assert (old, states["MAINPID"]) == (program.pid, str(program.pid))
        for generation in range(1, 4):
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            os.kill(old, signal.SIGHUP)
            sender, states = manager.next()
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert states["RELOADING"] == "1"
            assert before <= int(states["MONOTONIC_USEC"]) <= after
            sender, states = manager.next()
            new = program.wait_serving(generation)
            assert (states["READY"], states["MAINPID"], sender) == ("1", str(new), old)
            assert get(program.port, "/variables") == "[] end"
            program.wait_alone(new)
            old = new
        os.kill(old, signal.SIGTERM)
        assert manager.next()[1]["STOPPING"] == "1"
        program.wait_alone(None)


def test_a_failed_reload_is_told(manager, tmp_path):
    with start(manager, tmp_path) as program:
        pid, _ = manager.wait("READY")
        (tmp_path / "code").write_text("def")
        os.kill(pid, signal.SIGHUP)
        assert manager.next()[1]["RELOADING"] == "1"
        sender, states = manager.next()
        assert (sender, states["READY"]) == (pid, "1")
        assert "exited with status 1 before it was ready" in states["STATUS"]
        assert manager.main == pid
        hook = "import endless_py\n@endless_py.before_reload\ndef no(): raise ValueError('not now')"
        (tmp_path / "code").write_text(hook)
        os.kill(pid, signal.SIGHUP)
        new = int(manager.wait("MAINPID")[1]["MAINPID"])
        program.wait_alone(new)
        os.kill(new, signal.SIGHUP)
        assert manager.next()[1]["RELOADING"] == "1"
        states = manager.next()[1]
        assert states["READY"] == "1"
        assert "reload cancelled" in states["STATUS"]
        program.stop(new)


def test_ready_waits_for_every_server(tmp_path):
    # The last server's loop begins only when the gate is opened.
    code = "import os, threading\nfrom endless_py.http import server\n"
    code += "run = server.ThreadingHTTPServer.serve_forever\n"
    code += "def gated(self):\n"
    code += "    if threading.current_thread() is threading.main_thread():\n"
    code += f"        open({str(tmp_path / 'gate')!r}).read()\n"
    code += "    run(self)\n"
    code += "server.ThreadingHTTPServer.serve_forever = gated\n"
    os.mkfifo(tmp_path / "gate")
    with Manager(tmp_path) as manager:
        (tmp_path / "code").write_text(code)
        with start(manager, tmp_path, "127.0.0.1:0", "127.0.0.1:0") as program:
            states = manager.next()[1]
            assert list(states) == ["STATUS"]
            assert "waits until tcp 127.0.0.1:" in states["STATUS"]
            open(tmp_path / "gate", "w").close()
            pid, states = manager.next()
            assert states["READY"] == "1"
            program.stop(pid)


def slow_request(program, tmp_path, answers):
    thread = threading.Thread(target=lambda: answers.append(get(program.port, "/slow")))
    thread.start()
    while not (tmp_path / "code.slow").exists():
        assert thread.is_alive()
    return thread


@pytest.mark.slow
def test_a_long_drain_asks_for_more_time(tmp_path):
    answers: list[str] = []
    with Manager(tmp_path) as manager, start(manager, tmp_path) as program:
        pid, _ = manager.wait("READY")
        thread = slow_request(program, tmp_path, answers)
        os.kill(pid, signal.SIGTERM)
        assert manager.next()[1]["STOPPING"] == "1"
        for _ in range(2):
            sender, states = manager.next()
            assert sender == pid
            assert int(states["EXTEND_TIMEOUT_USEC"]) > 2_000_000
        (tmp_path / "code.go").touch()
        thread.join(TIMEOUT)
        program.wait_alone(None)
        assert answers == [f"0 {pid} end"]


@pytest.mark.slow
def test_a_stop_delay_is_part_of_the_stop(tmp_path):
    """Else systemd, whose own time-out begins with the order, might kill it in the delay."""
    more = {"ENDLESS_PY_STOP_DELAY": "2.5", "ENDLESS_PY_DRAIN_TIMEOUT": "0"}
    with Manager(tmp_path) as manager, start(manager, tmp_path, **more) as program:
        pid, _ = manager.wait("READY")
        os.kill(pid, signal.SIGTERM)
        sender, states = manager.next()
        assert (sender, states["STOPPING"], states["STATUS"]) == (pid, "1", "stops soon")
        for _ in range(2):  # the second one after 2 s, in the delay
            assert int(manager.next()[1]["EXTEND_TIMEOUT_USEC"]) > 2_000_000
        assert get(program.port).endswith("end")
        assert manager.wait("STOPPING")[1]["STATUS"] == "drains and stops"
        program.wait_alone(None)


@pytest.mark.parametrize("group", [False, True])
def test_a_stop_after_a_reload_waits_for_what_the_old_one_serves(group, tmp_path):
    """systemd kills what is left when the main process ends; with KillMode=control-group
    it stops every process, and neither order may count as the second."""
    answers: list[str] = []
    with Manager(tmp_path) as manager, start(manager, tmp_path) as program:
        old, _ = manager.wait("READY")
        thread = slow_request(program, tmp_path, answers)
        os.kill(old, signal.SIGHUP)
        new = int(manager.wait("MAINPID")[1]["MAINPID"])
        program.wait("finishing ")
        if group:
            os.kill(old, signal.SIGTERM)
            program.wait("SIGTERM passed on")
        os.kill(new, signal.SIGTERM)
        assert manager.wait("STOPPING")[0] == new
        (tmp_path / "code.go").touch()
        thread.join(TIMEOUT)
        assert answers == [f"0 {old} end"]
        program.wait_alone(None)
        assert program.text.index(f"(pid {old}) has ended") < program.text.index(
            "generation 1: finished; exiting"
        )
        assert "ends what is still active now" not in program.text


def test_the_watchdog_is_fed_by_whoever_is_in_charge(tmp_path):
    period = {"WATCHDOG_USEC": "200000"}
    with Manager(tmp_path) as manager, start(manager, tmp_path, **period) as program:
        old, _ = manager.wait("READY")
        for _ in range(3):
            assert manager.next() == (old, {"WATCHDOG": "1"})
        os.kill(old, signal.SIGHUP)
        new = int(manager.wait("MAINPID")[1]["MAINPID"])
        for _ in range(3):
            assert manager.next() == (new, {"WATCHDOG": "1"})
        program.stop(new)


def test_the_incumbent_is_the_main_process_again_when_its_successor_dies(tmp_path):
    answers: list[str] = []
    with Manager(tmp_path) as manager, start(manager, tmp_path) as program:
        old, _ = manager.wait("READY")
        thread = slow_request(program, tmp_path, answers)
        os.kill(old, signal.SIGHUP)
        new = int(manager.wait("MAINPID")[1]["MAINPID"])
        program.wait("finishing ")
        manager.main = old  # needs NotifyAccess=all, as the main process is dead
        os.kill(new, signal.SIGKILL)
        sender, states = manager.next()
        assert (sender, states["MAINPID"], states["READY"]) == (old, str(old), "1")
        (tmp_path / "code.go").touch()
        thread.join(TIMEOUT)
        program.wait_alone(old)
        program.stop(old)


@pytest.mark.parametrize("fate", ["is not there", "is full", "has gone"])
def test_a_manager_that_does_not_listen_stops_nothing(fate, tmp_path):
    with Manager(tmp_path) as manager:
        if fate == "is not there":
            os.unlink(manager.name)
        elif fate == "has gone":
            manager.socket.close()
        else:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
                filler.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        filler.sendto(b"full", manager.name)
        with start(manager, tmp_path) as program:
            old = program.wait_serving()
            assert get(program.port) == f"0 {old} end"
            if fate == "is full":
                while manager.socket.recv(99) == b"full":
                    pass  # and the READY=1 that had to wait
            new = program.reload(1, old)
            program.wait_alone(new)
            program.stop(new)


# -- socket activation --------------------------------------------------------


def listening(family, address, kind=socket.SOCK_STREAM):
    sock = socket.socket(family, kind)
    sock.bind(address)
    if kind == socket.SOCK_STREAM:
        sock.listen(128)
    return sock


def launch(sockets, *addresses, **more):
    numbers = ",".join(str(sock.fileno()) for sock in sockets)
    first = f"LISTEN_FDS={len(sockets)}"
    words = ["env", first, *(f"{name}={value}" for name, value in more.items())]
    words += [sys.executable, "-c", LAUNCH, numbers, str(PROGRAMS / "lent_server.py")]
    return Program(command=[*words, *addresses], pass_fds=[sock.fileno() for sock in sockets])


def test_lent_listeners_are_adopted_by_address_over_reloads(tmp_path):
    path = str(tmp_path / "socket")
    tcp = listening(socket.AF_INET, ("127.0.0.1", 0))
    unix = listening(socket.AF_UNIX, path)
    spare = listening(socket.AF_INET, ("127.0.0.1", 0))
    address, inode = f"127.0.0.1:{tcp.getsockname()[1]}", os.stat(path).st_ino
    with tcp, unix, spare:
        waiting = connect(tcp.getsockname()[1])
        waiting.connect()  # before there is a process
        names = {"LISTEN_FDNAMES": "spare:web:local"}
        with launch([spare, tcp, unix], path, address, **names) as program:
            old = program.wait_serving(count=2)
            waiting.request("GET", "/variables")
            assert waiting.getresponse().read() == b"[] end"
            waiting.close()
            port = spare.getsockname()[1]
            program.wait(rf"no server uses tcp 127\.0\.0\.1:{port} \(spare\)")
            for generation in range(1, 3):
                old = program.reload(generation, old, count=2)
                program.wait_alone(old)
                assert get(tcp.getsockname()[1]) == f"{generation} {old} end"
                assert get(path) == f"{generation} {old} end"
            program.stop(old)
            assert program.text.count("socket activation:") == 1
        assert os.stat(path).st_ino == inode  # the manager's, as are the listeners:
        for place in (path, tcp.getsockname()):
            with socket.socket(socket.AF_UNIX if place is path else socket.AF_INET) as client:
                client.connect(place)


@pytest.mark.slow
def test_what_the_new_code_needs_may_have_been_unused_before(tmp_path):
    used, spare = (listening(socket.AF_INET, ("127.0.0.1", 0)) for _ in range(2))
    first, second = (f"127.0.0.1:{sock.getsockname()[1]}" for sock in (used, spare))
    code = tmp_path / "code"
    code.touch()
    with used, spare, launch([used, spare], first, LENT_CODE=code) as program:
        old = program.wait_serving()
        code.write_text(f"sys.argv[1] = {second!r}")
        middle = program.reload(1, old)
        program.wait_alone(middle)
        assert get(spare.getsockname()[1]) == f"1 {middle} end"
        code.write_text("")  # rolled back: what generation 1 did not use is there as well
        last = program.reload(2, middle)
        program.wait_alone(last)
        assert get(used.getsockname()[1]) == f"2 {last} end"
        program.stop(last)


def test_a_stop_does_not_end_the_managers_unix_socket(tmp_path):
    path = str(tmp_path / "socket")
    with listening(socket.AF_UNIX, path) as unix, launch([unix], path) as program:
        pid = program.wait_serving()
        assert get(path) == f"0 {pid} end"
        program.stop(pid)
        assert os.path.exists(path)
