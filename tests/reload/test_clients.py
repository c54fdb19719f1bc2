"""Real clients and proxies over ten reloads: none of them sees an error or a closed connection.

Most clients replace a connection that was closed, and some send a request again, without a
word; so their retries are off where that can be, and the connections that they made are counted.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import subprocess
import threading

import httpx
import pytest
import urllib3
from custom_code import SERVE, custom
from harness import TIMEOUT, Load, Program, free_port, get, slow, tool

RELOADS = 10
THREADS = 3
# What socketserver says of a connection that is reset while no request is under way, as haproxy
# ends what it has no use for.
IDLE_RESET = re.compile(
    r"-{40}\nException occurred [^\n]*\nTraceback[^\n]*\n(?:  [^\n]*\n)*"
    r"[^\n]*self\.raw_requestline = self\.rfile\.readline\([^\n]*\n(?:  [^\n]*\n)*"
    r"ConnectionResetError: [^\n]*\n-{40}\n"
)


@contextlib.contextmanager
def server():
    with Program("http_server.py", "ThreadingHTTPServer", 0) as program:
        program.wait_serving()
        yield program


def reload_under(program, load, count=RELOADS, noise=None):
    """Reload `count` times; the load, or whatever stands before the server, sees each one.

    noise is a pattern of what the program may say without a fault of its own.
    """
    pid = program.pid
    for generation in range(1, count + 1):
        pid = program.reload(generation, pid)
        load.wait_answer(f"{generation} ")
    text = program.text
    if noise is not None:  # lines of another generation may stand inside of it
        text = noise.sub("", re.sub(r"(?m)^[\d-]+ [\d:]+ endless_py\[.*\n", "", text))
    assert "Traceback" not in text  # a client that is killed later may cause one
    return pid


def finish(program, pid):
    program.wait_alone(pid)
    program.stop(pid)


# -- clients in Python ------------------------------------------------------


class HTTPClient:
    def __init__(self, port):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self._connection.connect()
        self._connection.auto_open = 0

    def get(self):
        self._connection.request("GET", "/")
        response = self._connection.getresponse()
        return response.status, response.read().decode(), self._connection.sock.getsockname()

    def close(self):
        self._connection.close()


class URLLib3:
    def __init__(self, port):
        self._url = f"http://127.0.0.1:{port}/"
        self._pool = urllib3.PoolManager(retries=False, timeout=TIMEOUT)

    def get(self):
        response = self._pool.request("GET", self._url)
        made = self._pool.connection_from_url(self._url).num_connections
        return response.status, response.data.decode(), made

    def close(self):
        self._pool.clear()


class HTTPX:
    def __init__(self, port):
        self._url = f"http://127.0.0.1:{port}/"
        # It makes no request twice; the environment could name a proxy.
        self._client = httpx.Client(timeout=TIMEOUT, trust_env=False)

    def get(self):
        response = self._client.get(self._url)
        stream = response.extensions["network_stream"]
        return response.status_code, response.text, stream.get_extra_info("client_addr")

    def close(self):
        self._client.close()


class Clients(Load):
    """Threads that ask without a pause; `connections` are the ones that each of them used."""

    def __init__(self, address, make):
        super().__init__(address)
        self.connections = [set() for _ in range(THREADS)]
        self._threads = [
            threading.Thread(target=self._ask, args=(make, connections))
            for connections in self.connections
        ]

    def _ask(self, make, connections):
        client = make(self.address)
        try:
            while not self._stopping.is_set():
                status, body, connection = client.get()
                connections.add(connection)
                assert (status, body[-4:]) == (200, " end")
                self.answers.append(body)
        except Exception as error:
            self.lost.append(repr(error))
        finally:
            client.close()


@pytest.mark.slow
@pytest.mark.parametrize("make", [slow(HTTPClient), URLLib3, slow(HTTPX)])
def test_python_clients_keep_their_connections(make):
    with server() as program:
        with Clients(program.port, make) as clients:
            pid = reload_under(program, clients)
        print(f"\n{make.__name__}: {len(clients.answers)} requests, {len(clients.lost)} errors")
        assert clients.lost == []
        assert [len(connections) for connections in clients.connections] == [1] * THREADS
        finish(program, pid)


# -- curl and wrk -----------------------------------------------------------

CURL = """
url = "http://127.0.0.1:{port}/[1-9999999]"
write-out = "\\n%{{http_code}} %{{num_connects}}\\n"
silent
show-error
fail
fail-early
disable
{more}
"""
CURLS = {
    "kept": "",
    "no TCP keep-alive": "no-keepalive",
    "closes": 'header = "Connection: close"',
}


class Curl:
    """One curl on a list of URLs that is longer than the test."""

    def __init__(self, folder, port, more):
        (folder / "config").write_text(CURL.format(port=port, more=more))
        self.process = subprocess.Popen(
            [tool("curl"), "--config", str(folder / "config"), "--noproxy", "*"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.answers: list[str] = []
        self.results: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            (self.answers if " end" in line else self.results).append(line.strip())

    wait_answer = Load.wait_answer
    lost = ()

    def end(self):
        self.running = self.process.poll() is None
        self.process.terminate()
        self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        errors = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return errors


@pytest.mark.parametrize("kind", [slow("kept"), slow("no TCP keep-alive"), slow("closes")])
def test_curl(kind, tmp_path):
    with server() as program:
        curl = Curl(tmp_path, program.port, CURLS[kind])
        try:
            pid = reload_under(program, curl)
        finally:
            errors = curl.end()
        assert errors == ""
        assert curl.running
        results = [result.split() for result in curl.results]
        print(f"\ncurl, {kind}: {len(results)} requests")
        assert {code for code, _ in results} == {"200"}
        connections = sum(int(made) for _, made in results)
        assert connections == (len(results) if kind == "closes" else 1)
        finish(program, pid)


@pytest.mark.slow
def test_wrk():
    with server() as program:
        # It ends, with its summary, at a SIGINT.
        words = [tool("wrk"), "-t1", "-c16", "-d60s", "--timeout", "20s"]
        wrk = subprocess.Popen(
            [*words, f"http://127.0.0.1:{program.port}/"], stdout=subprocess.PIPE, text=True
        )
        try:
            with Load(program.port) as load:
                pid = reload_under(program, load)
            assert wrk.poll() is None
            wrk.send_signal(signal.SIGINT)
            summary, _ = wrk.communicate(timeout=TIMEOUT)
        finally:
            wrk.kill()
            wrk.wait()
        print(summary)
        assert int(re.search(r"(\d+) requests in", summary)[1]) > 0
        assert "Socket errors" not in summary
        assert "Non-2xx" not in summary
        assert load.lost == []
        finish(program, pid)


# -- proxies ----------------------------------------------------------------

NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream server {{
        server 127.0.0.1:{server} max_fails=0;
        keepalive 32;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://server;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream off;
        }}
    }}
}}
"""

HAPROXY = """
global
    maxconn 500
defaults
    mode http
    timeout connect 20s
    timeout client 20s
    timeout server 20s
    retries 0
    option http-keep-alive
    http-reuse always
frontend front
    bind 127.0.0.1:{port}
    default_backend server
backend server
    server server 127.0.0.1:{server} pool-max-conn 32 pool-purge-delay 60s
"""

# Answers with the port of the proxy's end, so that the connections it makes can be counted.
PORTS = """
class Handler(Handler):
    def do_GET(self):
        number = endless_py.state()["generation"]
        data = f"{number} {self.client_address[1]} end".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:2])
        time.sleep(float(self.path.partition("?")[2] or 0))
        self.wfile.write(data[2:])
"""


@contextlib.contextmanager
def proxy(name, folder, server):
    """Run nginx or haproxy in front of a port; yields the port of the proxy."""
    port = free_port()
    config = folder / "config"
    text = {"nginx": NGINX, "haproxy": HAPROXY}[name]
    config.write_text(text.format(folder=folder, server=server, port=port))
    words = {"nginx": ["-p", str(folder), "-c", str(config)], "haproxy": ["-db", "-f", str(config)]}
    with open(folder / "output", "wb") as output:
        process = subprocess.Popen(
            [tool(name), *words[name]], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_listening(process, port, folder / "output")
        yield port
    finally:
        process.terminate()
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        print((folder / "output").read_text())


def wait_listening(process, port, output):
    """Nothing announces that a proxy listens but that it does."""
    for _ in range(int(TIMEOUT / 0.02)):
        assert process.poll() is None, output.read_text()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    raise AssertionError(output.read_text())


@pytest.mark.parametrize("name", [slow("nginx"), slow("haproxy")])
def test_a_proxy_in_front(name, tmp_path):
    tool(name)
    with custom(tmp_path, PORTS + SERVE) as program:
        program.wait_serving()
        with proxy(name, tmp_path, program.port) as port:
            assert get(port).startswith("0 ")
            with Load(port) as load:
                noise = IDLE_RESET if name == "haproxy" else None
                pid = reload_under(program, load, noise=noise)
        connections = {answer.split()[1] for answer in load.answers}
        print(
            f"\n{name}: {len(load.answers)} requests, {len(load.lost)} errors, "
            f"{len(connections)} connections to the server"
        )
        assert load.lost == []
        assert len(connections) < RELOADS  # the load asks for fewer than that at a time
        if name == "nginx":
            assert (tmp_path / "error.log").read_text() == ""
        finish(program, pid)
