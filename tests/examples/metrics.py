import os
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from prometheus_client import Counter, Gauge, multiprocess

import endless_py
from endless_py import health
from endless_py.http.server import ThreadingHTTPServer

directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
directory.mkdir(parents=True, exist_ok=True)
orders = Counter("shop_orders", "Orders since the start.")
at_work = Gauge("shop_at_work", "Requests that are handled now.", multiprocess_mode="livesum")


@endless_py.on_worker_start
def tidy(number):
    """Forget all of an earlier start, and later the gauges of processes that were killed."""
    own = set()
    if number == 0 and not endless_py.is_reloaded():
        own = {os.getpid(), *(worker["pid"] for worker in endless_py.state()["workers"])}
    for path in directory.glob("*.db"):
        pid = int(path.stem.rpartition("_")[2])
        gone = path.match("gauge_live*") and not Path(f"/proc/{pid}").exists()
        if gone or (own and pid not in own):
            path.unlink(missing_ok=True)  # another process may tidy, too


@endless_py.on_worker_exit
def forget(number):
    multiprocess.mark_process_dead(os.getpid())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if health.answer(self):  # /metrics: what all processes have counted
            return
        with at_work.track_inprogress():
            orders.inc()
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"hello\n")


class Server(ThreadingHTTPServer):
    workers = 3
    max_requests = 10000
    health = ("127.0.0.1", 9100)  # the same page, answered by the leader


with Server(("127.0.0.1", 8000), Handler) as server:
    server.serve_forever()
