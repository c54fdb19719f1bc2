"""limited.py KIND FOLDER [stays]: a server whose settings come by the environment, and that leaks.

With "stays" its leader may handle as many requests as it likes.

Its limits are quick: what takes seconds elsewhere takes none here. Files in FOLDER say what is to
go wrong: "hang", "raise" in a worker's start.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

import endless_py
from endless_py._server import limits
from endless_py.http.server import BaseHTTPRequestHandler

limits._BEGINS = limits._LOOK = 0.0
limits._FIRST_PAUSE = 0.5
kind, folder, stays = sys.argv[1], Path(sys.argv[2]), sys.argv[3:] == ["stays"]
leaked = []


@endless_py.on_worker_start
def begin(number):
    if not number and stays:
        server._listener.limits._most = math.inf
    if number and (folder / "raise").exists():
        raise RuntimeError("it does not start")
    while number and (folder / "hang").exists():
        time.sleep(0.01)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0" if kind == "HTTPServer" else "HTTP/1.1"

    def do_GET(self):
        name, _, value = self.path.partition("?")
        body = f"{endless_py.generation()} {os.getpid()} end"
        if name == "/state":
            body = json.dumps(endless_py.state())
        elif name == "/leak":
            leaked.append(bytearray(b"x") * (int(value) << 20))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if name == "/slow":
            self.wfile.flush()
            time.sleep(0.05 if kind == "HTTPServer" else float(value))
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


with getattr(endless_py, kind)(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
