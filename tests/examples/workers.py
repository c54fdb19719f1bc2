import os
from http.server import BaseHTTPRequestHandler

import endless_py
from endless_py.http.server import ThreadingHTTPServer

database = None


@endless_py.on_worker_start
def connect(number):  # in each process: what it opens is its own
    global database
    database = f"the database, as worker {number}"


@endless_py.on_worker_exit
def disconnect(number):
    print(f"worker {number} has served", flush=True)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"pid {os.getpid()} asks {database}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    workers = 3  # or "auto"


with Server(("127.0.0.1", 8000), Handler) as server:
    server.serve_forever()
