"""What `python SCRIPT`, `python -m MODULE` and a console script do, done in this process."""

from __future__ import annotations

import builtins
import functools
import importlib.machinery
import importlib.util
import io
import marshal
import os
import runpy
import sys
import types
from contextlib import suppress

from endless_py._run.options import UsageError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from endless_py._run.options import Options


def prepare(options: Options) -> Program:
    """Return what is to be run, with its sys.argv, sys.path and a new __main__ in place.

    Raises UsageError when there is none.
    """
    as_main: Any = runpy._run_module_as_main  # type: ignore[attr-defined]
    if options.module is not None:
        _set_first_path(os.getcwd())
        sys.argv[:] = ["-m", *options.arguments]
        _new_main()
        return Program(lambda: functools.partial(as_main, options.module))
    path = _find(options.program)
    sys.argv[:] = [path, *options.arguments]
    if _is_importable(path):  # a folder or a zip file with a __main__.py
        _set_first_path(os.path.abspath(path), always=True)
        _new_main()
        return Program(lambda: functools.partial(as_main, "__main__", False))
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    return _script(os.path.abspath(path))


def _find(word: str) -> str:
    """Return the script that a word names: a file as Python would take it, else a command."""
    if os.path.isfile(word) or _is_importable(word):
        return word
    if os.sep not in word and not word.endswith(".py"):
        for folder in (os.path.dirname(sys.executable), *os.get_exec_path()):
            path = os.path.join(folder, word)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                if not _is_python(path):
                    raise UsageError(f"{path} is no Python program; name its script, or -m MODULE")
                return path
        raise UsageError(f"there is neither a file nor a command {word!r}")
    if os.path.isdir(word):
        raise UsageError(f"can't find a __main__ module in {word!r}")
    raise UsageError(f"can't open file {word!r}: there is none")


def _is_python(path: str) -> bool:
    """Whether a command's first lines say that Python is to run it; pip's say so in the second."""
    with open(path, "rb") as file:
        head = file.read(1024)
    return head[:2] == b"#!" and b"python" in b"".join(head.splitlines()[:3]).lower()


def _is_importable(path: str) -> bool:
    """Whether modules can be imported from it, as from a folder."""
    if os.path.isdir(path):
        names = ("__main__.py", "__main__.pyc")
        return any(os.path.exists(os.path.join(path, name)) for name in names)
    if not os.path.isfile(path):
        return False
    for hook in sys.path_hooks:  # not by pkgutil, which takes long to import
        with suppress(ImportError):
            hook(os.path.abspath(path))
            return True
    return False


def _set_first_path(path: str, always: bool = False) -> None:
    """Put it where Python has put the place of `python -m endless_py`, or of our own command.

    With -P and -I Python has put none there, and would put none there for a script.
    """
    safe = getattr(sys.flags, "safe_path", False) or sys.flags.isolated
    if not safe:
        sys.path[0] = path
    elif always:
        sys.path.insert(0, path)


def _new_main() -> dict[str, Any]:
    """Return the namespace of a fresh __main__, as it is before a program runs in it."""
    main = types.ModuleType("__main__")
    namespace = vars(main)
    namespace["__builtins__"] = builtins
    if sys.version_info < (3, 14):
        namespace["__annotations__"] = {}
    sys.modules["__main__"] = main
    return namespace


def _script(path: str) -> Program:
    namespace = _new_main()
    namespace["__file__"] = path
    if sys.version_info < (3, 15):
        namespace["__cached__"] = None
    loaders = importlib.machinery
    compiled = path.endswith(".pyc")
    loader: Any = loaders.SourcelessFileLoader if compiled else loaders.SourceFileLoader
    namespace["__loader__"] = loader("__main__", path)

    def load() -> Any:
        with io.open_code(path) as file:
            text = file.read()
        if text[:4] == importlib.util.MAGIC_NUMBER:
            return marshal.loads(text[16:])
        return compile(text, path, "exec", 0, True)

    return Program(lambda: functools.partial(exec, load(), namespace))


class Program:
    """What is to be run in a fresh __main__."""

    def __init__(self, load: Callable[[], Callable[[], object]]) -> None:
        """load compiles it, and returns what runs it, a function without a frame of ours."""
        self._load = load

    def run(self) -> None:
        """Run it; what it raises comes out, and is shown as if nothing had been around it."""
        try:
            program = self._load()
        except BaseException as error:  # it does not compile: no frame at all is the program's
            _hide(error, None)
            raise
        try:
            program()
        except SystemExit:
            raise
        except BaseException as error:
            _hide(error, error.__traceback__ and error.__traceback__.tb_next)
            raise


def _hide(error: BaseException, shown: Optional[types.TracebackType]) -> None:
    """Have the interpreter, which is about to end by this error, show this part of its traceback.

    Not by handling it here: of a KeyboardInterrupt that nobody handles it makes an end by a signal.
    """
    hook = sys.excepthook

    def show(
        kind: type[BaseException], value: BaseException, trace: Optional[types.TracebackType]
    ) -> object:
        sys.excepthook = hook
        if value is error:
            trace = sys.last_traceback = value.__traceback__ = shown
        return hook(kind, value, trace)

    sys.excepthook = show
