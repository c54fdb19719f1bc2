"""XML-RPC servers over reloads."""

from __future__ import annotations

import threading
import xmlrpc.client

import pytest
from custom_code import custom
from harness import TIMEOUT, first

CODE = """
from endless_py.xmlrpc.server import (
    DocXMLRPCServer, MultiPathXMLRPCServer, SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler,
    SimpleXMLRPCServer,
)

class Quiet(SimpleXMLRPCRequestHandler):
    rpc_paths = ()
    protocol_version = "{protocol}"

class Server(endless_py.ThreadingMixIn, {kind}):
    daemon_threads = False

def where():
    current = endless_py.state()
    return [current["generation"], current["pid"]]

def slow():
    (folder / "slow").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return where()

with Server(("127.0.0.1", 0), Quiet, logRequests=False, allow_none=True) as server:
    target = server
    if isinstance(server, MultiPathXMLRPCServer):
        target = server.add_dispatcher("/RPC2", SimpleXMLRPCDispatcher(allow_none=True))
    target.register_function(where)
    target.register_function(slow)
    server.serve_forever()
"""
KINDS = ["SimpleXMLRPCServer", "MultiPathXMLRPCServer", "DocXMLRPCServer"]


def serve(folder, kind="SimpleXMLRPCServer", protocol="HTTP/1.1"):
    return custom(folder, CODE.format(kind=kind, protocol=protocol))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", first(["HTTP/1.1", "HTTP/1.0"]))
@pytest.mark.parametrize("kind", first(KINDS))
def test_calls_over_reloads(kind, protocol, tmp_path):
    with serve(tmp_path, kind, protocol) as program:
        pid = program.wait_serving()
        url = f"http://127.0.0.1:{program.port}/RPC2"
        stopping, seen, lost = threading.Event(), set(), []

        def call_on():
            with xmlrpc.client.ServerProxy(url) as proxy:
                while not stopping.is_set():
                    try:
                        seen.add(proxy.where()[0])
                    except Exception as error:
                        lost.append(error)

        threads = [threading.Thread(target=call_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        for generation in range(1, 6):
            pid = program.reload(generation, pid)
            program.wait(rf"generation {generation}: generation .* has ended")
        stopping.set()
        for thread in threads:
            thread.join(TIMEOUT)
        assert lost == []
        assert seen >= {1, 2, 3, 4}
        program.stop(pid)
        assert "Traceback" not in program.text


def test_a_proxy_keeps_its_connection_and_a_call_in_flight_its_process(tmp_path):
    with serve(tmp_path) as program:
        old = program.wait_serving()
        url = f"http://127.0.0.1:{program.port}/RPC2"
        with xmlrpc.client.ServerProxy(url) as proxy, xmlrpc.client.ServerProxy(url) as other:
            assert proxy.where() == [0, old]
            connection = proxy("transport")._connection[1].sock
            place = connection.getsockname()
            answers = []
            thread = threading.Thread(target=lambda: answers.append(other.slow()))
            thread.start()
            while not (tmp_path / "slow").exists():
                assert thread.is_alive()
            new = program.reload(1, old)
            program.wait("finishing ")
            proxy.where()  # may have been on its way when the old one stopped
            assert proxy.where() == [1, new]
            assert proxy("transport")._connection[1].sock.getsockname() == place
            (tmp_path / "go").touch()
            thread.join(TIMEOUT)
            assert answers == [[0, old]]
            assert other.where() == [1, new]
        program.stop(new)
