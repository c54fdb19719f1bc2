"""Several servers in one process: every listener finds its own server in the next generation."""

from __future__ import annotations

import json
import os
import re
import signal
import socket

import pytest
from harness import TIMEOUT, Program, connect, free_port, get

from endless_py._control.client import Deadline, state_of


def ask(family, address, kind=socket.SOCK_STREAM, path=None):
    with socket.socket(family, kind) as client:
        client.settimeout(TIMEOUT)
        if path:
            client.bind(path)
        client.connect(address)
        client.sendall(b"hello\n")
        return json.loads(client.recv(4096))


def write(path, entries):
    path.write_text(json.dumps(entries))
    return path


def test_all_are_handed_over_by_address_family_and_type_in_whatever_order(tmp_path):
    port, other = free_port(), free_port()
    path, abstract = str(tmp_path / "socket"), f"\0endless_py test {os.getpid()}"
    entries = [
        {"name": "a", "class": "ThreadingTCPServer", "address": ["127.0.0.1", port]},
        {"name": "b", "class": "ThreadingUDPServer", "address": ["127.0.0.1", port]},
        {"name": "c", "class": "TCPServer", "address": ["::1", port], "family": "AF_INET6"},
        {"name": "d", "class": "ThreadingTCPServer", "address": ["localhost", other]},
        {"name": "e", "class": "ThreadingUnixStreamServer", "address": path},
        {"name": "f", "class": "ForkingUnixStreamServer", "address": abstract, "by_hand": True},
    ]

    def names():
        tcp, unix = socket.AF_INET, socket.AF_UNIX
        answers = [
            ask(tcp, ("127.0.0.1", port)),
            ask(tcp, ("127.0.0.1", port), socket.SOCK_DGRAM),
            ask(socket.AF_INET6, ("::1", port)),
            ask(tcp, ("127.0.0.1", other)),
            ask(unix, path),
            ask(unix, abstract),
        ]
        assert [answer["name"] for answer in answers] == list("abcdef")
        return {answer["generation"] for answer in answers}

    config = write(tmp_path / "config", entries)
    with Program("echo_servers.py", config) as program:
        pid = program.wait_serving(0, 6)
        assert names() == {0}
        inode = os.stat(path).st_ino
        for generation in range(1, 4):
            write(config, entries[::-1] if generation % 2 else entries)
            pid = program.reload(generation, pid, 6)
            program.wait_alone(pid)
            assert names() == {generation}
            assert os.stat(path).st_ino == inode
        program.stop(pid)
        assert not os.path.exists(path)


@pytest.mark.slow
def test_a_new_address_is_bound_and_one_that_is_gone_is_closed_after_its_queue(tmp_path):
    ports = [free_port() for _ in range(3)]
    entries = [
        {"name": str(n), "class": "ThreadingTCPServer", "address": ["127.0.0.1", port]}
        for n, port in enumerate(ports)
    ]
    config = write(tmp_path / "config", entries[:2])
    with Program("echo_servers.py", config) as program:
        pid = program.wait_serving(0, 2)
        write(config, entries[1:])
        new = program.reload(1, pid, 2)
        program.wait("the new code has no")
        program.wait_alone(new)
        assert ask(socket.AF_INET, ("127.0.0.1", ports[1]))["pid"] == new
        assert ask(socket.AF_INET, ("127.0.0.1", ports[2]))["pid"] == new
        with pytest.raises(ConnectionRefusedError):
            ask(socket.AF_INET, ("127.0.0.1", ports[0]))
        program.stop(new)


def test_two_servers_that_asked_for_any_port_keep_theirs(tmp_path):
    entries = [
        {"name": name, "class": "ThreadingTCPServer", "address": ["127.0.0.1", 0]} for name in "ab"
    ]
    with Program("echo_servers.py", write(tmp_path / "config", entries)) as program:
        pid = program.wait_serving(0, 2)
        ports = {int(port) for port in re.findall(r": serves .*:(\d+); ", program.text)}
        assert len(ports) == 2
        new = program.reload(1, pid, 2)
        program.wait_alone(new)
        for port in ports:
            assert ask(socket.AF_INET, ("127.0.0.1", port))["generation"] == 1
        program.stop(new)


@pytest.mark.slow
def test_a_stale_path_is_taken_over_and_an_answering_one_is_a_clear_error(tmp_path):
    path = str(tmp_path / "socket")
    entries = [{"class": "ThreadingUnixStreamServer", "address": path}]
    config = write(tmp_path / "config", entries)
    with Program("echo_servers.py", config) as program:
        os.kill(program.wait_serving(), signal.SIGKILL)
        program.wait_alone(None)
    assert os.path.exists(path)
    with Program("echo_servers.py", config) as program:
        pid = program.wait_serving()
        with Program("echo_servers.py", config) as second:
            second.wait("Address already in use: another process answers on it")
            assert second.process.wait(TIMEOUT) == 1
        assert ask(socket.AF_UNIX, path)["pid"] == pid
        program.stop(pid)
    assert not os.path.exists(path)


FULL = """
from endless_py._reload import process

servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
first = threading.Thread(target=servers[0].serve_forever, daemon=True)


def fill():
    \"\"\"Let the predecessor go on when the word that the second server is ready waits.\"\"\"
    parent = process.current.predecessors.parent
    os.kill(parent.pid, signal.SIGSTOP)
    while "T" not in pathlib.Path(f"/proc/{parent.pid}/stat").read_text().split()[2]:
        time.sleep(0.001)
    while not parent.channel.sending:
        parent.say("taken", ids=[])
    full = len(parent.channel._outgoing)

    def go_on():
        while len(parent.channel._outgoing) == full:
            time.sleep(0.001)
        os.kill(parent.pid, signal.SIGCONT)

    threading.Thread(target=go_on).start()


with servers[1]:
    first.start()
    if endless_py.generation():
        while not servers[0]._listener.ready:
            time.sleep(0.001)
        fill()
    servers[1].serve_forever()
"""


def test_a_word_that_waits_for_room_is_sent_by_the_loop_that_leads(tmp_path):
    (tmp_path / "code").write_text(FULL)
    with Program("custom.py", tmp_path) as program:
        os.kill(program.wait_serving(0, 2), signal.SIGHUP)
        program.wait("is ready after")
        new = program.wait_serving(1, 2)
        program.wait_alone(new)
        program.stop(new)


HALF = """
class Server(ThreadingHTTPServer):
    ready_timeout = 3
first, second = (Server(("127.0.0.1", 0), Handler) for _ in range(2))
thread = threading.Thread(target=first.serve_forever)
thread.start()
if not endless_py.state()["generation"]:
    second.serve_forever()
thread.join()
"""


@pytest.mark.slow
def test_new_code_that_serves_one_of_two_finishes_its_requests_when_it_is_given_up(tmp_path):
    (tmp_path / "code").write_text(HALF)
    with Program("custom.py", tmp_path) as program:
        pid = program.wait_serving(0, 2)
        os.kill(pid, signal.SIGHUP)
        found = program.wait(r"\[(\d+)\] generation 1: serves tcp .*:(\d+);")
        new, port = int(found[1]), int(found[2])
        deadline = Deadline(TIMEOUT)
        while all(server["accepting"] for server in state_of(pid, deadline)[0]["servers"]):
            deadline.pause()
        client = connect(port)
        client.request("GET", "/slow")
        program.wait(rf"\[{new}\] .*SIGTERM; finishing 1 request")
        (tmp_path / "go").touch()
        assert client.getresponse().read().decode() == f"1 {new} {new} end"
        program.wait(r"reload failed: .*\(it was not ready within 3 s\)")
        program.wait_alone(pid)
        assert get(port) == f"0 {pid} {pid} end"
        program.stop(pid)
