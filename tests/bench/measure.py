"""What every benchmark needs: servers to measure, turns, and rows of a table."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Sequence, TypeVar

import harness
import pytest
from harness import TIMEOUT, Program, environment, free_port

HERE = Path(__file__).resolve().parent
STANDARD, OURS, MINIMAL, APART = "standard", "endless_py", "minimal", "apart"
Value = TypeVar("Value")


class Row(NamedTuple):
    """One line of the table; met is None where there is no goal."""

    what: str
    against: str
    goal: str
    measured: str
    spread: str
    met: Optional[bool] = None

    def markdown(self) -> str:
        met = "" if self.met is None else "yes" if self.met else "**no**"
        cells = [self.what, self.against, self.goal, met, self.measured, self.spread]
        return "| " + " | ".join(cells) + " |"


HEAD = "| what | against | goal | met | measured | spread |\n| --- | --- | --- | --- | --- | --- |"


class Settings(NamedTuple):
    """How much is measured; the numbers are those of a real run, or tiny with --quick."""

    quick: bool
    caches: str  # where the measured interpreters keep their bytecode

    def pick(self, real: int, quick: int) -> int:
        return quick if self.quick else real

    def env(self) -> dict[str, str]:
        """An environment in which modules are compiled once, as in an installed program."""
        env = environment(PYTHONPYCACHEPREFIX=self.caches)
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        return env


class NotMeasured(Exception):
    """Something that a benchmark needs is not here; the text says what to do."""


def tool(name: str) -> str:
    """The path of a program."""
    try:
        return harness.tool(name)
    except pytest.skip.Exception as error:
        raise NotMeasured(str(error)) from None


def command(library: str, name: str, *more: object) -> list[str]:
    return [sys.executable, str(HERE / "servers.py"), library, name, *map(str, more)]


@contextlib.contextmanager
def server(settings: Settings, library: str, name: str, *more: object):
    """A running server and its port."""
    with Program(command=command(library, name, *more), env=settings.env()) as program:
        yield program, int(program.wait(r"^port (\d+)$")[1])


@contextlib.contextmanager
def gunicorn(settings: Settings, workers: int = 1):
    """gunicorn with threads, one worker unless there are more, and the same answers; its port."""
    if importlib.util.find_spec("gunicorn") is None:
        raise NotMeasured("python -m pip install 'endless-py[bench]'")
    port = free_port()
    words = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--workers"]
    words += [str(workers)]
    words += ["--threads", "16", "--bind", f"127.0.0.1:{port}", "application:application"]
    with Program(command=words, cwd=HERE, env=settings.env()) as program:
        program.wait("Booting worker")
        first_answer(port)
        yield port


@contextlib.contextmanager
def wsgi_server(settings: Settings, name: str):
    """A server of application.py with 16 threads, by its command; its port."""
    port, python = free_port(), [sys.executable, "-m"]
    address, threads = f"127.0.0.1:{port}", ["--threads", "16"]
    command = {
        "endless_py": [*python, "endless_py", "wsgi", *threads, "-b", address],
        "waitress": [*python, "waitress", *threads, "--listen", address],
        "uWSGI": [
            *(f"{Path(sys.executable).parent}/uwsgi", *threads, "--http11-socket", address),
            *("--die-on-term", "--disable-logging", "--listen", "100", "--module"),
        ],
    }[name]
    is_there = Path(command[0]).exists() if name == "uWSGI" else importlib.util.find_spec(name)
    if not is_there:
        raise NotMeasured("python -m pip install 'endless-py[bench]'")
    with Program(command=[*command, "application:application"], cwd=HERE, env=settings.env()):
        first_answer(port)
        yield port


def run_client(settings: Settings, kind: str, port: int, seconds: float):
    """What a client in a process of its own saw."""
    with start_client(settings, kind, port, seconds) as process:
        out, _ = process.communicate(timeout=seconds + TIMEOUT)
    if process.returncode:
        raise AssertionError(f"the {kind} client ended with status {process.returncode}")
    return json.loads(out)


def start_client(settings: Settings, kind: str, port: int, seconds: float):
    words = [sys.executable, str(HERE / "clients.py"), kind, str(port), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, env=settings.env())


def ask(port: int, path: str = "/", method: str = "GET") -> int:
    """The pid that answers."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        client.request(method, path)
        return int(client.getresponse().read())
    finally:
        client.close()


def first_answer(port: int, not_by: int = 0) -> tuple[float, int]:
    """The moment of the first answer by another pid than that, and who gave it."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError, ValueError):
            pid = ask(port)
            if pid != not_by:
                return time.monotonic(), pid
        time.sleep(0.0005)
    raise AssertionError(f"no answer on port {port} within {TIMEOUT:g} s")


def end_of(descriptor: int) -> float:
    """The moment at which the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(TIMEOUT * 1000):
        raise AssertionError("the process has not ended")
    return time.monotonic()


def turns(count: int, *measures: Callable[[], Value]) -> list[list[Value]]:
    """Take each measure in turn, ABAB and so on; one list of values for each."""
    found: list[list[Value]] = [[] for _ in measures]
    for _ in range(count):
        for values, measure in zip(found, measures):
            values.append(measure())
    return found


def ratios(values: Sequence[float], against: Sequence[float]) -> list[float]:
    # Processor time is counted in ticks: with tiny numbers there may be none.
    return [a / b if b else 0.0 for a, b in zip(values, against)]


def differences(values: Sequence[float], against: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(values, against)]


def spread(values: Sequence[float], unit: str = "", digits: int = 2) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}{unit}"


def ratio_row(
    what: str,
    against: str,
    values: Sequence[float],
    others: Sequence[float],
    goal: Optional[float],
    unit: str = "/s",
    most: bool = False,
    digits: int = 0,
) -> Row:
    """A row about a ratio; the goal is the least, or with `most` the largest, that is good."""
    found = ratios(values, others)
    middle = statistics.median(found)
    says = "" if goal is None else f"at {'most' if most else 'least'} {goal:g} x"
    met = None if goal is None else (middle <= goal if most else middle >= goal)
    numbers = " against ".join(
        f"{statistics.median(v):,.{digits}f}{unit}" for v in (values, others)
    )
    return Row(what, against, says, f"{middle:.2f} x ({numbers})", spread(found, " x"), met)


def at_most(
    what: str,
    against: str,
    values: Sequence[float],
    goal: Optional[float],
    unit: str,
    digits: int = 1,
) -> Row:
    """A row about a number that should be small."""
    middle = statistics.median(values)
    return Row(
        what,
        against,
        "" if goal is None else f"at most {goal:g} {unit}",
        f"{middle:.{digits}f} {unit}",
        spread(values, f" {unit}", digits),
        None if goal is None else middle <= goal,
    )
