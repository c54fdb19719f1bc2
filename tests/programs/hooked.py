"""hooked.py FOLDER: an HTTP server that prints its hooks; FOLDER/code is run before it is made."""

import os
import pathlib
import signal
import sys
import threading

import endless_py
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder = pathlib.Path(sys.argv[1])
NAMES = signal, threading


def say(*words):
    line = " ".join(map(str, [endless_py.generation(), *words]))
    os.write(1, f"{line}\n".encode())  # at once, whoever else writes


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{endless_py.generation()} end".encode())

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    ready_timeout = 20


exec(compile((folder / "code").read_text(), "code", "exec"))

with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
