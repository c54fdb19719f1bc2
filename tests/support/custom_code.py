"""programs/custom.py, with the code that a test writes for it."""

from __future__ import annotations

import contextlib
import http.client
import threading

from harness import Program, get

SERVE = """
with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""


# How often the program has waited for something.
COUNTS = """
from endless_py._sockets.poller import Poller
waits, wait = 0, Poller.wait

def counted(self, timeout):
    global waits
    waits += 1
    return wait(self, timeout)

Poller.wait = counted
"""
IN_CODE = "import endless_py; endless_py.GracefulMixIn.pid_file = folder / 'pid'\n"


def with_pid_file(folder, version):
    """Return the folder, with what programs/steps.py and others run there: a server with pid."""
    for name in ("code", "start"):
        (folder / name).write_text(IN_CODE)
    (folder / "end").touch()
    (folder / "version").write_text(version)
    return folder


def custom(folder, code, **options):
    (folder / "code").write_text(code)
    return Program("custom.py", folder, **options)


def slow_request(folder, port, answers):
    """Return the thread of a request that is being handled."""
    (folder / "slow").unlink(missing_ok=True)  # that of an earlier one

    def ask():
        with contextlib.suppress(OSError, http.client.HTTPException):
            answers.append(get(port, "/slow"))

    thread = threading.Thread(target=ask)
    thread.start()
    while not (folder / "slow").exists():
        assert thread.is_alive()
    return thread
