"""The table of options on a page, beside what the command has."""

from __future__ import annotations

import re


def assert_complete(page: str, parser) -> None:
    """The section "Options" has every option with its default, and no other."""
    table = page.partition("## Options")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`-[^|]*`) \| (.*?) \|", table, re.M)
    shown = {name: default for names, default in rows for name in re.findall(r"`(.*?)`", names)}
    actions = [action for action in parser._actions if action.option_strings]
    for action in actions:
        if action.dest == "help":
            continue
        # Of several spellings the page has the one that the others stand for.
        long = next(name for name in action.option_strings if name.startswith("--"))
        default = shown.pop(long)
        shown.pop(action.option_strings[0], None)
        if isinstance(action.default, (int, float)):
            assert float(default) == action.default, long
    assert not shown
