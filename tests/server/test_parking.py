"""Idle connections without a thread, where a server reuses threads."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
import secure
from custom_code import COUNTS, custom
from harness import TIMEOUT, connect, get, often, until

from endless_py._server import idle
from endless_py._sockets.connection import (
    Connections,
    ConnectionState,
    MigratingConnection,
)
from endless_py._sockets.parked import ParkingPlace
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REQUEST = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/slow":
            self.server.slow.set()
            assert self.server.go.wait(TIMEOUT)
        body = f"{self.path} {threading.get_ident()} end".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, text, *values):
        self.server.logged.append(text % values)


class Server(ThreadingHTTPServer):
    reuse_threads = True
    request_queue_size = 128

    def __init__(self, handler=Handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.logged, self.errors = [], []
        self.slow, self.go = threading.Event(), threading.Event()

    def handle_error(self, request, client_address):
        self.errors.append(client_address)


@pytest.fixture
def served(monkeypatch):
    """Serves, in a thread, and parks at once."""
    monkeypatch.setattr(idle, "_LINGER", 0)
    with contextlib.ExitStack() as stack:

        def serve(kind=Server, handler=Handler):
            server = stack.enter_context(kind(handler))
            loop = threading.Thread(target=server.serve_forever)
            loop.start()
            stack.callback(loop.join, TIMEOUT)
            stack.callback(server.shutdown)
            stack.callback(server.go.set)
            return server

        yield serve


@pytest.fixture
def clients():
    with contextlib.ExitStack() as stack:

        def make(server, count):
            found = []
            for _ in range(count):
                found.append(socket.create_connection(server.server_address, TIMEOUT))
                stack.enter_context(found[-1])
            return found

        yield make


def ask(client, path=b"/"):
    client.sendall(REQUEST % path)
    return answer(client)


def answer(client):
    data = b""
    while not data.endswith(b" end"):
        more = client.recv(65536)
        assert more, data
        data += more
    return data.partition(b"\r\n\r\n")[2].decode()


def ended(client):
    with contextlib.suppress(ConnectionResetError):
        return client.recv(1) == b""
    return True


def parked(server):
    return len(server._listener.connections.parked)


def all_parked(server, count):
    """Wait until so many are parked, and no handler is active."""
    until(lambda: parked(server) == count and not server._listener.connections.active)
    report = server._listener.report()
    assert (report["active"], report["idle"]) == (0, count)


def test_idle_connections_have_no_thread(served, clients):
    server = served()
    found = clients(server, 100)  # half of them say nothing yet
    for client in found[:50]:
        ask(client)
    all_parked(server, 100)
    threads = threading.active_count()
    assert threads < 50
    for _ in range(3):
        for client in found:
            assert ask(client).startswith("/ ")
    all_parked(server, 100)
    assert threading.active_count() <= threads + 1


def test_a_busy_client_keeps_its_thread_for_a_moment(served, clients, monkeypatch):
    monkeypatch.setattr(idle, "_LINGER", TIMEOUT)
    server = served()
    [client] = clients(server, 1)
    assert len({ask(client) for _ in range(10)}) == 1
    assert parked(server) == 0
    server.shutdown()
    client.close()


def test_few_connections_linger(served, clients, monkeypatch):
    monkeypatch.setattr(idle, "_LINGER", TIMEOUT)
    server = served()
    for client in clients(server, 40):
        ask(client)
    until(lambda: parked(server) == 8)
    server.shutdown()


class LogsIn(Handler):
    def do_GET(self):
        self.user = "me"
        super().do_GET()


class SetsUp(Handler):
    migrates = True

    def setup(self):
        super().setup()
        self.server.logged.append("setup")


class Finishes(Handler):
    def finish(self):
        super().finish()
        self.server.logged.append("finish")


class Handles(Handler):
    migrates = True

    def handle(self):
        super().handle()


class Saves(Handler):
    def save_state(self):
        raise AssertionError


class Stays(Handler):
    migrates = False


class Counts(Server):
    def close_request(self, request):
        self.logged.append("closed")
        super().close_request(request)


class InThread(Server):
    def process_request_thread(self, request, client_address):
        super().process_request_thread(request, client_address)


class NoReuse(Server):
    reuse_threads = False


@pytest.mark.parametrize(
    ("kind", "handler"),
    [
        *[(Server, handler) for handler in (LogsIn, SetsUp, Finishes, Handles, Saves, Stays)],
        *[(kind, Handler) for kind in (Counts, InThread, NoReuse)],
    ],
    ids=lambda kind: kind.__name__,
)
def test_what_a_program_would_notice_keeps_its_thread(kind, handler, served, clients):
    server = served(kind, handler)
    [client] = clients(server, 1)
    answers = set()
    for _ in range(3):
        answers.add(ask(client))
        until(lambda: [c for c in server._listener.connections.all() if c.idle])
        assert server._listener.connections.active
    assert len(answers) == 1
    assert parked(server) == 0
    assert server.logged.count("setup") <= 1
    assert not {"closed", "finish"} & set(server.logged)
    client.close()
    until(lambda: not len(server._listener.connections))


def test_what_is_learnt_on_the_way_is_kept(served, clients):
    """It was parked before, since nothing was known of it."""

    class Learns(Handler):
        def do_GET(self):
            if self.path == "/login":
                self.user = "me"
            self.path = getattr(self, "user", "nobody")
            super().do_GET()

    server = served(handler=Learns)
    [client] = clients(server, 1)
    assert ask(client).startswith("nobody ")
    all_parked(server, 1)
    assert ask(client, b"/login").startswith("me ")
    assert ask(client).startswith("me ")
    assert ask(client).startswith("me ")


def test_pipelined_and_broken_up_requests_are_all_answered(served, clients):
    server = served()
    [client] = clients(server, 1)
    for _ in range(3):
        all_parked(server, 1)
        client.sendall(REQUEST % b"/one" + REQUEST % b"/two" + (REQUEST % b"/three")[:7])
        data = b""
        while data.count(b" end") < 2:
            data += client.recv(65536)
        client.sendall((REQUEST % b"/three")[7:])
        assert answer(client).startswith("/three ")


class Timed(Handler):
    timeout = 0.4


@pytest.mark.parametrize("asked", [True, False])
def test_the_time_out_of_a_parked_connection_is_the_handlers(asked, served, clients):
    server = served(handler=Timed)
    [client] = clients(server, 1)
    if asked:
        ask(client)
    all_parked(server, 1)
    before = time.monotonic()
    assert ended(client)
    assert 0.2 < time.monotonic() - before < TIMEOUT / 2
    until(lambda: not len(server._listener.connections))
    assert any("Request timed out" in line for line in server.logged)
    assert not server.errors


def test_each_request_has_the_whole_time_out(served, clients):
    server = served(handler=Timed)
    [client] = clients(server, 1)
    for _ in range(4):
        ask(client)
        threading.Event().wait(0.25)
    ask(client)
    assert not any("timed out" in line for line in server.logged)


def test_max_handlers_counts_what_is_busy(served, clients):
    class Bound(Server):
        max_handlers = 2

    server = served(Bound)
    found = clients(server, 20)
    for _ in range(2):
        for client in found:
            ask(client)
    all_parked(server, 20)
    for client in found[:2]:
        client.sendall(REQUEST % b"/slow")
    until(lambda: parked(server) == 18)
    found[2].sendall(REQUEST % b"/third")
    [new] = clients(server, 1)
    new.sendall(REQUEST % b"/new")
    for client in (found[2], new):
        client.settimeout(0.2)
        with pytest.raises(socket.timeout):
            client.recv(1)
        client.settimeout(TIMEOUT)
    assert parked(server) == 18
    assert len(server._listener.connections.active) == 2
    server.go.set()
    assert answer(found[2]).startswith("/third ")
    assert answer(new).startswith("/new ")
    assert [answer(client)[:5] for client in found[:2]] == ["/slow"] * 2
    all_parked(server, 21)


def test_neither_the_kept_nor_the_new_wait_for_ever(served, clients):
    class One(Server):
        max_handlers = 1

    server, ends = served(One), threading.Event()
    counts = [0, 0, 0]

    def kept(number, client):
        while not ends.is_set():
            ask(client)
            counts[number] += 1

    loud = [
        threading.Thread(target=kept, args=(number, client))
        for number, client in enumerate(clients(server, 3))
    ]
    for thread in loud:
        thread.start()
    for _ in range(20):
        [new] = clients(server, 1)
        ask(new)
        new.close()
    ends.set()
    for thread in loud:
        thread.join(TIMEOUT)
    assert min(counts) > 0


def test_clients_that_leave_cost_no_thread(served, clients):
    server = served()
    found = clients(server, 40)
    for client in found:
        ask(client)
    all_parked(server, 40)
    process, calls = server.process_request_thread, []
    server.process_request_thread = lambda *work: calls.append(work) or process(*work)
    for number, client in enumerate(found):
        if number % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    until(lambda: not len(server._listener.connections))
    assert not server.errors
    assert not calls


def test_a_last_request_before_the_end_is_answered(served, clients):
    server = served()
    [client] = clients(server, 1)
    ask(client)
    all_parked(server, 1)
    client.sendall(REQUEST % b"/last")
    client.shutdown(socket.SHUT_WR)
    assert answer(client).startswith("/last ")
    assert ended(client)


def test_shutdown_leaves_each_client_a_handler(served, clients):
    server = served()
    found = clients(server, 3)
    for client in found:
        ask(client)
    all_parked(server, 3)
    server.shutdown()
    assert parked(server) == 0
    for client in found:
        ask(client)
    loop = threading.Thread(target=server.serve_forever)
    loop.start()
    until(lambda: server._listener.parking)
    for client in found:
        ask(client)
    all_parked(server, 3)
    server.shutdown()
    loop.join(TIMEOUT)


def test_the_program_verifies_a_client_once(served, clients):
    class Verifies(Server):
        def verify_request(self, request, client_address):
            self.logged.append("verified")
            return True

    server = served(Verifies)
    [client] = clients(server, 1)
    for _ in range(3):
        ask(client)
        all_parked(server, 1)
    assert server.logged.count("verified") == 1


def test_https_connections_keep_their_thread(tmp_path):
    code = "endless_py._server.idle._LINGER = 0\n"
    secure.certificate(tmp_path)
    serve = secure.SERVE.format(kind="ThreadingHTTPSServer", settings="reuse_threads = True")
    with custom(tmp_path, code + serve) as program:
        pid = program.wait_serving()
        client = secure.secure(program.port)
        for _ in range(5):
            assert secure.ask(client)[0].endswith(" end")
        client.close()
        program.stop(pid)


# -- the place itself ---------------------------------------------------------


@pytest.fixture
def place():
    found = ParkingPlace(Connections(), lambda: None)
    yield found
    found.close()


def pair(until=None):
    ours, theirs = socket.socketpair()
    connection = MigratingConnection(ours, "", None, ConnectionState.PARKED)
    connection.until = until
    return connection, theirs


def test_what_is_due_is_known_at_once(place):
    woken = []
    place._wake = lambda: woken.append(True)
    now = time.monotonic()
    connections = [pair(end) for end in (None, now + 50, now + 10, now + 30, now - 1)]
    for connection, _ in connections[:4]:
        place.park(connection)
        place.sweep()
    assert len(woken) == 2  # those that came first are no news for who waits
    assert place.due == now + 10
    place.park(connections[4][0])
    assert place.is_due()
    assert place.sweep() == [connections[4][0]]
    assert place.take(connections[4][0])
    assert not place.take(connections[4][0])
    assert place.sweep() == []
    assert place.due == now + 10


def test_one_that_is_parked_during_a_sweep_is_seen(place):
    late, _ = pair(time.monotonic() + 5)
    early, _ = pair(time.monotonic() + 50)
    ends = early.ends

    def parks():
        early.ends = ends
        place.park(late)
        return ends()

    early.ends = parks
    place.park(early)
    place.sweep()
    assert place.due == late.until or place.is_due()


def test_nothing_is_parked_where_nobody_looks(place):
    connection, theirs = pair()
    place.open = False
    place.park(connection)
    other, others = pair()
    place.close()
    place.park(other)
    assert place.all() == []
    assert theirs.recv(1) == others.recv(1) == b""


def test_a_fork_lets_go_of_what_is_parked_and_disturbs_nobody(place):
    connections = [pair() for _ in range(3)]
    for connection, _ in connections:
        place.park(connection)
    go, goes = os.pipe()
    child = os.fork()
    if not child:
        place.in_forked_child()
        os.close(goes)
        os.read(go, 1)
        os._exit(0)
    os.close(go)
    connections[0][1].send(b"x")
    [(spoken, left)] = place.spoken(5)
    assert spoken is connections[0][0]
    assert not left
    place.close()
    assert connections[1][1].recv(1) == b""  # the child does not hold it
    os.close(goes)
    os.waitpid(child, 0)


# -- drains -------------------------------------------------------------------

PROGRAM = """
class Server(ThreadingHTTPServer):
    reuse_threads, request_queue_size = True, 1024
    SETTINGS

endless_py._server.idle._LINGER = 0
waits = at_drain = 0

@endless_py.on_draining
def drains():
    global at_drain
    at_drain = waits

with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
print(waits - at_drain, "waits in the drain", flush=True)
"""


def program(folder, settings="pass"):
    return custom(folder, COUNTS + PROGRAM.replace("SETTINGS", settings))


def kept(running, count):
    found = [connect(running.port) for _ in range(count)]
    for client in found:
        client.request("GET", "/")
        assert client.getresponse().read().endswith(b" end")
    return found


def opened(pid):
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


@pytest.mark.slow
def test_parked_connections_migrate_and_need_no_thread_there(tmp_path):
    with program(tmp_path) as running:
        pid = running.wait_serving()
        clients = kept(running, 200)
        for generation in (1, 2, 3):
            pid = running.reload(generation, pid)
            running.wait_alone(pid)
            assert threads(pid) < 20
        for client in clients:
            client.request("GET", "/")
            assert client.getresponse().read().startswith(b"3 ")
        assert threads(pid) < 20
        for client in clients:
            client.close()
        running.stop(pid)
        assert "Traceback" not in running.text


def test_what_arrives_at_a_server_without_reuse_has_a_thread_once_it_speaks(tmp_path):
    with program(tmp_path, "reuse_threads, max_handlers = False, 2") as running:
        pid = running.wait_serving()
        before = opened(pid).count("anon_inode:[eventpoll]")
        clients = kept(running, 2)
        pid = running.reload(1, pid)
        running.wait_alone(pid)
        assert threads(pid) == 1
        assert opened(pid).count("anon_inode:[eventpoll]") == before
        more = kept(running, 1)  # it has a handler of two
        for client in [*clients, *more]:
            client.request("GET", "/")
            assert client.getresponse().read().startswith(b"1 ")
        assert threads(pid) == 4
        for client in [*clients, *more]:
            client.close()
        running.stop(pid)


def test_a_killed_successor_leaves_parked_connections_here(tmp_path):
    with program(tmp_path) as running:
        old = running.wait_serving()
        clients = kept(running, 50)
        busy = connect(running.port)
        busy.request("GET", "/slow")
        until((tmp_path / "slow").exists)
        new = running.reload(1, old)
        running.wait("finishing ")
        os.kill(new, signal.SIGSTOP)
        os.kill(new, signal.SIGKILL)
        running.wait("died without a word")
        (tmp_path / "go").touch()
        assert busy.getresponse().read().startswith(b"0 ")
        answered = 0
        for client in clients:
            client.auto_open = 0
            with contextlib.suppress(OSError, http.client.HTTPException):
                client.request("GET", "/")
                answered += client.getresponse().read().startswith(b"0 ")
            client.close()
        print(answered, "of", len(clients), "had stayed")
        assert get(running.port).startswith("0 ")
        busy.close()
        running.stop(old)


@pytest.mark.parametrize("speaks", [True, False])
def test_a_stop_gives_parked_clients_the_grace(speaks, tmp_path):
    with program(tmp_path, f"keepalive_grace = {TIMEOUT if speaks else 0.5}") as running:
        pid = running.wait_serving()
        clients = kept(running, 5)
        before = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        running.wait("finishing ")
        for client in clients:
            if speaks:
                client.request("GET", "/")
                response = client.getresponse()
                assert response.read().endswith(b" end")
                assert response.getheader("Connection") == "close"
            else:
                assert client.sock.recv(1) == b""
        running.wait_alone(None)
        assert int(running.wait(r"^(\d+) waits in the drain")[1]) < 40
        assert speaks or time.monotonic() - before > 0.4
        for client in clients:
            client.close()


def test_a_force_stop_cuts_parked_connections(tmp_path):
    with program(tmp_path, "keepalive_grace = None") as running:
        pid = running.wait_serving()
        clients = kept(running, 5)
        os.kill(pid, signal.SIGTERM)
        running.wait("finishing ")
        os.kill(pid, signal.SIGTERM)
        running.wait_alone(None, TIMEOUT / 2)
        for client in clients:
            client.close()


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_ten_thousand_idle_connections(tmp_path):
    count = often(10000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + 500:
        pytest.skip(f"needs {count + 500} open files: raise ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    with program(tmp_path, "drain_timeout = 200") as running:
        pid = running.wait_serving()
        clients = kept(running, count)
        assert threads(pid) < 100
        begun = time.monotonic()
        pid = running.reload(1, pid)
        running.wait_alone(pid, 4 * TIMEOUT)
        moved = time.monotonic()
        assert threads(pid) < 20
        for client in clients:
            client.request("GET", "/")
            assert client.getresponse().read().startswith(b"1 ")
        assert threads(pid) < 100
        memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4 // 1024
        asked = time.monotonic()
        for client in clients[: count // 2]:
            client.close()
        os.kill(pid, signal.SIGTERM)
        running.wait_alone(None, 4 * TIMEOUT)
        print(
            f"\n{count} idle connections: migrated {moved - begun:.1f} s after the HUP, "
            f"answered in {asked - moved:.1f} s, {memory} MB, "
            f"drained in {time.monotonic() - asked:.1f} s"
        )
        for client in clients:
            client.close()


def test_one_that_is_taken_while_it_is_parked_is_watched_no_more():
    place, takes = ParkingPlace(Connections(), lambda: None), threading.Event()
    client, served = socket.socketpair()
    with client, served:
        parked = MigratingConnection(served, "", None)
        found = []

        class Slow:
            """The epoll, in which another thread takes the connection as it is to be watched."""

            def __init__(self, epoll):
                self.epoll = epoll

            def register(self, *arguments):
                taker.start()
                takes.wait(TIMEOUT)
                taker.join(0.1)  # it may have to wait until this is done
                self.epoll.register(*arguments)

            def __getattr__(self, name):
                return getattr(self.epoll, name)

        def take():
            takes.set()
            found.append(place.take(parked))

        taker = threading.Thread(target=take)
        place._epoll = Slow(place._epoll)
        place.park(parked)
        taker.join(TIMEOUT)
        assert found == [True]
        client.send(b"x")
        assert place._epoll.poll(0) == []
        place.close()
        assert served.recv(1) == b"x"
