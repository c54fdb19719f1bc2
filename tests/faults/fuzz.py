"""fuzz.py [ENTRY] [OPTIONS OF ATHERIS]: feeds bytes to whatever of ours parses what others say.

Needs atheris (`pip install -e '.[fuzz]'`), which has no wheel for every Python. ENTRY is one of
the names in entry_points.ALL; without it each input goes to the entry that its first
byte chooses. `-max_total_time=60` ends after that many seconds, `-help=1` says the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (0, 2)]

try:
    import atheris
except ImportError:
    sys.exit("fuzz.py needs atheris: pip install -e '.[fuzz]', with a Python it has a wheel for")

with atheris.instrument_imports(include=["endless_py", "entry_points"]):
    import entry_points

chosen = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else ""
if chosen and chosen not in entry_points.ALL:
    sys.exit(f"no entry point {chosen}; there are {', '.join(entry_points.ALL)}")
entries = [entry_points.ALL[chosen]] if chosen else list(entry_points.ALL.values())


def run(data: bytes) -> None:
    """One input."""
    if not chosen:
        entry = entries[data[0] % len(entries)] if data else entries[0]
        data = data[1:]
    else:
        entry = entries[0]
    if entry in entry_points.FRAMED and data:
        # Few inputs would ever find the magic bytes and a right length.
        how, data = data[0], data[1:]
        if how & 1:
            data = entry_points.frame(data, how >> 6)
        entry(data, *entry_points.FRAMED[entry](how >> 1 & 3))
    elif entry in entry_points.SHAPES and data and data[0] & 1:
        entry(entry_points.SHAPES[entry](data[1:]))
    else:
        entry(data)


atheris.Setup(sys.argv, run)
atheris.Fuzz()
