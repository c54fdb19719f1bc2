"""programs/custom.py, with the code that a test writes for it."""

from __future__ import annotations

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
    thread = threading.Thread(target=lambda: answers.append(get(port, "/slow")))
    thread.start()
    while not (folder / "slow").exists():
        assert thread.is_alive()
    return thread
