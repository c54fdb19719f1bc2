"""lent_server.py ADDRESS...: HTTP on host:port or Unix paths; answers with generation and pid.

Where the file named by LENT_CODE is there, its Python runs first. /slow answers once the file
LENT_CODE.go is there; /variables answers which of the manager's variables a child would see.
"""

import os
import pathlib
import sys
import threading
import time

code = pathlib.Path(os.environ.get("LENT_CODE", os.devnull))
exec(compile(code.read_text(), "code", "exec"))

import endless_py  # noqa: E402
from endless_py._reload import process  # noqa: E402
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # noqa: E402
from endless_py.socketserver import TCPServer, UnixStreamServer  # noqa: E402

endless_py.GracefulMixIn.pid_file = os.environ.get("PID_FILE")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        pause = float(self.path.partition("?")[2] or 0)
        body = f"{process.current.generation} {os.getpid()} end"
        if self.path == "/variables":
            names = [n for n in os.environ if n.startswith(("NOTIFY_", "LISTEN_", "WATCHDOG_"))]
            body = f"{names} end"
        elif self.path == "/slow":
            code.with_suffix(".slow").touch()
            while not code.with_suffix(".go").exists():
                time.sleep(0.01)
        data = body.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:2])
        time.sleep(pause)
        self.wfile.write(data[2:])

    def address_string(self):
        return "client"

    def log_message(self, *_):
        pass


class UnixHTTPServer(ThreadingHTTPServer):
    address_family = UnixStreamServer.address_family

    def server_bind(self):
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "unix", 0


def make(address):
    if address[0] in "/@":
        return UnixHTTPServer(address.replace("@", "\0"), Handler)
    host, _, port = address.rpartition(":")
    return ThreadingHTTPServer((host, int(port)), Handler)


servers = [make(address) for address in sys.argv[1:]]
for server in servers[:-1]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[-1].serve_forever()
for server in servers:
    server.server_close()
