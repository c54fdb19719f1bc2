"""Which of a server's methods are the program's: what may be skipped depends on it."""

from __future__ import annotations

import socket
import socketserver

import pytest
from harness import TIMEOUT

import endless_py
from endless_py._server.methods import closes_nothing, serves_as_standard
from endless_py.socketserver import BaseRequestHandler, TCPServer, ThreadingTCPServer, UDPServer


class Echo(BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        sock.sendto(data, self.client_address)


class Closes:
    def close_request(self, request):
        self.closed.append(request[0])
        super().close_request(request)


class Left(Closes, UDPServer):
    pass


class ToTheRight(socketserver.UDPServer):
    closed: list[bytes]

    def close_request(self, request):
        self.closed.append(request[0])


class Right(endless_py.GracefulMixIn, ToTheRight):
    pass


class Ends(UDPServer):
    def shutdown_request(self, request):
        self.closed.append(request[0])
        super().shutdown_request(request)


class Processes(UDPServer):
    def process_request(self, request, client_address):
        super().process_request(request, client_address)
        self.closed.append(request[0])


def made(kind):
    server = kind(("127.0.0.1", 0), Echo)
    server.closed = []
    return server


def test_what_nobody_has_changed_closes_nothing():
    with made(UDPServer) as server:
        assert closes_nothing(server)
    with made(TCPServer) as server:
        assert not closes_nothing(server)


@pytest.mark.parametrize("kind", [Left, Right, Ends])
def test_a_method_of_the_programs_is_seen_wherever_it_stands(kind):
    with made(kind) as server:
        assert not closes_nothing(server)


def test_a_method_of_the_object_is_seen():
    with made(UDPServer) as server:
        server.close_request = print
        assert not closes_nothing(server)
        assert not serves_as_standard(server)


def test_a_method_to_the_right_of_ours_is_seen_by_who_parks():
    class Theirs(socketserver.ThreadingTCPServer):
        def close_request(self, request):
            super().close_request(request)

    class Server(endless_py.GracefulMixIn, Theirs):
        pass

    with made(Server) as server:
        assert not serves_as_standard(server)
    with made(ThreadingTCPServer) as server:
        assert serves_as_standard(server)


@pytest.mark.parametrize("kind", [UDPServer, Left, Right, Ends, Processes])
def test_each_datagram_is_handled_and_what_the_program_does_with_it_is_done(kind):
    with made(kind) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT)
        client.connect(server.server_address)
        for number in range(3):
            client.send(b"%d" % number)
            server.handle_request()
            assert client.recv(10) == b"%d" % number
        assert server.closed == ([] if kind is UDPServer else [b"0", b"1", b"2"])
        assert not len(server._listener.connections)
        assert len(server._listener.connections.ended) == 3


def test_a_handler_of_datagrams_that_raises_is_told_and_over():
    class Server(UDPServer):
        def handle_error(self, request, client_address):
            self.closed.append(request[0])

    class Raises(BaseRequestHandler):
        def handle(self):
            raise ValueError

    with (
        Server(("127.0.0.1", 0), Raises) as server,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        server.closed = []
        client.connect(server.server_address)
        client.send(b"x")
        server.handle_request()
        assert server.closed == [b"x"]
        assert not len(server._listener.connections)
