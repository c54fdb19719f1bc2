"""migration.py [--counts N,...] [--rounds N]: how long idle connections take to migrate.

Each round is one reload of a ThreadingHTTPServer that holds that many idle connections. The
time is that from the successor's word that it serves to the incumbent's that it has drained, both
taken where they are logged; every connection is asked afterwards and has to be answered by the
successor.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from harness import Program, connect


def ask(client) -> str:
    client.request("GET", "/")
    return client.getresponse().read().decode()


def serve() -> None:
    """Serve on any port, with the moment (time.monotonic) at the end of each line of the log."""
    from http.server import BaseHTTPRequestHandler

    import endless_py
    from endless_py._support import log

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            data = f"{endless_py.state()['generation']} end".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    write = log.write

    def write_with_clock(level, generation, template, event="", fields=None):
        shown = {"text": template % fields if fields else template, "clock": time.monotonic()}
        write(level, generation, "%(text)s @%(clock).6f", event, shown)

    log.write = write_with_clock
    with endless_py.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.serve_forever()


def measure(count: int, rounds: int) -> list[float]:
    """Return the seconds that each of the reloads took."""
    seconds = []
    with Program("--serve", command=[sys.executable, __file__]) as program:
        pid = program.wait_serving()
        clients = [connect(program.port) for _ in range(count)]
        for client in clients:
            ask(client)
        for generation in range(1, rounds + 1):
            pid = program.reload(generation, pid)
            begun = program.wait(rf"generation {generation}: serves .*@([0-9.]+)$")
            ended = program.wait(rf"generation {generation - 1}: finished; exiting.*@([0-9.]+)$")
            seconds.append(float(ended[1]) - float(begun[1]))
            program.wait_alone(pid)
            for client in clients:
                if not ask(client).startswith(f"{generation} "):
                    sys.exit(f"a connection was not answered by generation {generation}")
        for client in clients:
            client.close()
        program.stop(pid)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[2].partition("\n")[0])
    parser.add_argument("--counts", default="100,500,2000", help="idle connections, e.g. 100,500")
    parser.add_argument("--rounds", type=int, default=5, help="reloads with each count (5)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    counts = [int(word) for word in arguments.counts.split(",")]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(counts) + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(f"needs {needed} open files and the hard limit is {hard}: raise ulimit -Hn")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    print(f"{'connections':>11} {'median ms':>10} {'min':>8} {'max':>8} {'us/connection':>14}")
    for count in counts:
        seconds = measure(count, arguments.rounds)
        middle = statistics.median(seconds)
        print(
            f"{count:>11} {middle * 1e3:>10.1f} {min(seconds) * 1e3:>8.1f} "
            f"{max(seconds) * 1e3:>8.1f} {middle / count * 1e6:>14.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
