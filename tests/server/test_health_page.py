"""endless_py/docs/health.md says what there is, and its commands run."""

from __future__ import annotations

import re
import shlex
import sys
import urllib.request

import pytest
from harness import PROGRAMS, ROOT, TIMEOUT, Program, environment, free_port, get

from endless_py._reload import health, process

PAGE = (ROOT / "endless_py" / "docs" / "health.md").read_text()
EXAMPLES = ROOT / "tests" / "examples"
COMMANDS = """\
python3 -m endless_py --health 127.0.0.1:9100
python3 -m endless_py wsgi shop.web:app --health 127.0.0.1:9100 --stop-delay 5
python3 -m endless_py asgi shop.api:app --health 127.0.0.1:9100 --stop-delay 5
python3 -m endless_py run --health 127.0.0.1:9100 --stop-delay 5 -- app.py
"""
API = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
"""


def readyz(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=TIMEOUT) as response:
        return response.read().decode()


def serves(words: list[str], folder, where: int) -> None:
    """It is ready, before and after a reload."""
    with Program(command=[sys.executable, *words], cwd=folder, env=environment()) as program:
        pid = program.wait_serving(count=2)
        assert readyz(where) == "ready\n"
        pid = program.reload(1, pid, count=2)
        program.wait_alone(pid)
        assert readyz(where) == "ready\n"


@pytest.mark.parametrize("line", COMMANDS.splitlines())
def test_a_command(line, tmp_path):
    assert f"```sh\n{COMMANDS}```" in PAGE
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "web.py").write_text((EXAMPLES / "health_wsgi.py").read_text())
    (tmp_path / "shop" / "api.py").write_text(API)
    text = (PROGRAMS / "standard.py").read_text().replace("sys.argv[1]", "'threading'")
    (tmp_path / "app.py").write_text(text.replace("sys.argv[2]", "'0'"))
    where = free_port()
    words = shlex.split(line.replace("9100", str(where)))[1:]
    if "wsgi" in words or "asgi" in words:
        words += ["--bind", "127.0.0.1:0"]
    elif "run" not in words:
        words += ["0", "--bind", "127.0.0.1"]
    serves(words, tmp_path, where)


def test_the_listener(tmp_path):
    where = free_port()
    text = (EXAMPLES / "health_listener.py").read_text()
    (tmp_path / "app.py").write_text(text.replace("9100", str(where)).replace("8000", "0"))
    serves(["app.py"], tmp_path, where)


@pytest.mark.parametrize("name", ["health_mounted.py", "health_wsgi.py"])
def test_what_is_mounted(name, tmp_path):
    (tmp_path / "app.py").write_text((EXAMPLES / name).read_text().replace("8000", "0"))
    words = ["app.py"]
    if name == "health_wsgi.py":
        words = ["-m", "endless_py", "wsgi", "app:app", "--bind", "127.0.0.1:0"]
    with Program(command=[sys.executable, *words], cwd=tmp_path, env=environment()) as program:
        pid = program.wait_serving()
        port = program.port
        for generation in (1, 2):
            assert (get(port), get(port, "/readyz")) == ("hello\n", "ready\n")
            assert f"endless_py_generation {generation - 1}\n" in get(port, "/metrics")
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
        program.stop(pid)


def test_the_metrics_are_those_of_the_page(monkeypatch):
    report = process.current.report
    monkeypatch.setattr(report, "last", {"at": 1.0, "ok": True, "generation": 1, "seconds": 1.0})
    text = health.ours(process.current)
    shown = re.findall(r"^\| `(endless_py_\w+)` \|", PAGE, re.M)
    assert shown == list(dict.fromkeys(re.findall(r"^# TYPE (\w+) ", text, re.M)))
