"""The matrix runs, and the documentation shows all of it, without a bad cell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cells import (
    FAULTS,
    FORKS,
    HANDOFFS,
    LIMITS,
    STEPS,
    WITH_WORKERS,
    all_cells,
    every_cell,
    share,
)
from harness import ROOT, slow

COMMAND = Path(__file__).resolve().parent


@pytest.mark.parametrize(
    ("handoff", "step"), [("reload", "ready"), slow("kept", "ready"), slow("reload", "hammer")]
)
def test_a_row_of_the_matrix_is_good(handoff, step):
    words = [sys.executable, str(COMMAND), "--only", step, "--fault", "kill", "--jobs", "2"]
    done = subprocess.run(
        [*words, "--handoff", handoff], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout
    assert f"| {step} | " in done.stdout
    assert "2 cells, 0 bad" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("step", "fault"), [("ready", "worker"), ("fork worker", "fork")])
def test_a_cell_with_workers_is_good(step, fault):
    words = [sys.executable, str(COMMAND), "--only", step, "--fault", fault, "--jobs", "2"]
    done = subprocess.run(
        [*words, "--handoff", "reload"], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout
    assert " 0 bad, " in done.stdout


def test_every_step_meets_every_fault_or_says_why_not():
    assert len(every_cell()) == len(HANDOFFS) * len(STEPS) * len(FAULTS) * 2
    tried = {(cell.step, cell.fault) for cell in all_cells()}
    missing = {(cell.step, cell.fault) for cell in every_cell()} - tried
    early = ("signal", "hook", "channel opened", "listeners sent", "spawn")
    forks_nothing = ("spawn", "stop accepting", "draining", "hammer", "exit")
    alike = set(FAULTS) - {*WITH_WORKERS, *LIMITS}
    assert missing == {
        *((step, "full") for step in early),
        *((step, "fork") for step in forks_nothing),
        *((step, fault) for step in FORKS for fault in alike),
    }
    assert all(cell.why_not for cell in every_cell() if (cell.step, cell.fault) in missing)


@pytest.mark.parametrize("of", [1, 2, 3])
def test_the_shares_of_the_matrix_are_all_of_it(of):
    shares = [share(all_cells(), number, of) for number in range(1, of + 1)]
    assert sorted(str(cell) for cells in shares for cell in cells) == sorted(map(str, all_cells()))
    for cells in shares:
        assert {(c.handoff, c.step) for c in cells} == {(c.handoff, c.step) for c in all_cells()}
        assert {(c.fault, c.victim) for c in cells} == {(c.fault, c.victim) for c in all_cells()}


def test_the_documentation_shows_the_matrix_and_the_soak():
    section = (ROOT / "endless_py" / "docs" / "reliability.md").read_text().replace("\n> ", " ")
    assert f"| step | {' | '.join(FAULTS.values())} |" in section
    counts = 0
    for step in STEPS:
        row = section.partition(f"\n| {step} | ")[2].partition("\n")[0]
        cells = [cell.strip() for cell in row.strip(" |").split(" | ")]
        assert len(cells) == len(FAULTS), step
        counts += sum(int(part.split()[0]) for c in cells if c != "n/a" for part in c.split(", "))
    assert counts == len(all_cells())
    assert "BAD" not in section
    assert f"{counts} cells, 0 bad" in section
    assert " 0 lost, " in section
    assert " 0 processes left; " in section
