"""served.py FOLDER: a server on a port and on FOLDER/socket, to be reloaded with faults.

Where there are workers the port is served by all of them, and FOLDER/socket by their leader.

FOLDER/settings is JSON for the class attributes, FOLDER/code (if it is there) Python that is run
first. Every answer names generation and pid; /slow?SECONDS takes its time, /hold never ends.
"""

import json
import logging
import pathlib
import socket
import sys
import threading
import time

STARTED = time.monotonic()
folder = pathlib.Path(sys.argv[1])
if (folder / "code").exists():
    exec(compile((folder / "code").read_text(), "code", "exec"))

import endless_py  # noqa: E402
from endless_py._reload import process  # noqa: E402
from endless_py._support import faults  # noqa: E402
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # noqa: E402

# A limit of memory is to leave room for threads, and for the log on a full disk no traceback.
threading.stack_size(512 * 1024)
logging.raiseExceptions = False
logging.basicConfig(
    level=logging.DEBUG,
    format="%(message)s",
    handlers=[logging.StreamHandler(), logging.FileHandler(folder / "log")],
)
endless_py.before_reload(lambda: faults.at("hook"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, _, seconds = self.path.partition("?")
        body = f"{process.current.generation} {process.current.driver.pid} end"
        if path == "/state":
            more = {"keep_pid": Server.keep_pid, "wanted": Server.workers, "started": STARTED}
            body = json.dumps({**endless_py.state(), **more})
        elif path == "/drain":
            Server.drain_timeout, seconds = float(seconds), 0
        data = body.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:2])
        if path == "/hold":
            self.rfile.read(1)  # until its connection is cut, or its client leaves
            return
        time.sleep(float(seconds or 0))
        self.wfile.write(data[2:])

    def address_string(self):
        return "client"

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    pid_file = folder / "pid"
    locals().update(json.loads((folder / "settings").read_text()))


class UnixServer(Server):
    address_family = socket.AF_UNIX
    reuse_threads = True  # its idle connections have no thread
    workers = 1

    def server_bind(self):
        endless_py.socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "unix", 0


unix = UnixServer(str(folder / "socket"), Handler)


def serve_unix(number=0):
    if not number:
        threading.Thread(target=unix.serve_forever, daemon=True).start()


with Server(("127.0.0.1", 0), Handler) as server, unix:
    if Server.workers > 1:  # threads are there only when they are forked
        endless_py.on_worker_start(serve_unix)
    else:
        serve_unix()
    server.serve_forever()
