"""Files that an operator has named."""

from __future__ import annotations

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Mapping, Optional


def unreadable(files: Mapping[str, Optional[str]]) -> str:
    """Return which of these files, by what they are, cannot be read, and why; else ""."""
    for what, path in files.items():
        try:
            if path is not None:
                open(path, "rb").close()
        except OSError as error:
            return f"cannot read the {what} {path}: {error.strerror}"
    return ""
