"""Idle connections migrate: clients keep their TCP connection over reloads."""

from __future__ import annotations

import http.client
import os
import re
import resource
import signal
import socket
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from custom_code import SERVE, custom
from harness import TIMEOUT, Program, connect, environment, first, get, held, often, slow, until

from endless_py._handoff.channel import Channel
from endless_py._reload.counters import Counters
from endless_py._reload.migration import Migration
from endless_py._sockets.connection import MigratingConnection


def exchange(connection, path="/"):
    """Return the answer, and what it says of the connection."""
    connection.request("GET", path)
    response = connection.getresponse()
    return response.read().decode(), response.getheader("Connection")


def ask(connection, path="/"):
    body, word = exchange(connection, path)
    assert word != "close"
    return body


def settle(client):
    """Ask until the incumbent has let go: an answer from the successor, or one that says close.

    A request that comes before the handler has seen the drain is answered as ever.
    """
    for _ in range(100):
        body, word = exchange(client)
        if word == "close" or not body.startswith("0 "):
            return body, word
    raise AssertionError("the connection neither migrates nor is told to close")


def close(clients):
    for client in clients:
        client.close()


def need_descriptors(count):
    """Raise this process's limit, which the servers that it starts inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count} open files and the hard limit is {hard}: raise ulimit -Hn")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("kind", "reloads"),
    [
        ("ThreadingHTTPServer", 5),
        slow("ThreadingHTTPServer", often(50)),
        slow("ForkingHTTPServer", often(20)),
    ],
)
def test_one_connection_goes_through_many_reloads(kind, reloads):
    with Program("http_server.py", kind, 0) as program:
        pid = program.wait_serving()
        kept, unasked = connect(program.port), connect(program.port)
        unasked.connect()
        answers = [ask(kept)]
        place = kept.sock.getsockname()
        for generation in range(1, reloads + 1):
            old, pid = pid, program.reload(generation, pid)
            program.wait(rf"generation {generation}: generation .*\(pid {old}\) has ended")
            answers.append(ask(kept))
        generations = [int(answer.split()[0]) for answer in answers]
        assert generations == list(range(reloads + 1))
        assert kept.sock.getsockname() == place
        assert ask(unasked).startswith(f"{reloads} ")
        close([kept, unasked])
        program.stop(pid)


@pytest.mark.slow
def test_a_line_protocol_keeps_its_sessions():
    """The documentation's example: several clients, each with a count of its own, ten reloads."""
    with Program("counter_server.py") as program:
        pid = program.wait_serving()
        clients = [socket.create_connection(("127.0.0.1", program.port), TIMEOUT) for _ in range(8)]
        streams = [client.makefile("rw") for client in clients]
        for generation in range(11):
            for number, stream in enumerate(streams):
                for line in range(number + 1):
                    stream.write("hello\n")
                    stream.flush()
                    count = generation * (number + 1) + line + 1
                    assert stream.readline() == f"{count} {generation}\n"
            if generation < 10:
                pid = program.reload(generation + 1, pid)
                program.wait_alone(pid)
        close(streams + clients)
        program.stop(pid)


@pytest.mark.timeout(180)
@pytest.mark.slow
def test_two_thousand_idle_connections_migrate_in_one_reload():
    count = 2000
    need_descriptors(count + 500)
    longer = environment(drain_timeout="150")  # it takes seconds where nothing else runs
    with Program("http_server.py", "ThreadingHTTPServer", 0, env=longer) as program:
        pid = program.reload(1, program.wait_serving())
        program.wait_alone(pid)
        assert get(program.port).startswith("1 ")
        before = held(pid)
        clients = [connect(program.port) for _ in range(count)]
        for client in clients:
            assert ask(client).startswith("1 ")
        begun = time.monotonic()
        pid = program.reload(2, pid)
        ready = time.monotonic()
        program.wait_alone(pid, 4 * TIMEOUT)
        gone = time.monotonic()
        print(
            f"\n{count} idle connections: ready after {ready - begun:.2f} s, all migrated and "
            f"the incumbent gone {gone - ready:.2f} s later"
        )
        for client in clients:
            assert ask(client) == f"2 {pid} end"
        close(clients)
        assert held(pid) == before
        program.stop(pid)
        assert "Traceback" not in program.text


# The incumbent looks away until its handlers have ended, and again until the successor has answered
# for all that it was sent: from then on nothing but the answers says that there is more to send.
LOOKS_AWAY = """
from endless_py._reload import process
current = process.current
check = current.drain.check

def answered():
    under_way = len(current.migration._under_way)
    try:
        said = current.living_successor.channel._socket.recv(1 << 20, socket.MSG_PEEK)
    except BlockingIOError:
        said = b""
    return said.count(b'"taken"') * 16 >= under_way  # it is sent batches of 16

def look_away():
    while threading.active_count() > 1 or not answered():
        current.listeners.tell_handlers()
        time.sleep(0.01)
    check()

if current.generation == 0:
    current.drain.check = look_away
"""


def test_answers_that_come_all_at_once_make_room_for_the_rest(tmp_path):
    with custom(tmp_path, LOOKS_AWAY + SERVE) as program:
        old = program.wait_serving()
        clients = idle_clients(program, 200)
        new = program.reload(1, old)
        program.wait(rf"\(pid {old}\) has ended")
        for client in clients:
            assert ask(client).startswith("1 ")
        close(clients)
        program.stop(new)
        assert "Traceback" not in program.text


# -- a successor that dies or stands still in the middle --------------------

# Where FOLDER/fatal names a signal and a number, the successor sends itself that signal as it
# takes up that connection; it notes each one before, so that it is known which ones were not.
FATAL = """
from endless_py._sockets.connection import MigratingConnection
taken = (folder / "taken").open("ab", buffering=0)
number, at = map(int, (folder / "fatal").read_text().split())
take = MigratingConnection.from_json

def count(body, descriptor):
    global at
    traveller = take(body, descriptor)
    taken.write(b"%d\\n" % traveller.client_address[1])
    at -= 1
    if at == 0:
        os.kill(os.getpid(), number)
    return traveller

if endless_py.state()["generation"]:
    MigratingConnection.from_json = count
"""


def fatal(folder, number, at, kind="ThreadingHTTPServer"):
    (folder / "fatal").write_text(f"{int(number)} {at}")
    return custom(folder, FATAL + SERVE.replace("ThreadingHTTPServer", kind))


def idle_clients(program, count):
    clients = [connect(program.port) for _ in range(count)]
    for client in clients:
        assert ask(client).startswith("0 ")
    return clients


def stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def handlers_gone(program, old, new):
    """Whether the incumbent has no handler any more, neither a process nor a thread."""
    return program.pids() == sorted([old, new]) and len(os.listdir(f"/proc/{old}/task")) == 1


def kept_by(clients, sent=False):
    """Return the clients that the incumbent answers, and the ports of the others.

    A handler that the successor had forked before it was killed answers still, as "1".
    """
    kept, lost = [], set()
    for client in clients:
        port = client.sock.getsockname()[1]
        client.auto_open = 0
        try:
            if not sent:
                client.request("GET", "/")
            answer = client.getresponse().read()
        except (OSError, http.client.HTTPException):
            answer = b""
        if answer.startswith(b"0 "):
            kept.append(client)
        else:
            lost.add(port)
            client.close()
    return kept, lost


@pytest.mark.parametrize(
    ("kind", "count", "at"),
    [
        slow("ThreadingHTTPServer", 200, 1),
        ("ThreadingHTTPServer", 200, 50),
        slow("ThreadingHTTPServer", 200, 200),
        slow("ReusingHTTPServer", 200, 50),
        slow("ForkingHTTPServer", 30, 10),
    ],
)
@pytest.mark.parametrize("number", first([signal.SIGKILL, signal.SIGSTOP]))
def test_what_a_killed_successor_has_not_taken_is_served_here(number, kind, count, at, tmp_path):
    with fatal(tmp_path, number, at, kind) as program:
        old = program.wait_serving()
        clients = idle_clients(program, count)
        new = program.reload(1, old)
        if number == signal.SIGSTOP:
            until(lambda: stopped(new))
            for client in clients:  # these requests are on the way when the successor dies
                client.request("GET", "/")
            os.kill(new, signal.SIGKILL)
        program.wait("died without a word")
        taken = {int(port) for port in (tmp_path / "taken").read_text().split()}
        kept, lost = kept_by(clients, sent=number == signal.SIGSTOP)
        print(f"\n{count} connections, {len(taken)} taken up, {len(lost)} left with the successor")
        assert len(taken) == at
        assert lost < taken  # the last one was never confirmed
        assert get(program.port).startswith("0 ")
        (tmp_path / "fatal").write_text("0 0")
        position = len(program.lines)
        os.kill(old, signal.SIGHUP)
        new = int(program.wait(r"\[(\d+)\] generation 1: serves ", position)[1])
        program.wait(rf"\(pid {old}\) has ended")
        for client in kept:
            assert ask(client).startswith("1 ")
        close(kept)
        program.wait_alone(new)
        program.stop(new)
        assert "Traceback" not in program.text


# The incumbent's handlers end only when FOLDER/go is there.
LINGERS = """
class Handler(Handler):
    def finish(self):
        (folder / "ends").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
        super().finish()
"""


def test_a_handler_that_ends_late_leaves_its_connection_to_nobody(tmp_path):
    """The successor it was to migrate to is long dead when the handler has ended."""
    with custom(tmp_path, LINGERS + SERVE) as program:
        old = program.wait_serving()
        client = connect(program.port)
        ask(client)
        new = program.reload(1, old)
        until((tmp_path / "ends").exists)
        os.kill(new, signal.SIGKILL)
        program.wait(rf"generation 1 \(pid {new}\) killed by SIGKILL")
        (tmp_path / "go").touch()
        assert ask(client).startswith("0 ")
        client.close()
        program.stop(old)


@pytest.mark.slow
def test_what_the_successor_has_not_accepted_is_served_here():
    with Program("http_server.py", "ThreadingHTTPServer", 0) as program:
        old = program.wait_serving()
        slow, idle = connect(program.port), connect(program.port)
        slow.request("GET", "/slow?3")
        head = slow.getresponse()
        new = program.reload(1, old)
        program.wait("finishing ")
        os.kill(new, signal.SIGSTOP)
        # Nobody but the stopped successor accepts, so this client waits in the queue.
        idle.connect()
        os.kill(new, signal.SIGKILL)
        program.wait("died without a word")
        assert ask(idle) == f"0 {old} end"
        assert head.read().decode() == f"0 {old} end"
        assert get(program.port) == f"0 {old} end"
        close([slow, idle])


@pytest.mark.parametrize("kind", first(["ThreadingHTTPServer", "ForkingHTTPServer"]))
def test_clients_that_leave_on_the_way_make_no_noise(kind, tmp_path):
    with fatal(tmp_path, signal.SIGSTOP, 1, kind) as program:
        old = program.wait_serving()
        clients = idle_clients(program, 30)
        new = program.reload(1, old)
        until(lambda: stopped(new) and handlers_gone(program, old, new))
        for number, client in enumerate(clients[:-1]):
            if number % 2:  # a reset, not an orderly end
                no_linger = struct.pack("ii", 1, 0)
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
            client.close()
        os.kill(new, signal.SIGCONT)
        program.wait(rf"\(pid {old}\) has ended")
        assert ask(clients[-1]).startswith("1 ")
        clients[-1].close()
        program.wait_alone(new)
        program.stop(new)
        assert not [line for line in program.lines if not re.search(r"endless_py\[\d+\]", line)]


# -- a receiver that is replaced itself -------------------------------------

# /NAME says that it is here by making FOLDER/NAME, and answers when FOLDER/NAME.go is there.
GATES = """
class Handler(Handler):
    def do_GET(self):
        name = self.path[1:]
        if name:
            (folder / name).touch()
            while not (folder / f"{name}.go").exists():
                time.sleep(0.01)
        super().do_GET()
"""


class Gated:
    """A client whose request is being answered for as long as it is not let go."""

    def __init__(self, folder, port, name):
        self.gate = folder / f"{name}.go"
        self.client = connect(port)
        self.client.request("GET", f"/{name}")
        until((folder / name).exists)

    def let_go(self):
        self.gate.touch()
        return self.client.getresponse().read().decode()


def test_a_receiver_that_drains_passes_a_connection_on(tmp_path):
    with custom(tmp_path, GATES + SERVE) as program:
        first = program.wait_serving()
        a = Gated(tmp_path, program.port, "a")
        place = a.client.sock.getsockname()
        second = program.reload(1, first)
        program.wait("generation 0: .*finishing ")
        b = Gated(tmp_path, program.port, "b")
        third = program.reload(2, second)
        program.wait("generation 1: .*finishing ")
        assert program.pids() == sorted([first, second, third])
        assert a.let_go().startswith("0 ")  # it migrates from 0 to 1, which drains, to 2
        program.wait("generation 1: generation 0 .* has ended")
        assert ask(a.client).startswith("2 ")
        assert a.client.sock.getsockname() == place
        assert b.let_go().startswith("1 ")
        program.wait_alone(third)
        assert ask(b.client).startswith("2 ")
        close([a.client, b.client])
        program.stop(third)


def test_a_connection_outlives_the_generation_that_would_have_received_it(tmp_path):
    with custom(tmp_path, GATES + SERVE) as program:
        first = program.wait_serving()
        a = Gated(tmp_path, program.port, "a")
        pid = program.reload(1, first)
        program.wait("generation 0: .*finishing ")
        pid = program.reload(2, pid)
        program.wait("generation 2: generation 1 .* has ended")
        assert a.let_go().startswith("0 ")
        program.wait_alone(pid)
        assert ask(a.client).startswith("2 ")
        a.client.close()
        program.stop(pid)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ThreadingHTTPServer", "ForkingHTTPServer"])
def test_connections_on_the_way_while_reload_follows_reload(kind, tmp_path):
    count, reloads = (300, 6) if kind == "ThreadingHTTPServer" else (30, 4)
    with custom(tmp_path, SERVE.replace("ThreadingHTTPServer", kind)) as program:
        pid = program.wait_serving()
        clients = idle_clients(program, count)
        for generation in range(1, reloads + 1):  # none waits for the end of the one before
            old, pid = pid, program.reload(generation, pid)
        program.wait(rf"\(pid {old}\) has ended")
        for client in clients:
            assert ask(client).startswith(f"{reloads} ")
        close(clients)
        program.stop(pid)


# -- what stays behind ------------------------------------------------------

FEW_DESCRIPTORS = """
import resource
if endless_py.state()["generation"] == 1:
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
ThreadingHTTPServer.keepalive_grace = 30
"""


def test_what_the_successor_has_no_descriptor_for_is_told_to_close(tmp_path):
    with custom(tmp_path, FEW_DESCRIPTORS + SERVE) as program:
        old = program.wait_serving()
        clients = idle_clients(program, 100)
        new = program.reload(1, old)
        program.wait("finishing ")
        answers = [settle(client) for client in clients]
        told = [body for body, word in answers if word == "close"]
        kept = [body for body, word in answers if word != "close"]
        assert all(body.startswith("0 ") for body in told)
        assert all(body.startswith("1 ") for body in kept)
        print(f"\n{len(kept)} of 100 migrated, {len(told)} were told to close")
        assert told
        assert kept
        close(clients)
        program.wait_alone(new)
        assert get(program.port).startswith("1 ")
        program.stop(new)
        assert "Traceback" not in program.text


HTTP_STAY = """
class Handler(Handler):
    def do_GET(self):
        if self.path == "/stay":
            self.migrates = False
        super().do_GET()

class Stays(Handler):
    migrates = False

ThreadingHTTPServer.keepalive_grace = 30
"""


@pytest.mark.parametrize("what", ["handler", "class"])
def test_http_connections_that_opt_out_are_told_to_close(what, tmp_path):
    serve = SERVE.replace("Handler)", "Stays)") if what == "class" else SERVE
    with custom(tmp_path, HTTP_STAY + serve) as program:
        old = program.wait_serving()
        stays, other = connect(program.port), connect(program.port)
        assert ask(stays, "/stay").startswith("0 ")
        assert ask(other).startswith("0 ")
        new = program.reload(1, old)
        program.wait("finishing ")
        body, word = exchange(stays)
        assert (body[0], word) == ("0", "close")
        body, word = settle(other)
        assert (body[0], word) == (("0", "close") if what == "class" else ("1", None))
        close([stays, other])
        program.wait_alone(new)
        program.stop(new)


# Answers "stay" with the generation and no migration from then on, a number with the generation
# and the size of the state that came along; that number is the size of the state from then on.
LINES = """
class Handler(socketserver.StreamRequestHandler):
    size = 0

    def handle(self):
        while endless_py.await_message(self):
            line = self.rfile.readline().strip()
            if not line:
                return
            self.wfile.write(f"{endless_py.state()['generation']} {self.size}\\n".encode())
            if line == b"stay":
                self.migrates = False
            else:
                self.size = int(line)
        if not self.migrating:
            self.wfile.write(b"bye\\n")

    def save_state(self):
        return b"x" * self.size

    def restore_state(self, data):
        self.size = len(data)

class Stays(Handler):
    migrates = False

class Server(socketserver.ThreadingTCPServer):
    keepalive_grace = 0.5

with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""


class Lines:
    def __init__(self, port):
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._stream = self._socket.makefile("rw")

    def say(self, word):
        self._stream.write(f"{word}\n")
        self._stream.flush()
        return self.hear()

    def hear(self):
        return self._stream.readline()

    def close(self):
        self._stream.close()
        self._socket.close()


@pytest.mark.parametrize("why", ["class", "handler", "state"])
def test_a_line_protocol_that_cannot_migrate_says_good_bye(why, tmp_path):
    code = LINES.replace("0), Handler)", "0), Stays)") if why == "class" else LINES
    with custom(tmp_path, code) as program:
        old = program.wait_serving()
        clients = [Lines(program.port) for _ in range(3)]
        for client in clients:
            assert client.say({"handler": "stay", "state": 65537, "class": 0}[why]) == "0 0\n"
        new = program.reload(1, old)
        for client in clients:
            assert client.hear() == "bye\n"
            assert client.hear() == ""
        close(clients)
        program.wait_alone(new)
        said = [line for line in program.lines if "save_state() returned 65537 bytes" in line]
        assert len(said) == (3 if why == "state" else 0)
        program.stop(new)
        assert "Traceback" not in program.text


@pytest.mark.slow
def test_as_much_state_as_is_allowed_goes_along(tmp_path):
    with custom(tmp_path, LINES) as program:
        pid = program.wait_serving()
        clients = [Lines(program.port) for _ in range(40)]
        for client in clients:
            assert client.say(65536) == "0 0\n"
        for generation in (1, 2):
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
            for client in clients:
                assert client.say(65536) == f"{generation} 65536\n"
        close(clients)
        program.stop(pid)


def test_what_is_let_go_still_reaches_a_receiver_that_reads_late():
    """What waits in a full channel was never sent: closed here it would take all after it along."""
    mine, its = socket.socketpair()
    left, right = Channel(mine), Channel(its)
    served, client = socket.socketpair()
    process = SimpleNamespace(
        machine=SimpleNamespace(migrates=True),
        living_successor=SimpleNamespace(channel=left),
        counters=Counters(),
    )
    migration = Migration(process)
    while not left.sending:
        left.send({"type": "reload"})
    migration.add(SimpleNamespace(migrates_to=0), MigratingConnection(served, "", b""))
    migration.step()
    left.send({"type": "replace"})
    assert migration.leave_to_successor() == 1
    assert len(migration) == 0
    messages = []
    while left.sending:
        left.flush()
        messages += right.receive()
    assert messages[-1].body["type"] == "replace"
    connection = messages[-2]
    with socket.socket(fileno=connection.take()) as taken, client:
        migration.answered([connection.body["items"][0]["id"]], True)
        client.sendall(b"x")
        assert taken.recv(1) == b"x"
    assert served.fileno() == -1
    left.close()
    right.close()
