"""The soak runs, is the same again from its seed, and knows what may be lost and what may not."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cells import WITH_WORKERS
from harness import SUPPORT
from mixed_load import Loss
from soak import CELLS, KINDS, Soak, draw

FAULTS = Path(__file__).resolve().parent
SEED = 5  # its first twelve orders are of every kind


def run(*words):
    command = [sys.executable, str(FAULTS), "soak", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)


@pytest.mark.slow
def test_a_short_soak_loses_nothing():
    done = run("--reloads", "10", "--seed", str(SEED), "--log")
    assert done.returncode == 0, done.stdout + done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first == f"the same again: python tests/faults soak --reloads 10 --seed {SEED}"
    assert " 0 lost, " in last
    assert " 0 processes left; " in last
    kinds = {word for word in KINDS if f", {word}: " in done.stdout}
    assert len(kinds) >= 2, done.stdout


def test_a_seed_says_what_happens():
    given = list(itertools.product((1, 2), range(300), (True, False), (True, False)))
    plans = [draw(*each) for each in given]
    assert plans == [draw(*each) for each in given]
    assert {plan.kind for plan in plans} == set(KINDS)
    assert {plan.cell.handoff for plan in plans} == {"reload", "kept", "back"}
    assert {plan.workers for plan in plans} == {1, 2, 3}
    assert {plan.cell.fault for plan in plans} >= set(WITH_WORKERS)
    assert not [cell for cell in CELLS if cell.leaves_none]
    for (*_, had), plan in zip(given, plans):
        assert plan.cell.workers == 1 or (had and plan.workers > 1)


@pytest.fixture
def soak(tmp_path):
    soak = Soak(1, 1, tmp_path)
    soak.clients = SimpleNamespace(lost=[])
    yield soak
    soak._striker.close()


def loss(port, opened, when):
    found = Loss("new", OSError(), port, opened)
    found.when = when
    return found


def test_only_what_a_killed_process_had_may_be_lost(soak):
    soak._killed = {7: [(10.0, 11.0)]}
    soak.clients.lost = [loss(7, 9.0, 10.5), loss(7, 10.2, 12.0)]
    assert soak._lost() == []
    assert soak.excused == 2
    wrong = [loss(8, 9.0, 10.5), loss(0, 9.0, 10.5), loss(7, 11.5, 12.0), loss(7, 1.0, 9.5)]
    soak.clients.lost += wrong
    assert soak._lost() == wrong


def test_a_port_that_comes_again_excuses_what_was_lost_before_as_well(soak):
    soak._killed = {7: [(10.0, 11.0)]}
    soak.clients.lost = [loss(7, 9.0, 10.5)]
    soak._note_killed({7}, 20.0)
    assert soak._lost() == []


@pytest.mark.slow
def test_what_is_lost_makes_the_run_a_failure(tmp_path):
    """Here the answers of every generation but the first are cut short."""
    program = (FAULTS / "served.py").read_text()
    broken = program.replace(
        'body = f"{process', 'body = "" if process.current.generation else f"{process'
    )
    assert broken != program
    for path in FAULTS.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "served.py").write_text(broken)
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(SUPPORT)!r}]\n"
        "import soak\n"
        "soak.KINDS, soak.WEIGHTS = ['plain'], [1]\n"
        "sys.exit(soak.main(['--reloads', '3', '--seed', '1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BAD: AssertionError: order 1, plain: lost: " in done.stdout
    assert " 0 processes left; " in done.stdout
