"""What endless_py/docs/running.md shows is what there is."""

from __future__ import annotations

import re
import shlex
import sys

import commands
import pytest
from harness import PROGRAMS, ROOT, Program, environment, free_port

from endless_py import GracefulMixIn
from endless_py._run import options

PAGE = (ROOT / "endless_py" / "docs" / "running.md").read_text()
COMMANDS = """\
python3 -m endless_py run -- app.py 8000
python3 -m endless_py run --watch -m app 8000
python3 -m endless_py run --drain-timeout 30 --pid-file app.pid -- app.py 8000
"""


@pytest.mark.parametrize("line", COMMANDS.splitlines())
def test_a_command(line, tmp_path):
    assert COMMANDS in PAGE
    text = (PROGRAMS / "standard.py").read_text().replace("sys.argv[1]", "'threading'")
    (tmp_path / "app.py").write_text(text.replace("sys.argv[2]", "sys.argv[1]"))
    words = shlex.split(line.replace(" 8000", f" {free_port()}"))
    with Program(command=[sys.executable, *words[1:]], cwd=tmp_path, env=environment()) as program:
        pid = program.wait_serving()
        status, said, errors = commands.command("reload", pid)  # --watch says little in the log
        assert status == 0, errors
        pid = int(re.search(r"pid (\d+) serves", said)[1])
        program.wait_alone(pid)
        program.stop(pid)


def test_the_options_are_those_of_the_command():
    rows = re.findall(r"^\| `(--[\w-]+).*?` \| `?(\w*)`? ?\| (\w+)", PAGE, re.M)
    offered = re.findall(r"^  (--[\w-]+)", options.help_text(), re.M)
    assert sorted(row[0] for row in rows) == sorted(offered)
    for option, variable, default in rows:
        if variable:
            name = option[2:].replace("-", "_")
            assert variable == f"ENDLESS_PY_{name.upper()}"
            assert options.settings.from_text(name, default) == getattr(GracefulMixIn, name) or (
                name == "pid_file" and default == "none"
            )
