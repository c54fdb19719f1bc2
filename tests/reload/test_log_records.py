"""Lines as records: an event, a constant template, fields; and what the journal gets."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from custom_code import SERVE
from harness import TIMEOUT, Program, connect, environment

from endless_py._support import log

JSON = """import json
import logging


class JSON(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        names = ("event", "generation", "pid", "successor", "listener", "seconds", "reason")
        fields = {name: getattr(record, name) for name in names if hasattr(record, name)}
        return json.dumps({"level": record.levelname, "text": record.getMessage(), **fields})


handler = logging.StreamHandler()
handler.setFormatter(JSON())
logging.basicConfig(level=logging.INFO, handlers=[handler])
"""
SERVER = """
import os, time
from endless_py.http.server import *
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"o")
        while self.path == "/slow" and not os.path.exists("go"): time.sleep(0.01)
        self.wfile.write(b"k")
"""


def program_of(tmp_path, begins="", **variables):
    """A program that is written to a file, so that it can be changed; it says info as in use."""
    path = tmp_path / "server.py"
    path.write_text(begins + SERVER + SERVE)
    variables = {"ENDLESS_PY_KEEP_PID": "false", "ENDLESS_PY_LOG_LEVEL": "info", **variables}
    command = [sys.executable, str(path)]
    return path, Program(command=command, cwd=tmp_path, env=environment(**variables))


def test_each_record_is_an_event_with_fields(tmp_path):
    path, program = program_of(tmp_path, JSON)
    with program:
        program.wait('"serves"')
        (serves,) = (r for r in map(json.loads, program.lines) if r["event"] == "serves")
        port = int(serves["listener"].rpartition(":")[2])
        with_slow = connect(port)
        with_slow.request("GET", "/slow")
        response = with_slow.getresponse()  # its handler is active
        since = len(program.lines)
        os.kill(program.pid, signal.SIGHUP)
        program.wait('"drains"', since)
        (tmp_path / "go").touch()
        program.wait('"finished"', since)
        assert response.read() == b"ok"
        records = list(map(json.loads, program.lines[since:]))
        assert [record["event"] for record in records] == ["starts", "serves", "drains", "finished"]
        starts, serves = records[:2]
        assert starts["level"] == "INFO"
        assert (starts["generation"], starts["pid"]) == (0, program.pid)
        assert starts["reason"] == "SIGHUP"
        assert starts["successor"] == f"generation 1 (pid {serves['pid']})"
        assert serves["listener"] == f"tcp 127.0.0.1:{port}"
        program.wait_alone(serves["pid"])

        since = len(program.lines)
        path.write_text("def broken(:\n")
        os.kill(serves["pid"], signal.SIGHUP)
        program.wait("reload_failed", since)
        failed = json.loads(program.lines[-1])
        assert failed["level"] == "ERROR"
        assert failed["reason"].startswith("generation 2 (pid ")
        assert re.search(r"this one goes on serving: SyntaxError: invalid syntax$", failed["text"])
        program.stop(serves["pid"])


def test_records_of_one_kind_have_one_template_and_nothing_that_moves_a_cursor(caplog):
    caplog.set_level("DEBUG", "endless_py")
    for reason in ("one", "100 %s\x1b[2J\ntwo"):
        log.write(log.INFO, "1 (bridge)", "%(reason)s at %(seconds).1f s", "event_1",
                  {"reason": reason, "seconds": 1})  # fmt: skip
    log.write(log.ERROR, "0", "no field, 100 % sure", "event_2")
    first, second, third = caplog.records
    assert first.msg == second.msg != third.msg
    assert first.getMessage() == f"[{os.getpid()}] generation 1 (bridge): one at 1.0 s"
    assert second.reason == "100 %s\\x1b[2J two"
    assert (second.event, second.generation, second.bridge) == ("event_1", 1, True)
    assert second.pid == os.getpid()
    assert third.getMessage().endswith("generation 0: no field, 100 % sure")


@pytest.mark.parametrize("journal", [True, False])
def test_the_journal_gets_priorities_and_nothing_twice(journal, tmp_path):
    target = tmp_path / "stream"
    with open(target, "wb") as stream:
        status = os.fstat(stream.fileno())
        number = f"{status.st_dev}:{status.st_ino + (not journal)}"
        code = (
            "from endless_py._support import log\n"
            "for level in (log.DEBUG, log.INFO, log.WARNING, log.ERROR):\n"
            "    log.write(level, '0', 'text')\n"
        )
        subprocess.run(
            [sys.executable, "-c", code],
            stderr=stream,
            env=environment(JOURNAL_STREAM=number),
            timeout=TIMEOUT,
            check=True,
        )
    lines = target.read_text().splitlines()
    if journal:
        assert lines == [f"<{n}>endless_py generation 0: text" for n in (7, 6, 4, 3)]
    else:
        assert [line.split()[2] for line in lines] == ["DEBUG", "INFO", "WARNING", "ERROR"]
        assert all(re.fullmatch(r"\S+ \S+ \w+ endless_py\[\d+] generation 0: text", line)
                   for line in lines)  # fmt: skip


@pytest.mark.parametrize(
    ("word", "said"), [("", 3), ("Warning", 2), ("error", 1), ("debug", 4), ("loud", 3)]
)
def test_the_level_of_standard_error_is_a_variable(word, said):
    code = (
        "import endless_py\nfrom endless_py._support import log\n"
        "for level in (log.DEBUG, log.INFO, log.WARNING, log.ERROR):\n"
        "    log.write(level, '0', 'text')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(ENDLESS_PY_LOG_LEVEL=word),
        timeout=TIMEOUT,
        check=True,
    )
    assert done.stderr.count(": text") == said
    assert ("'loud' is no level" in done.stderr) == (word == "loud")
