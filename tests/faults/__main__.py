"""python tests/faults: every step of a reload with every fault, as tables in Markdown."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cells import FAULTS, HANDOFFS, STEPS, Cell, Outcome, all_cells, run

TITLES = {
    "reload": "A reload",
    "kept": "With a kept pid: from the incumbent to the bridge",
    "back": "With a kept pid: from the bridge back to the kept pid",
}


def table(handoff: str, outcomes: dict[Cell, Outcome]) -> str:
    names = HANDOFFS[handoff].names
    columns = [(fault, (victim,)) for fault in ["kill"] for victim in (0, 1)]
    columns += [(fault, (0, 1)) for fault in FAULTS if fault != "kill"]
    head = [
        FAULTS[fault] + (f" of the {names[victims[0]]}" if len(victims) == 1 else "")
        for fault, victims in columns
    ]
    lines = [f"| step | {' | '.join(head)} |", "| --- |" + " --- |" * len(head)]
    for step in STEPS:
        found = [
            [outcomes.get(Cell(handoff, step, fault, victim)) for victim in victims]
            for fault, victims in columns
        ]
        if any(outcome for cell in found for outcome in cell):
            texts = ["; ".join(dict.fromkeys(o.text for o in c if o)) or "-" for c in found]
            lines.append(f"| {step} | {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/faults", description=__doc__)
    parser.add_argument("--only", metavar="STEP", choices=list(STEPS), help="this step alone")
    parser.add_argument("--fault", metavar="FAULT", choices=list(FAULTS), help="this fault alone")
    parser.add_argument("--handoff", choices=list(HANDOFFS), help="this handoff alone")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="cells at once (4)")
    parser.add_argument(
        "--log", action="store_true", help="say each cell as it comes, and what a bad one logged"
    )
    given = parser.parse_args()
    cells = [
        cell
        for cell in all_cells()
        if given.only in (None, cell.step)
        and given.fault in (None, cell.fault)
        and given.handoff in (None, cell.handoff)
    ]
    began = time.monotonic()
    found = []
    with ProcessPoolExecutor(given.jobs) as pool:
        for outcome in pool.map(run, cells):
            found.append(outcome)
            if given.log:
                print(f"{outcome.seconds:5.1f} s {outcome.cell}: {outcome.text}", file=sys.stderr)
    outcomes = {outcome.cell: outcome for outcome in found}
    for handoff, title in TITLES.items():
        if any(cell.handoff == handoff for cell in cells):
            print(f"{title}:\n\n{table(handoff, outcomes)}\n")
    bad = [outcome for outcome in found if outcome.bad]
    for outcome in bad:
        print(f"BAD: {outcome.cell} ({outcome.seconds:.1f} s): {outcome.bad}")
        if given.log:
            print(outcome.log)
    slowest = max(outcome.seconds for outcome in found)
    print(
        f"{len(found)} cells, {len(bad)} bad, {time.monotonic() - began:.0f} s; "
        f"the slowest took {slowest:.1f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
