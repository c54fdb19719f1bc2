"""Two generations have one listener: what one of them does to it stays its own matter."""

from __future__ import annotations

import gc
import multiprocessing.reduction
import multiprocessing.resource_sharer
import os
import pickle
import signal
import socket
import socketserver as standard
import threading
import weakref

import pytest
from custom_code import SERVE, custom
from harness import TIMEOUT, connect, first, get

import endless_py
from endless_py._sockets.keeper import Keeper
from endless_py._sockets.listener import Binding, ReceivedListeners
from endless_py._sockets.shared import ListenerSocket
from endless_py.http.server import HTTPServer

AT_ITS_END = {
    "a shutdown of the socket": "self.socket.shutdown(socket.SHUT_RDWR)",
    "a shutdown of a duplicate": "self.socket.dup().shutdown(socket.SHUT_RDWR)",
    "a shutdown of the descriptor": (
        "socket.socket(fileno=os.dup(self.fileno())).shutdown(socket.SHUT_RDWR)"
    ),
    "no backlog": "self.socket.listen(0)",
    "a blocking socket": "self.socket.setblocking(True)",
    "a blocking descriptor": "os.set_blocking(self.fileno(), True)",
    "an option": "self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\1' + bytes(7))",
}
ENDS = """
class Server({kind}):
    keep_pid = {keep_pid}
    def server_close(self):
        {at_its_end}
        super().server_close()

with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""
WRAPPED = """
import ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder / "cert", folder / "key")

class Server(ThreadingHTTPServer):
    def server_bind(self):
        super().server_bind()
        self.socket = context.wrap_socket(self.socket, server_side=True)
    def server_close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        super().server_close()

with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""
BINDS = {
    "the standard class's": "standard.TCPServer.server_bind(self)",
    "ours": "socketserver.TCPServer.server_bind(self)",
    "its own": "self.socket.bind(self.server_address); "
    "self.server_address = self.socket.getsockname()",
}


@pytest.mark.parametrize("kind", first(["ThreadingHTTPServer", "HTTPServer"]))
@pytest.mark.parametrize("what", first(AT_ITS_END, 3))
def test_what_the_old_process_does_at_its_end(what, kind, tmp_path):
    code = ENDS.format(kind=kind, keep_pid=False, at_its_end=AT_ITS_END[what])
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
            for _ in range(3):
                assert get(program.port).startswith(f"{generation} ")
        program.stop(pid)


@pytest.mark.slow
def test_what_a_kept_pid_does_at_its_end(tmp_path):
    code = ENDS.format(
        kind="ThreadingHTTPServer", keep_pid=True, at_its_end=AT_ITS_END["no backlog"]
    ).replace("self.socket.listen(0)", AT_ITS_END["a shutdown of the socket"])
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        os.kill(pid, signal.SIGHUP)
        program.wait(rf"\[{pid}\] generation 1: serves")
        program.wait_alone(pid)
        assert get(program.port).startswith("1 ")
        program.stop(pid)


def test_a_wrapped_listener_is_shared_as_well(tmp_path):
    secure = pytest.importorskip("secure")
    secure.certificate(tmp_path)
    with custom(tmp_path, WRAPPED) as program:
        pid = program.wait_serving()
        assert secure.get(program.port).startswith("0 ")
        pid = program.reload(1, pid)
        program.wait_alone(pid)
        assert secure.get(program.port).startswith("1 ")
        program.stop(pid)


@pytest.mark.parametrize("how", BINDS)
def test_a_listener_is_adopted_wherever_it_is_bound(how, tmp_path):
    code = f"""
import socketserver as standard
standard = sys.modules["socketserver"]
class Server(ThreadingHTTPServer):
    def server_bind(self):
        {BINDS[how]}
        self.server_name, self.server_port = self.server_address[:2]
    def server_close(self):
        standard.TCPServer.server_close(self)
{SERVE.replace("ThreadingHTTPServer", "Server")}"""
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
            assert get(program.port).startswith(f"{generation} ")
        program.stop(pid)


def test_what_a_successor_asks_for_waits_until_it_serves(tmp_path):
    """Until then the incumbent serves, and goes on if the new code fails."""
    code = f"""
class Server(ThreadingHTTPServer):
    def server_activate(self):
        super().server_activate()
        if (folder / "bad").exists():
            # Whoever accepts on such a listener resets the connection when it closes it.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.socket.settimeout(None)
            print("asked for", flush=True)
            while (folder / "bad").exists():
                time.sleep(0.01)
            sys.exit("no good")
{SERVE.replace("ThreadingHTTPServer", "Server")}"""
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        before = option(pid, program)
        (tmp_path / "bad").touch()
        os.kill(pid, signal.SIGHUP)
        program.wait("started generation 1")
        program.wait("asked for")
        assert option(pid, program) == before
        assert get(program.port).startswith("0 ")
        (tmp_path / "bad").unlink()
        program.wait("reload failed")
        assert option(pid, program) == before
        program.stop(pid)


def option(pid, program):
    """The receive buffer that a connection gets from the listener, as its client can see it."""
    with socket.create_connection(("127.0.0.1", program.port), TIMEOUT) as client:
        return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[-4:]


class Deciding(Keeper):
    decided = True

    def decides(self):
        return self.decided

    def shared(self):
        return True


def make(keeper=None):
    sock = ListenerSocket.wrap(socket.socket(), keeper or Deciding(ReceivedListeners()))
    sock.bind(("127.0.0.1", 0))
    sock.listen(5)
    return sock


def linger(sock):
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_options_wait_for_who_decides():
    with make() as sock:
        sock.binding.index = 0
        sock.keeper.decided = False
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert not linger(sock)
        sock.keeper.settle(sock)
        assert linger(sock)


def test_a_shutdown_is_seen_by_this_process_alone():
    with make() as sock:
        address = sock.getsockname()
        sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(OSError, match="Invalid argument"):
            sock.accept()
        with socket.create_connection(address, TIMEOUT):
            pass
    with make(Keeper(ReceivedListeners())) as sock:
        address = sock.getsockname()
        sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, TIMEOUT)


@pytest.mark.parametrize("timeout", [None, 0.0, 0.05, 3])
def test_a_time_out_is_that_of_one_process(timeout):
    with make() as sock:
        os.set_blocking(sock.fileno(), False)
        sock.settimeout(timeout)
        assert sock.timeout == sock.gettimeout() == timeout
        assert sock.getblocking() is (timeout != 0)
        assert not os.get_blocking(sock.fileno())
        if timeout is not None and timeout < 1:
            with pytest.raises(BlockingIOError if timeout == 0 else socket.timeout):
                sock.accept()
            return
        clients = []
        timer = threading.Timer(
            0.1, lambda: clients.append(socket.create_connection(sock.getsockname(), TIMEOUT))
        )
        timer.start()
        connection, _ = sock.accept()
        timer.join()
        assert connection.gettimeout() is None
        connection.close()
        clients[0].close()
    for wrong, error in ((-1, ValueError), ("3", TypeError)):
        with make() as sock, pytest.raises(error):
            sock.settimeout(wrong)


@pytest.fixture
def server():
    with HTTPServer(("127.0.0.1", 0), standard.BaseRequestHandler) as server:
        yield server


def accepts(sock, address):
    with socket.create_connection(address, TIMEOUT):
        connection, _ = sock.accept()
        connection.close()


def test_a_servers_socket_is_a_socket(server):
    address = server.server_address
    assert isinstance(server.socket, socket.socket)
    with server.socket.dup() as other:
        accepts(other, address)
    accepts(server.socket, address)
    sent = multiprocessing.reduction.ForkingPickler.dumps(server.socket)
    try:
        with pickle.loads(sent) as other:
            assert other.gettimeout() is None
            other.settimeout(TIMEOUT)
            accepts(other, address)
            assert server.socket.gettimeout() is None
    finally:
        multiprocessing.resource_sharer.stop(TIMEOUT)
    accepts(server.socket, address)


def test_a_servers_socket_waits_as_ever_after_it_has_served(server):
    server.socket.settimeout(TIMEOUT)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.shutdown()
    thread.join(TIMEOUT)
    assert server.socket.gettimeout() == TIMEOUT
    client = threading.Timer(0.1, lambda: socket.create_connection(server.server_address).close())
    client.start()
    request, _ = server.get_request()
    request.close()
    client.join()


def test_a_server_goes_when_nobody_refers_to_it():
    gc.disable()
    try:
        server = HTTPServer(("127.0.0.1", 0), standard.BaseRequestHandler)
        found = weakref.ref(server)
        server.server_close()
        del server
        assert found() is None
    finally:
        gc.enable()


@pytest.mark.slow
def test_a_host_may_be_given_as_bytes(tmp_path):
    with custom(tmp_path, SERVE.replace('"127.0.0.1"', 'b"127.0.0.1"')) as program:
        pid = program.wait_serving()
        pid = program.reload(1, pid)
        program.wait_alone(pid)
        assert get(program.port).startswith("1 ")
        program.stop(pid)
    assert str(Binding(socket.AF_INET, 1, (b"::1", 80), (b"::1", 80))) == "tcp [::1]:80"


def test_what_listen_gives_is_shared_too():
    listener = endless_py.listen(("127.0.0.1", 0))
    try:
        assert listener.keeper is not None
        assert listener.gettimeout() == 0
        client = connect(listener.getsockname()[1])
        client.connect()
        client.close()
    finally:
        listener.close()
        endless_py._reload.process.current.remove(listener._record)
        listener._record.server.socket.close()
