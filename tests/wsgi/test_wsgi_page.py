"""docs/wsgi.md says what the command does."""

from __future__ import annotations

import sys

from harness import ROOT, Program, environment, free_port, get
from option_table import assert_complete

from endless_py._wsgi.options import parser

COMMAND = """\
python3 -m endless_py wsgi shop.web:app --bind 127.0.0.1:8000 --threads 16
"""
PAGE = (ROOT / "endless_py" / "docs" / "wsgi.md").read_text()


def test_the_command_of_the_page(tmp_path):
    assert f"```sh\n{COMMAND}```" in PAGE
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "web.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'welcome']\n"
    )
    port = free_port()
    words = COMMAND.replace("8000", str(port)).split()[1:]
    with Program(command=[sys.executable, *words], cwd=tmp_path, env=environment()) as program:
        pid = program.wait_serving()
        assert get(port) == "welcome"
        pid = program.reload(1, pid)
        program.wait_alone(pid)
        assert get(port) == "welcome"
        program.stop(pid)


def test_the_table_has_every_option_and_its_default():
    assert_complete(PAGE, parser())
