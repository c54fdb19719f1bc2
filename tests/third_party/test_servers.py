"""Servers from PyPI that derive from the library's classes reload under load, unedited."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
import xmlrpc.client
from pathlib import Path

import pytest
from harness import TIMEOUT, Load, Program, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

RELOADS = 3
HTTP = ("werkzeug", "django", "radicale", "pypiserver", "bottle", "prometheus_client", "paste")


def program(name: str, package: str, port: int) -> Program:
    if importlib.util.find_spec(package) is None:
        missing = f"{package} is not there: pip install '.[third-party]'"
        pytest.fail(missing) if "CI_RUN" in os.environ else pytest.skip(missing)
    script = Path(__file__).with_name("servers.py")
    return Program(name, port, command=[sys.executable, str(script)])


@pytest.mark.parametrize("package", HTTP)
def test_over_http(package):
    port = free_port()
    with program(package.partition("_")[0], package, port) as running:
        pid = running.wait_serving()
        with Load(port) as load:
            for generation in range(1, RELOADS + 1):
                load.wait_answer(f"{generation - 1} ")
                pid = running.reload(generation, pid)
            load.wait_answer(f"{RELOADS} ")
        assert load.lost == []
        running.wait_alone(pid)
        running.stop(pid)


class Asking:
    """Clients that ask without a pause, some of them for an answer that takes a while."""

    def __init__(self, ask):
        self._ask = ask
        self.answers: list[str] = []
        self.lost: list[str] = []
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(seconds,)) for seconds in (0, 0, 0.5)
        ]

    def _run(self, seconds: float) -> None:
        while not self._stopping.is_set():
            try:
                self.answers.append(self._ask(seconds))
            except Exception as error:
                self.lost.append(repr(error))

    def wait_answer(self, start: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not any(answer.startswith(start) for answer in list(self.answers)):
            assert time.monotonic() < deadline, (self.lost, self.answers[-3:])
            time.sleep(0.005)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join(TIMEOUT)


def over_xmlrpc(port):
    def ask(seconds):
        with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}") as proxy:
            found = proxy.run_keyword("answer", [seconds])
            assert found["status"] == "PASS", found
            return found["return"]

    return ask


def over_jsonrpc(port):
    def ask(seconds):
        import jsonrpclib

        proxy = jsonrpclib.ServerProxy(f"http://127.0.0.1:{port}")
        found = proxy.answer(seconds)
        proxy("close")()
        return found

    return ask


def over_dns(port):
    def ask(seconds):
        from dnslib import DNSRecord

        reply = DNSRecord.parse(DNSRecord.question("x", "TXT").send("127.0.0.1", port, timeout=5))
        return str(reply.rr[0].rdata).strip('"')

    return ask


def over_websockets(port):
    """A socket that was handed to ws4py's thread is closed by its server_close(): asked again."""

    def ask(seconds):
        import queue

        from ws4py.client.threadedclient import WebSocketClient

        found = queue.Queue()

        class Client(WebSocketClient):
            def opened(self):
                self.send(str(seconds))

            def received_message(self, message):
                found.put(str(message))

            def closed(self, code, reason=None):
                found.put("")

        answer = ""
        while not answer:
            client = Client(f"ws://127.0.0.1:{port}/")
            client.connect()
            try:
                answer = found.get(timeout=TIMEOUT)
            finally:
                client.close()
        return answer

    return ask


def over_redis(port):
    def ask(seconds):
        import redis

        with redis.Redis("127.0.0.1", port) as client:
            client.set("a", "b")
            assert client.get("a") == b"b"
            time.sleep(seconds)
            return client.get("a").decode()

    return ask


OTHERS = {
    "robot": ("robotremoteserver", over_xmlrpc),
    "jsonrpc": ("jsonrpclib", over_jsonrpc),
    "dnslib": ("dnslib", over_dns),
    "ws4py": ("ws4py", over_websockets),
}
if sys.version_info >= (3, 10):  # its first release with a server
    OTHERS["fakeredis"] = ("fakeredis", over_redis)


@pytest.mark.parametrize("name", OTHERS)
def test_over_another_protocol(name):
    package, protocol = OTHERS[name]
    port = free_port()
    with program(name, package, port) as running:
        pid = running.wait_serving()
        with Asking(protocol(port)) as asking:
            for generation in range(1, RELOADS + 1):
                asking.wait_answer("b" if name == "fakeredis" else f"{generation - 1} ")
                pid = running.reload(generation, pid)
            asking.wait_answer("b" if name == "fakeredis" else f"{RELOADS} ")
        assert asking.lost == []
        running.wait_alone(pid)
        running.stop(pid)
