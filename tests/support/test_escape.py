"""What another process says, on a terminal and in a log."""

from __future__ import annotations

import pytest

from endless_py._control import output
from endless_py._support.escape import escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer, 日本", "plain, größer, 日本"),
        ("\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J"),
        ("one\r\ntwo\x7f\x9b", "one\\x0d\\x0atwo\\x7f\\x9b"),
        ("\u202egpj.exe\u2028\ufeff", "\\u202egpj.exe\\u2028\\ufeff"),
        ("\udcff\U000e0001", "\\udcff\\U000e0001"),
        ("x" * 9000, "x" * 8192 + "... (808 characters more)"),
    ],
)
def test_what_does_not_print_is_escaped_and_all_is_bounded(text, shown):
    assert escaped(text) == shown


def test_a_command_prints_nothing_raw(capsys):
    output.say("GENERATION\n\x1b[2Jdone")
    output.complain("a\n\x1b[31mforged: ok")
    output.show(["\tindented\x1b[0m"] * 30)
    said = capsys.readouterr()
    assert said.out == "GENERATION\n\\x1b[2Jdone\n"
    lines = said.err.splitlines()
    assert lines[0] == "python -m endless_py: error: a\\x0a\\x1b[31mforged: ok"
    assert lines[1:] == ["            indented\\x1b[0m"] * 20
