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
