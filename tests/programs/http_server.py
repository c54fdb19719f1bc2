"""http_server.py CLASS ADDRESS...: an HTTP server on ports (0 is any) or Unix paths.

Each address is served in a thread of its own but the last, which the main thread serves.
/slow?SECONDS and /until?PATH take their time: so long, and until there is that file.
"""

import json
import os
import socket
import sys
import threading
import time

import endless_py
from endless_py._reload import process
from endless_py.http.server import BaseHTTPRequestHandler, HTTPServer

name, *addresses = sys.argv[1:]
plain = name == "HTTPServer"
settings = {
    key: float(os.environ[key])
    for key in ("drain_timeout", "ready_timeout", "keepalive_grace")
    if key in os.environ
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0" if plain else "HTTP/1.1"

    def do_GET(self):
        pause = 0.0
        if self.path.startswith("/slow?"):
            pause = float(self.path.partition("?")[2])
            if plain:
                pause = min(pause, 0.05)
        if self.path == "/state":
            body = json.dumps(endless_py.state())
        elif self.path == "/argv":
            body = json.dumps([sys.argv, sys.flags.dev_mode, os.getcwd(), sys.prefix])
        else:
            body = f"{process.current.generation} {os.getpid()} end"
        data = body.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:2])
        time.sleep(pause)
        while self.path.startswith("/until?") and not os.path.exists(self.path[7:]):
            time.sleep(0.01)
        self.wfile.write(data[2:])

    def address_string(self):
        return "client"

    def log_message(self, *_):
        pass


class ForkingHTTPServer(endless_py.ForkingMixIn, HTTPServer):
    pass


def make(address):
    cls = globals().get(name) or getattr(endless_py, name)
    if address.isdigit():
        return type(name, (cls,), settings)(("127.0.0.1", int(address)), Handler)

    class Unix(cls):
        address_family = socket.AF_UNIX

        def server_bind(self):
            endless_py.socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = "unix", 0

    return type(name, (Unix,), settings)(address, Handler)


servers = [make(address) for address in addresses]
for server in servers[:-1]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
with servers[-1] as server:
    server.serve_forever()
