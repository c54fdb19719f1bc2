"""Imports between the rooms of the package go one way, those inside functions included."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def room(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


ROOMS = {room(path): path for path in (ROOT / "endless_py").rglob("*.py")}


def imports(path):
    """Return the rooms that a file imports, be it for type checkers only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in ROOMS else node.module)
    return found & ROOMS.keys()


def test_imports_go_one_way():
    graph = {name: imports(path) for name, path in ROOMS.items()}
    assert graph["endless_py.process"]
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))
