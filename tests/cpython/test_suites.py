"""What CPython's own tests of the four modules pass on its classes, they pass on this package's."""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import environment

pytestmark = [pytest.mark.slow, pytest.mark.cpython, pytest.mark.timeout(300)]

SUITES = ("test_socketserver", "test_httpservers", "test_wsgiref", "test_xmlrpc")
# Which looks at the names in a module of the library and where their classes were defined, not at
# what they do.
EXCUSED = (".MiscTestCase.test_all",)


@functools.lru_cache
def outcomes(suite: str, swap: str) -> dict[str, tuple[str, str]]:
    command = [sys.executable, str(Path(__file__).parent / "suites.py"), suite, swap]
    done = subprocess.run(
        command,
        # Some of them look at all that is written to standard error.
        env=environment(ENDLESS_PY_LOG_LEVEL="info"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"test"')]
    assert lines, done.stdout + done.stderr
    return {line["test"]: (line["outcome"], line["text"]) for line in lines}


@pytest.mark.skipif(
    importlib.util.find_spec("test.test_socketserver") is None,
    reason="this interpreter was installed without CPython's tests",
)
@pytest.mark.parametrize("swap", ["names", "library"])
@pytest.mark.parametrize("suite", SUITES)
def test_what_the_originals_pass(suite, swap):
    with ThreadPoolExecutor() as both:  # one of them mostly waits
        original, found = both.map(functools.partial(outcomes, suite), ("nowhere", swap))
    passed = {test for test, (outcome, _) in original.items() if outcome == "passed"}
    assert passed
    problems = [
        f"{test}: {found.get(test, ('not run', ''))}"
        for test in sorted(passed)
        if found.get(test, ("not run",))[0] != "passed" and not test.endswith(EXCUSED)
    ]
    assert not problems, "\n".join(problems).replace("\\n", "\n")
    print(f"{suite}, {swap}: {len(passed)} passed")
