"""calling.py FOLDER: a server and a `listen()` whose hooks call what FOLDER/code says.

FOLDER/code is run first; it may define calls(hook), which every hook then runs with its own
name. The hooks' names are those in HOOKS. A GET of /slow is answered when FOLDER/go exists.
"""

import os
import pathlib
import signal
import sys
import threading
import time

import endless_py
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder = pathlib.Path(sys.argv[1])
NAMES = signal, threading
HOOKS = {
    "before_signal HUP": endless_py.before_signal(signal.SIGHUP),
    "before_signal USR1": endless_py.before_signal(signal.SIGUSR1),
    "after_signal HUP": endless_py.after_signal(signal.SIGHUP),
    "after_signal USR1": endless_py.after_signal(signal.SIGUSR1),
    "before_reload": endless_py.before_reload,
    "check": endless_py.check,
    "on_ready": endless_py.on_ready,
    "on_draining": endless_py.on_draining,
    "on_drained": endless_py.on_drained,
}


def say(*words):
    line = " ".join(map(str, [endless_py.generation(), *words]))
    os.write(1, f"{line}\n".encode())  # at once, whoever else writes


def calls(hook):
    say("hook", hook)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        data = f"{endless_py.generation()} {os.getpid()} end".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:1])
        if self.path == "/slow":
            (folder / "slow").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)
        self.wfile.write(data[1:])

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    keep_pid = False
    ready_timeout = 20
    drain_timeout = 20


exec(compile((folder / "code").read_text(), "code", "exec"))

for name, add in HOOKS.items():
    add(lambda name=name: calls(name))


def on_drain():
    calls("on_drain")
    endless_py.drained()


with Server(("127.0.0.1", 0), Handler) as server:
    listener = endless_py.listen(
        str(folder / "listener"), on_drain=on_drain, on_resume=lambda: calls("on_resume")
    )
    threading.Thread(target=endless_py.ready).start()
    server.serve_forever()
