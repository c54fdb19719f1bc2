"""whole_server.py FOLDER KIND WORKERS ADDRESS...: HTTP on ports or Unix paths, by run_workers().

KIND is asyncio, apart (so, with a serve_asyncio() for each address), or threads: a
ThreadingHTTPServer for each address, in a thread but for the last.
Every answer names generation and pid. /slow?SECONDS waits before its end, /burn?SECONDS computes
for so long, /state is endless_py.state(), /return has the process's main() return, /exit ends it.
FOLDER/code is run in each process, with its number.
"""

import asyncio
import json
import os
import pathlib
import sys
import threading
import time

import endless_py
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder, kind, count = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
addresses = [("127.0.0.1", int(a)) if a.isdigit() else a for a in sys.argv[4:]]
settings = {"drain_timeout": 20}
ended = None


def body(path):
    if path == "/exit":
        os._exit(7)
    if path.startswith("/burn?"):
        until = time.monotonic() + float(path[6:])
        while time.monotonic() < until:
            pass
    if path == "/state":
        return json.dumps(endless_py.state()).encode()
    return f"{endless_py.generation()} {os.getpid()} end".encode()


async def answer(reader, writer):
    line = await reader.readline()
    while line and await reader.readline() not in (b"", b"\r\n"):
        pass
    if not line:
        return False
    path = line.split()[1].decode()
    if path.startswith("/slow?"):
        await asyncio.sleep(float(path[6:]))
    if path == "/return":
        asyncio.get_running_loop().call_later(0.1, ended.set_result, None)
    data, last = body(path), endless_py.is_draining()
    said = b"Connection: close\r\n" if last else b""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n"
    writer.write(head % (len(data), said) + data)
    await writer.drain()
    return not last


async def handle(reader, writer):
    try:
        while await answer(reader, writer):
            pass
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve(*listeners):
    global ended
    ended = asyncio.get_running_loop().create_future()
    servers = [await asyncio.start_server(handle, sock=listener) for listener in listeners]
    await ended
    for server in servers:
        server.close()


def by_asyncio():
    stop = lambda: ended.done() or ended.set_result(None)  # noqa: E731
    asyncio.run(endless_py.serve_asyncio(serve, addresses, stop=stop, **settings))


def by_asyncio_apart():
    async def each(address):
        await endless_py.serve_asyncio(
            lambda listener: asyncio.start_server(handle, sock=listener), address, **settings
        )

    async def all_of_them():
        await asyncio.gather(*map(each, addresses))

    asyncio.run(all_of_them())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/slow?"):
            time.sleep(float(self.path[6:]))
        data = body(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self):
        return "client"

    def log_message(self, *_):
        pass


class UnixServer(ThreadingHTTPServer):
    address_family = getattr(__import__("socket"), "AF_UNIX", None)

    def server_bind(self):
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0


def by_threads():
    ThreadingHTTPServer.drain_timeout = settings["drain_timeout"]
    kinds = [ThreadingHTTPServer if isinstance(a, tuple) else UnixServer for a in addresses]
    servers = [kind(address, Handler) for kind, address in zip(kinds, addresses)]
    threads = [threading.Thread(target=server.serve_forever) for server in servers[:-1]]
    for thread in threads:
        thread.start()
    servers[-1].serve_forever()
    for thread in threads:
        thread.join()


@endless_py.on_worker_start
def begin(number):
    code = folder / "code"
    if code.exists():
        exec(compile(code.read_text(), "code", "exec"), globals(), {"number": number})


@endless_py.on_worker_exit
def end(number):
    print(f"worker {number} has served", flush=True)


kinds = {"asyncio": by_asyncio, "apart": by_asyncio_apart, "threads": by_threads}
endless_py.run_workers(kinds[kind], count)
print(f"left {os.getpid()}", flush=True)
