"""The matrix runs, and a cell that is bad would be told by its exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).resolve().parent


@pytest.mark.parametrize("handoff", ["reload", "kept"])
def test_a_row_of_the_matrix_is_good(handoff):
    words = [sys.executable, str(FAULTS), "--only", "ready", "--fault", "kill", "--jobs", "2"]
    done = subprocess.run(
        [*words, "--handoff", handoff], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "| ready | " in done.stdout
    assert "2 cells, 0 bad" in done.stdout
