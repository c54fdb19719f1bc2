"""MODULE:APPLICATION, and what it names."""

from __future__ import annotations

import ast
import importlib

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any


class NoApplication(Exception):
    """What was named is not there, or is none."""


def load(text: str) -> Any:
    """Return the application that MODULE:NAME or MODULE:FACTORY(...) names.

    NAME may have dots, and is `application` where none is given; what a factory is called with
    are literals. Raises NoApplication; what the module itself raises when it is imported, and what
    the factory raises, comes through.
    """
    module_name, _, name = text.partition(":")
    name = name or "application"
    names, arguments, keywords = _parse(text, name)
    module = _import(text, module_name)
    found: Any = module
    reached = module_name
    for part in names:
        try:
            found = getattr(found, part)
        except AttributeError:
            raise NoApplication(f"{reached} has no {part!r}") from None
        reached += f".{part}" if ":" in reached else f":{part}"
    if arguments is not None:
        if not callable(found):
            raise NoApplication(f"{text.partition('(')[0]} is no factory: it cannot be called")
        found = found(*arguments, **keywords)
        if found is None:
            raise NoApplication(f"the factory {text} has returned None")
    if not callable(found):
        kind = type(found).__name__
        raise NoApplication(f"{text} is no application: a {kind} cannot be called")
    return found


def _parse(text: str, name: str) -> tuple[list[str], Any, dict[str, Any]]:
    """Return the names, and what the last one is called with, None where it is not called."""
    wrong = NoApplication(f"{text!r} is neither MODULE:NAME nor MODULE:FACTORY()")
    try:
        node: Any = ast.parse(name, mode="eval").body
        arguments, keywords = None, {}
        if isinstance(node, ast.Call):
            arguments = [ast.literal_eval(word) for word in node.args]
            for word in node.keywords:
                if word.arg is None:
                    raise wrong
                keywords[word.arg] = ast.literal_eval(word.value)
            node = node.func
    except (SyntaxError, ValueError):
        raise wrong from None
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise wrong
    return [node.id, *names], arguments, keywords


def _import(text: str, name: str) -> Any:
    if not all(part.isidentifier() for part in name.split(".")):
        raise NoApplication(f"{name!r} is not the name of a module")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        # Where the module is there, but not what it imports, its traceback says more.
        if name == missing or name.startswith(missing + "."):
            hint = "; give its name, without .py" if name.endswith(".py") else ""
            raise NoApplication(
                f"there is no module {missing!r} in this folder or on Python's path{hint}"
            ) from None
        raise
