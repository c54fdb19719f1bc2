"""bare.py: a server that answers with its pid; what FOLDER/first says is run before the import.

bare.py FOLDER [THREADS|FORKS]: /environment answers with what a child process of the handler
sees: the names of its variables, and its descriptors beyond the standard streams.
"""

import json
import os
import pathlib
import subprocess
import sys

folder = pathlib.Path(sys.argv[1])
if (folder / "first").exists():
    exec(compile((folder / "first").read_text(), "first", "exec"))

import endless_py  # noqa: E402
from endless_py.http.server import BaseHTTPRequestHandler, HTTPServer  # noqa: E402

LOOK = """import json, os
known = {n: os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
         if int(n) > 2 and os.path.exists(f"/proc/self/fd/{n}")}
print(json.dumps([sorted(n for n in os.environ if "ENDLESS" in n), sorted(
    v for v in known.values() if not v.startswith("/proc"))]))"""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        text = str(os.getpid())
        if self.path == "/environment":
            words = [sys.executable, "-I", "-S", "-c", LOOK]
            done = subprocess.run(words, capture_output=True, close_fds=False, check=True)
            own = os.readlink(f"/proc/self/fd/{self.connection.fileno()}")
            text = json.dumps([*json.loads(done.stdout), own])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())
        if self.path == "/slow":
            (folder / "slow").touch()
            while not (folder / "go").exists():
                pass

    def log_message(self, *_):
        pass


class ForkingHTTPServer(endless_py.ForkingMixIn, HTTPServer):
    pass


kind = ForkingHTTPServer if "FORKS" in sys.argv else endless_py.ThreadingHTTPServer
with kind(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
