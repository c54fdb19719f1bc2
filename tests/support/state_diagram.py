"""The diagram of the process's states, drawn from the machine's table.

python tests/support/state_diagram.py puts it into endless_py/docs/design.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "endless_py" / "docs" / "design.md"
BEGIN, END = "<!-- machine: made by tests -->", "<!-- /machine -->"
sys.path.insert(0, str(ROOT))

from endless_py._reload.machine import OWED, TABLE, State  # noqa: E402


def diagram() -> str:
    """Return Mermaid's text, and below it what each state does with each event."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (before, event), (after, _) in TABLE.items():
        if before is not after:
            arrows.setdefault((before, after), []).append(event.name)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.STARTING.name}"]
    lines += [
        f"    {before.name} --> {after.name}: {', '.join(events)}"
        for (before, after), events in arrows.items()
    ]
    lines += [f"    {State.ENDED.name} --> [*]", "```", "", "| from | event | to | actions |"]
    lines += ["| --- | --- | --- | --- |"]
    lines += [
        f"| {before.name} | {event.name} | {'' if after is before else after.name} | "
        f"{', '.join(f'`{action}`' for action in actions)} |"
        for (before, event), (after, actions) in TABLE.items()
    ]
    owed = "; ".join(f"{state.name}: {kind} ({event.name})" for state, kind, event in OWED)
    lines += ["", f"Looked at after every move, for what is owed: {owed}."]
    return "\n".join(lines)


def page(text: str) -> str:
    """Return the page with today's diagram in it."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{diagram()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
