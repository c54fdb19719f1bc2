"""suites.py MODULE SWAP: CPython's own tests of a module, one line of JSON for each.

MODULE is a module of CPython's package `test`. SWAP says where this package's classes take the
place of the library's:

nowhere     the originals
names       in what the tests import
library     in the library's modules themselves, before anything else imports them
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import json
import sys
import types
import unittest

SWAPPED = ("socketserver", "http.server", "wsgiref.simple_server", "xmlrpc.server")


def ours(name: str) -> dict[str, object]:
    """Return the names of this package's module that mirrors one of the library's."""
    module = importlib.import_module(f"endless_py.{name}")
    return {each: getattr(module, each) for each in module.__all__}


def swapped(module: types.ModuleType, names: dict[str, object]) -> types.ModuleType:
    """Return a copy of a module that has these names."""
    copy = types.ModuleType(module.__name__)
    vars(copy).update(vars(module))
    vars(copy).update(names)
    return copy


def importer():
    """Return an __import__ that gives its caller this package's classes."""
    real, modules = builtins.__import__, {}
    for name in SWAPPED:
        modules[name] = swapped(importlib.import_module(name), ours(name))
    for name in SWAPPED:
        package, _, rest = name.partition(".")
        if rest:
            modules[package] = swapped(sys.modules[package], {rest: modules[name]})

    def replacement(name, space=None, local=None, fromlist=(), level=0):
        module = real(name, space, local, fromlist, level)
        if not level and (name if fromlist else name.partition(".")[0]) in modules:
            return modules[name if fromlist else name.partition(".")[0]]
        return module

    return replacement


def load(name: str, swap: str) -> types.ModuleType:
    if swap == "library":
        every = {each: ours(each) for each in SWAPPED}
        for each, names in every.items():
            vars(importlib.import_module(each)).update(names)
    if swap != "names":
        return importlib.import_module(name)
    spec = importlib.util.find_spec(name)
    module = importlib.util.module_from_spec(spec)
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": importer()}
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Result(unittest.TestResult):
    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[str, tuple[str, str]] = {}

    def addSuccess(self, test) -> None:
        self.outcomes.setdefault(test.id(), ("passed", ""))

    def addSkip(self, test, reason) -> None:
        self.outcomes[test.id()] = ("skipped", reason)

    def addError(self, test, error) -> None:
        self.outcomes[test.id()] = ("failed", self._exc_info_to_string(error, test))

    addFailure = addError

    def addSubTest(self, test, subtest, error) -> None:
        if error is not None:
            self.addError(test, error)


def main() -> None:
    name, swap = sys.argv[1:]
    module = load(f"test.{name}", swap)
    result = Result()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    for test, (outcome, text) in result.outcomes.items():
        print(json.dumps({"test": test, "outcome": outcome, "text": text}), flush=True)


if __name__ == "__main__":
    main()
