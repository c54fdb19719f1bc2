"""Lets the tests import what is in support/ by name, however pytest was started."""

import compileall
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

pytest.register_assert_rewrite("managed")
sys.path.insert(0, str(HERE / "support"))
# What pytest makes of the tests' own modules is kept, whatever the environment says: each of its
# workers would make it again in each run. What the tests start goes by the environment.
sys.dont_write_bytecode = False


def pytest_configure(config):
    """Compile the package once, as an installation does: the tests start it thousands of times.

    Let what they start say all that it can, and see the signals that a shell ignores for what runs
    in its background.
    """
    os.environ["ENDLESS_PY_LOG_LEVEL"] = "debug"  # they wait for lines of every level
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(str(HERE.parent / "endless_py"), quiet=2)


@pytest.fixture
def sleeper():
    """A process that has nothing to do with the package."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()
