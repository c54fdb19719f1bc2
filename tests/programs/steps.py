"""steps.py FOLDER: a server whose code is what FOLDER/code says at its start.

FOLDER/version is read at the start and is the answer to every request, so that an answer
tells when the code that gave it was started. FOLDER/code is Python, run before anything else.
Where a FIFO named after a step lies in FOLDER, the program waits at that step until the FIFO's
writer closes it: spawned, imported, bound, cleaning.
"""

import pathlib
import stat
import sys
import time

folder = pathlib.Path(sys.argv[1])


def gate(step):
    path = folder / step
    if path.exists() and stat.S_ISFIFO(path.stat().st_mode):
        path.read_bytes()


gate("spawned")
exec(compile((folder / "code").read_text(), "code", "exec"))

from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # noqa: E402

gate("imported")
version = (folder / "version").read_text()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(version.encode())
        if self.path.startswith("/slow"):
            (folder / self.path[1:]).touch()
            while not (folder / self.path[1:].replace("slow", "go")).exists():
                time.sleep(0.01)
        self.wfile.write(b" end")

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    ready_timeout = globals().get("ready_timeout", 20)
    drain_timeout = 20


with Server(("127.0.0.1", 0), Handler) as server:
    gate("bound")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("KeyboardInterrupt", flush=True)
gate("cleaning")
print("cleaned up", flush=True)
