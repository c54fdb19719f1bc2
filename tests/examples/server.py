# /srv/app/server.py [HOST:PORT], with the path of a pid file in PID_FILE where one is wanted
import os
import sys
from http.server import BaseHTTPRequestHandler

from endless_py.http.server import ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"hello\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    pid_file = os.environ.get("PID_FILE")


host, _, port = (sys.argv[1:] or ["127.0.0.1:8000"])[0].rpartition(":")
with Server((host, int(port)), Handler) as server:
    server.serve_forever()
