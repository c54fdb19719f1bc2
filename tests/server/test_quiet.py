"""How much is said of servers that nobody reloads: those of a program's own tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from custom_code import custom
from harness import TIMEOUT, environment

MANY = """
import http.server, logging, sys, threading
from endless_py.http.server import ThreadingHTTPServer
if sys.argv[2:]:
    logging.basicConfig(level=logging.DEBUG)

def make():
    server = ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    return server, thread

def end(server, thread):
    server.shutdown()
    thread.join()
    server.server_close()

if sys.argv[1] == "at once":
    for pair in [make() for _ in range(50)]:
        end(*pair)
elif sys.argv[1] == "one by one":
    for _ in range(50):
        end(*make())
else:
    for _ in range(50):
        server = ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
        threading.Timer(0.01, server.shutdown).start()
        server.serve_forever()
        server.server_close()
"""


def run(*words):
    done = subprocess.run(
        [sys.executable, "-c", MANY, *words],
        env=environment(ENDLESS_PY_LOG_LEVEL="info"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize("how", ["one by one", "at once"])
def test_many_servers_in_threads_write_one_line(how):
    assert len(run(how)) == 1
    lines = run(how, "debug")
    assert sum("serves tcp" in line for line in lines) == 50  # the rest for who wants it


def test_many_servers_in_the_main_thread_write_few():
    assert len(run("main")) == 2


TWO = """
first, second = (ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2))
threading.Thread(target=first.serve_forever, daemon=True).start()
while not first._listener.ready:
    time.sleep(0.001)
third = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=third.serve_forever, daemon=True).start()
while not third._listener.ready:
    time.sleep(0.001)
second.serve_forever()
"""


def test_a_program_that_serves_in_its_main_thread_names_all_that_it_serves(tmp_path):
    with custom(tmp_path, TWO) as program:
        pid = program.wait_serving(count=3)
        os.kill(pid, signal.SIGHUP)
        new = program.wait_serving(1, count=3)
        program.wait_alone(new)
        program.stop(new)
        assert len(re.findall(" INFO .*serves tcp", program.text)) == 6
