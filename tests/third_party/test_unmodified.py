"""Programs from PyPI reload under load, not a line of them changed; the page has them all."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys

import pytest
import unmodified

# As the extra has it.
MISSING = {"fakeredis"} if sys.version_info < (3, 10) else set()
if sys.version_info >= (3, 15):
    MISSING.add("mercurial")


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("case", unmodified.CASES, ids=lambda case: case.name)
def test_a_program(case, tmp_path):
    try:
        case.version()
    except importlib.metadata.PackageNotFoundError:
        if case.package in MISSING:
            pytest.skip("it is not there for this Python")
        missing = f"{case.package} is not there: pip install '.[third-party]'"
        pytest.fail(missing) if "CI_RUN" in os.environ else pytest.skip(missing)
    found = unmodified.trial(case, tmp_path)
    assert found.lost == []
    assert found.closed == 0
    assert found.requests > 0
    assert (found.bad, found.term) == ("served on", "clean")


def test_the_page_has_each_of_them():
    rows = unmodified.TABLE.search(unmodified.PAGE.read_text())[2].splitlines()[2:]
    assert [re.match(r"\| (.*?) \| ", row)[1] for row in rows] == [
        case.name for case in unmodified.CASES
    ]
    assert all(
        re.search(r"\| 0 \| 5 \| \d+ \| 0 \| 0? ?\| served on \| clean \|$", r) for r in rows
    )
