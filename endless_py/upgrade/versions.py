"""Which of two versions is the older one."""

from __future__ import annotations

import re
from typing import Optional

from endless_py.upgrade.errors import Refused

_VERSION = re.compile(r"v?(?P<numbers>\d+(?:\.\d+)*)(?P<rest>.*)", re.IGNORECASE)
_IN_NAME = re.compile(
    r"[-_]v?(?P<version>\d+(?:\.\d+)+.*?)(?:-py[23][^/]*)?\.(?:pyz|zip|tar|tgz|txz|tbz|gz|xz)",
    re.IGNORECASE,
)
_WORD = re.compile(r"\d+|[a-z]+")
# The words that come after the version they are attached to, all others come before it.
_POST = {"post", "rev", "r", "p", "patch"}
_RANKS = {"dev": -4, "alpha": -3, "a": -3, "beta": -2, "b": -2, "c": -1, "rc": -1}

Key = tuple[tuple[int, ...], tuple[tuple[int, int, str], ...]]


def key(version: str) -> Key:
    """Return what orders versions; raises Refused for a text that is no version.

    The rule: an optional v, then dotted numbers, compared as numbers; missing ones are 0
    (1.2 is 1.2.0). What follows makes a pre-release, older than the version without it
    (1.2rc1 and 1.2-beta.2 come before 1.2), unless it begins with post, rev or patch. Among
    pre-releases dev comes before alpha (a), beta (b) and rc (c), other words before all of
    them in the order of the alphabet, and numbers are compared as numbers. What follows a +
    says how the thing was built and does not count.
    """
    found = _VERSION.fullmatch(version.strip().partition("+")[0])
    if not found:
        raise Refused(f"{version!r} is no version; give dotted numbers such as 1.4.2 or 1.5rc1")
    numbers = [int(word) for word in found["numbers"].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    words = _WORD.findall(found["rest"].lower())
    tail: list[tuple[int, int, str]] = []
    for word in words:
        if word.isdigit():
            tail.append((0, int(word), ""))
        elif word in _POST:
            tail.append((2, 0, ""))
        else:
            tail.append((_RANKS.get(word, -5), 0, "" if word in _RANKS else word))
    if tail and tail[0][0] == 0:
        tail.insert(0, (-5, 0, ""))  # 1.2-3 is a pre-release too, as semantic versions have it
    # The end sorts after a pre-release and before a post-release.
    return tuple(numbers), (*tail, (1, 0, ""))


def is_older(version: str, than: str) -> bool:
    """Whether `version` comes before `than` by the rule of `key()`."""
    return key(version) < key(than)


def in_name(name: str) -> Optional[str]:
    """The version in a file's name such as app-1.4.2.pyz; None when there is none."""
    found = _IN_NAME.search(name)
    return found["version"] if found else None
