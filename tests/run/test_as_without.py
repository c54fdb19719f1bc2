"""What a program can see, and what its user sees, is the same with `run` as without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile

import pytest
from harness import TIMEOUT, Program, environment, first

LOOK = """
import os, sys
main = sys.modules["__main__"]
assert main.__dict__ is globals()
print(__name__, __file__, __package__, __doc__, type(__loader__).__name__, sep="|")
print(sys.argv, sys.path[:2], sep="|")
print(__spec__ and (__spec__.name, __spec__.origin, __spec__.parent))
print(sorted(globals()), __builtins__)
import pickle
class Mine: pass
pickle.loads(pickle.dumps(Mine()))
"""
PROGRAMS = {
    "look": LOOK,
    "raises": "def f():\n    raise KeyError('a key')\nf()\n",
    "chained": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError(3) from e\n",
    "syntax": "def f(:\n    pass\n",
    "exits": "import sys\nsys.exit(3)\n",
    "says": "import sys\nsys.exit('said')\n",
    "interrupted": "raise KeyboardInterrupt\n",
    "hook": "import sys, traceback\n"
    "def hook(kind, value, trace):\n"
    "    print('mine', kind, value, len(traceback.extract_tb(trace)), flush=True)\n"
    "sys.excepthook = hook\n1 / 0\n",
    "atexit": "import atexit, sys\natexit.register(lambda: print(sys.excepthook))\n1 / 0\n",
    "last": "import atexit, sys, traceback\n"
    "atexit.register(lambda: print(len(traceback.extract_tb(sys.last_traceback))))\n1 / 0\n",
    "thread": "import threading\n"
    "def f(): raise KeyError('in a thread')\n"
    "t = threading.Thread(target=f, name='T')\nt.start()\nt.join()\n",
    "imports": "import no_such_module\n",
    "cookie": "# -*- coding: latin-1 -*-\nprint(ascii('\xe9'))\n",
}


def run(*words, cwd, **more):
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def same(folder, *words, flags=()):
    """Run it with and without, and compare the exit status and all it writes."""
    plain = run(*flags, *words, cwd=folder)
    assert run(*flags, "-m", "endless_py", "run", *words, cwd=folder) == plain
    return plain


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pkg" / "inner").mkdir(parents=True)
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "__main__.py").write_text(LOOK)
    (tmp_path / "pkg" / "inner" / "__init__.py").write_text("import sys\nprint(sys.argv)\n")
    for name, text in PROGRAMS.items():
        (tmp_path / "pkg" / "inner" / f"{name}.py").write_text(text, encoding="latin-1")
    (tmp_path / "link.py").symlink_to("pkg/inner/look.py")
    with zipfile.ZipFile(tmp_path / "zipped.pyz", "w") as file:
        file.writestr("__main__.py", LOOK)
    return tmp_path


@pytest.mark.parametrize("name", first(PROGRAMS, 6))
def test_a_script(folder, name):
    same(folder, f"pkg/inner/{name}.py", "an argument", "--help")


@pytest.mark.parametrize("name", ["look", "raises", "syntax", "interrupted"])
def test_a_module(folder, name):
    same(folder, "-m", f"pkg.inner.{name}", "-x", "--", "y")


@pytest.mark.parametrize("word", ["link.py", "pkg", "zipped.pyz"])
def test_what_else_is_a_script(folder, word):
    status, output, _ = same(folder, word, "a")
    assert status == 0
    assert output


def test_other_modules(folder):
    assert same(folder, "-m", "pkg", "a")[0] == 0
    assert same(folder, "-mpkg", "a")[0] == 0
    for name in ("no_such", "pkg.no_such", "pkg.inner"):
        assert same(folder, "-m", name)[0] == 1


def test_interpreter_flags_stay(folder):
    same(folder, "pkg/inner/look.py", flags=["-u", "-W", "error"])
    if sys.version_info >= (3, 11):
        same(folder, "pkg/inner/look.py", flags=["-P"])


def test_compiled_code(folder):
    import py_compile

    path = folder / "alone.pyc"
    py_compile.compile(str(folder / "pkg" / "inner" / "look.py"), str(path))
    assert same(folder, "alone.pyc", "a")[0] == 0


def test_a_command(folder):
    """As pip makes them: found on $PATH, and started with its whole name."""
    command = folder / "bin" / "the-command"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\n{LOOK}")
    command.chmod(0o755)
    more = {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    env = environment(**more)
    plain = subprocess.run(
        [command.name, "a"], cwd=folder, env=env, capture_output=True, check=True
    )
    words = ["-m", "endless_py", "run", command.name, "a"]
    assert run(*words, cwd=folder, **more) == (0, plain.stdout, plain.stderr)


def test_ctrl_c(folder):
    (folder / "waits.py").write_text("import time\nprint('waits', flush=True)\ntime.sleep(600)\n")
    command = [sys.executable, "-m", "endless_py", "run", "waits.py"]
    with Program(command=command, cwd=folder) as program:
        program.wait("^waits")
        os.kill(program.pid, signal.SIGINT)
        program.wait_alone(None)
        assert program.process.wait(TIMEOUT) == -signal.SIGINT
        frames = [line for line in program.lines if line.startswith("  File ")]
        assert len(frames) == 1


def test_children_are_not_run_so(folder):
    """What the program starts itself is its own."""
    (folder / "starts.py").write_text(
        "import multiprocessing\n"
        "def f(queue):\n"
        "    import socketserver\n"
        "    queue.put('__new__' in vars(socketserver.BaseServer))\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue = context.SimpleQueue()\n"
        "    process = context.Process(target=f, args=(queue,))\n"
        "    process.start()\n"
        "    print(queue.get())\n"
        "    process.join()\n"
    )
    assert same(folder, "starts.py") == (0, b"False\n", b"")
