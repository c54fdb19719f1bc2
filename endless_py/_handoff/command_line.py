"""How this process was started, and starting it again."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional


# What multiprocessing starts its workers and their server with, to be followed by pipes of its own.
_WORKERS = ("from multiprocessing.spawn import", "from multiprocessing.forkserver import")


class CommandLine:
    """What to start: `executable` with `arguments` (its own name first) in `directory`."""

    def __init__(self, executable: str, arguments: list[str], directory: str) -> None:
        self.executable = executable
        self.arguments = arguments
        self.directory = directory

    def locate(self, environment: dict[str, str]) -> tuple[str, str, list[str]]:
        """Return the interpreter to start, the directory to start it in, and the arguments.

        $PWD is set to the directory. Raises OSError when there is nothing to start.
        """
        if not self.arguments:
            raise OSError("the command line of this process is not known on this platform")
        if any(words in word for word in self.arguments for words in _WORKERS):
            raise OSError(
                "it is a worker of multiprocessing's, which only the process that has made it can "
                "start anew: reload that one"
            )
        directory = self.directory if os.path.isdir(self.directory) else "/"
        if self.directory:
            environment["PWD"] = directory
        executable, first = self.executable, self.arguments[0]
        if os.sep not in first:
            import shutil  # takes long to import; few are started by a bare name

            # Found afresh, and by the next generation again: it may lead elsewhere by now.
            found = shutil.which(first, path=environment.get("PATH"))
            executable, first = (found, first) if found else (executable, executable)
        else:
            first = executable
        if os.sep in executable and not os.path.exists(full := os.path.join(directory, executable)):
            raise FileNotFoundError(2, "the interpreter is not there", full)
        # The first argument tells the interpreter where its virtual environment is.
        return executable, directory, [first, *self.arguments[1:]]


def original_arguments() -> list[str]:
    """Return the arguments the interpreter itself was given; empty when nothing tells them."""
    original: Optional[list[str]] = getattr(sys, "orig_argv", None)  # from 3.10 on
    if original:
        return list(original)
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        pass
    try:
        import ctypes  # only 3.9 without /proc comes here

        count = ctypes.c_int()
        words = ctypes.POINTER(ctypes.c_wchar_p)()
        ctypes.pythonapi.Py_GetArgcArgv(ctypes.byref(count), ctypes.byref(words))
        return [words[i] or "" for i in range(count.value)]
    except (ImportError, AttributeError):
        return []


def _first_directory(arguments: list[str]) -> str:
    """Return the directory the process was started in, as far as it can still be told.

    A program may have changed directory before it imported this package; the absolute name
    of its script tells where a relative one was looked up.
    """
    name = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    for word in arguments[1:]:
        if os.path.isabs(name) and not os.path.isabs(word) and name.endswith(os.sep + word):
            return str(name[: -len(word) - 1]) or os.sep
    return "."


def _logical_directory(arguments: list[str]) -> str:
    """Return $PWD when it names the first directory, else that directory ("" if it is gone).

    $PWD keeps a `current` symlink as the operator wrote it, so that the successor
    follows it afresh.
    """
    logical, first = os.environ.get("PWD", ""), _first_directory(arguments)
    try:
        if os.path.isabs(logical) and os.path.samefile(logical, first):
            return logical
        return os.getcwd() if first == "." else first
    except OSError:
        return ""


def capture() -> CommandLine:
    """Note how this process was started; call it before the program can change directory."""
    arguments = original_arguments()
    executable = sys.executable or (arguments[0] if arguments else "")
    if arguments and os.sep in arguments[0]:
        # sys.executable has a relative path made absolute through getcwd(), which
        # resolves symlinks; the word that was typed is found afresh.
        executable = arguments[0]
    return CommandLine(executable, arguments, _logical_directory(arguments))
