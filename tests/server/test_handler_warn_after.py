"""`handler_warn_after`: a handler that runs for longer is named once, with its stack."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

import pytest
from harness import TIMEOUT, Program, connect, environment, first, get, until

from endless_py import ThreadingHTTPServer
from endless_py._reload import stacks

AFTER = 0.3
NAMED = (
    r"the handler of 127\.0\.0\.1:(\d+) on tcp .* has run for 0\.3 s \(handler_warn_after\): (.*)"
)


def program(tmp_path, kind: str, after: float = AFTER) -> Program:
    code = f"with {kind}(('127.0.0.1', 0), Handler) as server:\n    server.serve_forever()"
    (tmp_path / "code").write_text(code)
    env = environment(ENDLESS_PY_HANDLER_WARN_AFTER=str(after))
    return Program("custom.py", tmp_path, env=env)


def slow(running: Program, tmp_path, connection) -> str:
    """Ask for something slow, until it is named; return the line."""
    for name in ("slow", "go"):
        (tmp_path / name).unlink(missing_ok=True)
    seen = len(running.lines)
    connection.request("GET", "/slow")
    port = connection.sock.getsockname()[1]
    found = running.wait(NAMED, seen)
    assert int(found[1]) == port
    (tmp_path / "go").touch()
    assert connection.getresponse().read().endswith(b"end")
    return found[2]


@pytest.mark.parametrize("kind", first(["ThreadingHTTPServer", "ReusingHTTPServer", "HTTPServer"]))
def test_each_slow_request_is_named_once_with_what_its_thread_does(kind, tmp_path):
    with program(tmp_path, kind) as running:
        pid = running.wait_serving()
        connection = connect(running.port)
        for _ in range(2):  # the same connection, and silence does not count
            line = slow(running, tmp_path, connection)
            assert re.search(r"custom\.py:\d+ do_GET$", line)
            assert ("thread MainThread:" in line) == (kind == "HTTPServer")
            threading.Event().wait(2 * AFTER)
        connection.close()
        assert get(running.port)
        assert len(re.findall(NAMED, running.text)) == 2
        # No helper is left; a thread that is used again waits for a while.
        most = 2 if kind == "ReusingHTTPServer" else 1
        until(lambda: len(list(Path(f"/proc/{pid}/task").iterdir())) <= most)
        running.stop(pid)


def test_quick_requests_and_silent_clients_are_not_named(tmp_path):
    with program(tmp_path, "ThreadingHTTPServer") as running:
        pid = running.wait_serving()
        silent, kept = socket.create_connection(("127.0.0.1", running.port)), connect(running.port)
        for _ in range(8):
            kept.request("GET", "/")
            kept.getresponse().read()
            threading.Event().wait(AFTER / 3)
        assert "handler_warn_after" not in running.text
        silent.close()
        kept.close()
        running.stop(pid)


def switches(pid: int) -> list[str]:
    """Return how often each of its threads has gone to sleep."""
    return [
        line
        for task in sorted(Path(f"/proc/{pid}/task").iterdir())
        for line in (task / "status").read_text().splitlines()
        if "ctxt_switches" in line
    ]


@pytest.mark.parametrize("kind", ["ThreadingHTTPServer", "HTTPServer"])
def test_nothing_looks_while_no_handler_runs(kind, tmp_path):
    with program(tmp_path, kind, after=0.1) as running:
        pid = running.wait_serving()
        kept = connect(running.port)
        if kind == "ThreadingHTTPServer":  # its handler's thread waits for a message
            kept.request("GET", "/")
            kept.getresponse().read()
        else:
            get(running.port)
        threading.Event().wait(0.5)  # the last look
        before = switches(pid)
        threading.Event().wait(0.5)
        assert switches(pid) == before
        kept.close()
        running.stop(pid)


def test_a_thread_that_is_not_known_has_no_stack():
    assert stacks.of(None) == "in a thread of the program's own"
    thread = threading.Thread(target=int)
    thread.start()
    thread.join(TIMEOUT)
    assert stacks.of(-1) == "in a thread that threading does not know"
    assert "test_a_thread_that_is_not_known_has_no_stack" in stacks.of(threading.get_ident())


@pytest.mark.parametrize("value", [0, -1, "5", float("nan")])
def test_what_it_cannot_be_is_said(value):
    kind = type("Server", (ThreadingHTTPServer,), {"handler_warn_after": value})
    with pytest.raises(ValueError, match=r"^handler_warn_after must be more than 0 seconds"):
        kind(("127.0.0.1", 0), None)
