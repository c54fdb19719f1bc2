"""The house: imports go one way, and nothing in it is too long to be read."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the top: a room imports from its own floor and from those below it.
FLOORS = [
    [
        *("endless_py.__main__", "endless_py._serve"),
        *("endless_py._asgi.command", "endless_py._wsgi.command", "endless_py._wsgi.prepare"),
        *("endless_py._run", "endless_py.upgrade"),
    ],
    ["endless_py"],
    ["endless_py._asgi", "endless_py._wsgi"],
    ["endless_py.health"],
    ["endless_py._api", "endless_py._asyncio", "endless_py.wsgiref", "endless_py.xmlrpc"],
    ["endless_py.http", "endless_py.socketserver"],
    ["endless_py._server"],
    ["endless_py._workers"],
    ["endless_py._reload"],
    ["endless_py._control", "endless_py._handoff"],
    ["endless_py._sockets"],
    ["endless_py._supervisor"],
    ["endless_py._support"],
    ["endless_py.exceptions"],
]


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


def floor(name):
    """Return the number of a room's floor: that of the longest name that it begins with."""
    found = {
        house: number
        for number, houses in enumerate(FLOORS)
        for house in houses
        if name == house or (name.startswith(house + ".") and house != "endless_py")
    }
    return found[max(found, key=len)] if found else pytest.fail(f"{name} is on no floor")


def test_imports_go_one_way():
    graph = {name: imports(path) for name, path in ROOMS.items()}
    assert graph["endless_py._reload.process"]
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_no_import_goes_up(name):
    assert not [other for other in imports(ROOMS[name]) if floor(other) < floor(name)]


LONGEST = 350  # lines of a module
MOST_ARGUMENTS = 5  # of a constructor, besides self
# What has more is what users write, by keyword.
LONG_CONSTRUCTORS = {
    "endless_py._server.tls.TLSMixIn",
    "endless_py.upgrade.github.GitHubSource",
    "endless_py.upgrade.s3.S3Source",
    "endless_py.upgrade.updater.Updater",
    "endless_py.upgrade.watching.Watch",
    "endless_py.upgrade.web.HTTPSource",
}


def constructors(path):
    """Return the number of arguments of each class's constructor, by the class's name."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    given = method.args
                    own = [*given.posonlyargs, *given.args, *given.kwonlyargs]
                    own += [rest for rest in (given.vararg, given.kwarg) if rest]
                    found[node.name] = len(own) - 1
    return found


def test_no_module_is_long():
    lines = {name: len(path.read_text().splitlines()) for name, path in ROOMS.items()}
    core = {name for name in lines if not name.startswith("endless_py.upgrade")}
    assert not {name for name in core if lines[name] > LONGEST}


@pytest.mark.slow
def test_no_constructor_has_many_arguments():
    found = {
        f"{room}.{name}"
        for room, path in ROOMS.items()
        for name, count in constructors(path).items()
        if count > MOST_ARGUMENTS
    }
    assert found == LONG_CONSTRUCTORS


def test_no_test_imports_another():
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert not [name for name in names if name.startswith("test_")], path


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names alone, and takes the second one for the first."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
