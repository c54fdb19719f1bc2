"""Every step of a reload with every fault, as tables in Markdown; `soak`: many random reloads.

python tests/faults [OPTIONS]        the matrix
python tests/faults soak [OPTIONS]   see `python tests/faults soak --help`
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from string import ascii_lowercase

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import soak
from cells import FAULTS, HANDOFFS, STEPS, Cell, every_cell, share
from trial import Outcome, run

TITLES = {
    "reload": "A reload",
    "kept": "With a kept pid: from the incumbent to the bridge",
    "back": "With a kept pid: from the bridge back to the kept pid",
}
LETTERS = dict(zip(sorted({cell.why_not for cell in every_cell()} - {""}), ascii_lowercase))
LEGEND = """\
Who serves afterwards: the new code, the old code, the bridge (new code, too: the pid that was to
be kept is gone), or "ends": the fault ended the last process that was there. What a supervisor
starts then finds nothing in its way.
Two in one field: the fault hits the one who hands off / the one who is handed everything.
"cut": requests that the killed process was itself handling; every other one was answered."""


def not_there(cell: Cell) -> str:
    return f"n/a ({LETTERS[cell.why_not]})"


def head(cells: list[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |", "| --- |" + " --- |" * (len(cells) - 1)]


def table(handoff: str, outcomes: dict[Cell, Outcome], chosen: list[Cell]) -> str:
    names = HANDOFFS[handoff].names
    columns = [("kill", (0,)), ("kill", (1,))]
    columns += [(fault, (0, 1)) for fault in FAULTS if fault != "kill"]
    faults = [
        FAULTS[fault] + (f" of the {names[victims[0]]}" if len(victims) == 1 else "")
        for fault, victims in columns
    ]
    lines = head(["step", *faults])
    for step in STEPS:
        texts = []
        for fault, victims in columns:
            cells = [Cell(handoff, step, fault, victim) for victim in victims]
            found = [
                outcomes[cell].text if cell in outcomes else not_there(cell)
                for cell in cells
                if cell in chosen
            ]
            texts.append(" / ".join(found if len(set(found)) > 1 else found[:1]) or "-")
        if set(texts) != {"-"}:
            lines.append(f"| {step} | {' | '.join(texts)} |")
    return "\n".join(lines)


def summary(outcomes: dict[Cell, Outcome]) -> str:
    """Return all three tables in one, with the number of cells by who served afterwards."""
    lines = head(["step", *FAULTS.values()])
    for step in STEPS:
        texts = []
        for fault in FAULTS:
            found = [o for cell, o in outcomes.items() if (cell.step, cell.fault) == (step, fault)]
            counts = Counter("BAD" if o.bad else o.who for o in found)
            words = sorted(counts, key="new old bridge ends BAD".index)
            texts.append(", ".join(f"{counts[who]} {who}" for who in words) or "n/a")
        lines.append(f"| {step} | {' | '.join(texts)} |")
    return "\n".join(lines)


def a_share(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N, such as 1/2")
    return int(number), int(of)


def matrix(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python tests/faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="STEP", choices=list(STEPS), help="this step alone")
    parser.add_argument("--fault", metavar="FAULT", choices=list(FAULTS), help="this fault alone")
    parser.add_argument("--handoff", choices=list(HANDOFFS), help="this handoff alone")
    parser.add_argument(
        "--share",
        metavar="K/N",
        type=a_share,
        default=(1, 1),
        help="the Kth of N shares alone, each with cells of every row and column",
    )
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="cells at once (4)")
    parser.add_argument("--log", action="store_true", help="say each cell as it comes")
    given = parser.parse_args(words)
    chosen = [
        cell
        for cell in every_cell()
        if given.only in (None, cell.step)
        and given.fault in (None, cell.fault)
        and given.handoff in (None, cell.handoff)
    ]
    tried = share([cell for cell in chosen if not cell.why_not], *given.share)
    missing = [cell for cell in chosen if cell.why_not]
    chosen = [*missing, *tried]
    began = time.monotonic()
    found = []
    with ProcessPoolExecutor(given.jobs) as pool:
        for outcome in pool.map(run, tried):
            found.append(outcome)
            if given.log:
                print(f"{outcome.seconds:5.1f} s {outcome.cell}: {outcome.text}", file=sys.stderr)
    outcomes = {outcome.cell: outcome for outcome in found}
    for handoff, title in TITLES.items():
        if any(cell.handoff == handoff for cell in chosen):
            print(f"{title}:\n\n{table(handoff, outcomes, chosen)}\n")
    print(LEGEND)
    for why, letter in LETTERS.items():
        if any(cell.why_not == why for cell in chosen):
            print(f"n/a ({letter}): {why}.")
    if not (given.only or given.fault or given.handoff):
        print("\nAll three in one, the number of cells by who serves afterwards:\n")
        print(f"{summary(outcomes)}\n")
    bad = [outcome for outcome in found if outcome.bad]
    for outcome in bad:
        print(f"BAD: {outcome.cell} ({outcome.seconds:.1f} s): {outcome.bad}\n{outcome.log}")
    slowest = max((outcome.seconds for outcome in found), default=0)
    named = "; ".join(f"{outcome.cell}: {outcome.bad}" for outcome in bad)
    print(
        f"{len(found)} cells, {len(bad)} bad{named and f' ({named})'}, "
        f"{len(missing)} not applicable; "
        f"{time.monotonic() - began:.0f} s, the slowest {slowest:.1f} s; "
        f"CPython {platform.python_version()}, {os.cpu_count()} cores"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(soak.main(sys.argv[2:]) if sys.argv[1:2] == ["soak"] else matrix(sys.argv[1:]))
