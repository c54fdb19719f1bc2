"""kept.py FOLDER [CLASS]: a server that keeps its pid.

FOLDER/start is Python that is run first (it may set ready_timeout), FOLDER/end after
serve_forever(). The port is in FOLDER/port, if there is one. FOLDER/starts has the pid of each
start. Every answer names generation and pid.
"""

import atexit
import os
import pathlib
import sys
import time

pid = os.getpid()
folder = pathlib.Path(sys.argv[1])
name = sys.argv[2] if len(sys.argv) > 2 else "ThreadingHTTPServer"
atexit.register(print, "the very first exit function runs last")
with (folder / "starts").open("a") as file:
    file.write(f"{pid}\n")
exec(compile((folder / "start").read_text(), "start", "exec"))

import endless_py  # noqa: E402
from endless_py._reload import process  # noqa: E402
from endless_py.http.server import BaseHTTPRequestHandler, HTTPServer  # noqa: E402


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0" if name == "HTTPServer" else "HTTP/1.1"

    def do_GET(self):
        current = process.current
        text = f"{current.generation} {pid} {'bridge ' * current.bridge}end".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text[:2])
        if self.path == "/gate":
            (folder / "in handler").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)
        elif self.path.startswith("/slow?") and name != "HTTPServer":
            time.sleep(float(self.path.partition("?")[2]))
        self.wfile.write(text[2:])

    def log_message(self, *_):
        pass


class ForkingHTTPServer(endless_py.ForkingMixIn, HTTPServer):
    pass


class Server(globals().get(name) or getattr(endless_py, name)):
    keep_pid = True
    ready_timeout = globals().get("ready_timeout", 20)
    drain_timeout = 20


file = folder / "port"
with Server(("127.0.0.1", int(file.read_text()) if file.exists() else 0), Handler) as server:
    server.serve_forever()
exec(compile((folder / "end").read_text(), "end", "exec"))
print("cleaned up")
