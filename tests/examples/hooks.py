import signal
import threading
from http.server import SimpleHTTPRequestHandler

import endless_py
from endless_py.http.server import ThreadingHTTPServer


@endless_py.before_reload
def window():
    """One that raises cancels the reload."""
    print("before the successor is started")


@endless_py.check
def database():
    """One that raises makes this generation fail, and the one before it goes on."""
    print("before this generation says ready")


@endless_py.on_ready
def serves():
    print(f"generation {endless_py.generation()} serves, reloaded: {endless_py.is_reloaded()}")


@endless_py.on_draining
def draining():
    print("accepts no more")


@endless_py.on_drained
def drained():
    print("nothing is active")


@endless_py.before_signal(signal.SIGUSR1)
def rotate():
    print("USR1: logs are rotated")


class Server(ThreadingHTTPServer):
    ready_on_serve = False  # serves only when ready() is called


def warm_up():
    endless_py.ready()
    endless_py.wait_for_predecessor()
    print("no older generation is left")


threading.Thread(target=warm_up, daemon=True).start()
with Server(("127.0.0.1", 8000), SimpleHTTPRequestHandler) as server:
    server.serve_forever()
