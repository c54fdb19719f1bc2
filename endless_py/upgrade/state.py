"""What is known of a target's releases and looks, and the file that keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

from endless_py.upgrade import files
from endless_py.upgrade.errors import SwapError

_FORMAT = 1


@dataclass
class Release:
    """One version on the disk.

    path is relative to the releases folder, or absolute; link says what a target that is a
    symlink contains when it leads here; digest is the SHA-256 of the artifact it came from;
    content that of the file itself, None for a folder; ours whether an upgrade put it there
    (what others put there is never removed); bad whether it was rolled back.
    """

    tag: str
    path: str
    link: str
    version: Optional[str] = None
    digest: Optional[str] = None
    content: Optional[str] = None
    ours: bool = True
    bad: bool = False


@dataclass
class State:
    """What the state file says; last_look and refused are dicts of plain values."""

    releases: list[Release] = field(default_factory=list)
    current: Optional[str] = None
    pending: Optional[dict[str, Any]] = None  # from, to, marks, fingerprint
    tried: Optional[dict[str, Any]] = None  # fingerprint and starts of what is not proven yet
    source: Optional[str] = None
    marks: dict[str, str] = field(default_factory=dict)
    looked: bool = False  # a source was ever asked
    refused: Optional[dict[str, Any]] = None  # fingerprint, version, reason
    last_look: Optional[dict[str, Any]] = None  # at (Unix time), result, text

    def find(self, tag: Optional[str]) -> Optional[Release]:
        return next((r for r in self.releases if r.tag == tag), None)

    def starts(self, fingerprint: str) -> int:
        """How often what has this fingerprint was started without having been proven."""
        tried = self.tried or {}
        return int(tried["starts"]) if tried.get("fingerprint") == fingerprint else 0

    def count_start(self, fingerprint: str) -> None:
        self.tried = {"fingerprint": fingerprint, "starts": self.starts(fingerprint) + 1}


def load(path: Path) -> State:
    """Read a state file; SwapError when it is not one of ours."""
    try:
        values = json.loads(path.read_bytes())
        if values.pop("format") != _FORMAT:
            raise ValueError("another version of endless_py wrote it")
        values["releases"] = [Release(**release) for release in values["releases"]]
        return State(**values)
    except FileNotFoundError:
        return State()
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SwapError(
            f"{path} cannot be used: {error}; remove it to forget all earlier upgrades"
        ) from error


def save(path: Path, state: State) -> None:
    """Write a state file; a reader, or the next start, finds the old or the new one."""
    files.write_json(path, {"format": _FORMAT, **asdict(state)})
