"""Placing a fault at a step of a running program, and carrying it out there."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cells import Cell
from harness import Program, environment
from processes import (
    connections,
    kill,
    leaders,
    lift_limits,
    limit,
    team,
    wait_for_team,
    wait_stopped,
    wait_until,
)

HERE = Path(__file__).resolve().parent
HELD = 0.6  # seconds that a step lasts after its neighbour's death: what comes next is overdue
MARGIN = 32 << 20  # bytes that a limit of memory leaves: the load's threads need some


def beside(here: int, program: Program) -> list[int]:
    """Return the other generations' processes: their leaders, where there are workers.

    Without those in the middle of an exec or of their end.
    """
    found = []
    for pid in leaders(program):
        with contextlib.suppress(OSError):  # it has just ended
            if pid != here and Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


class Striker:
    """Faults in the program that serves from a folder.

    Seconds: stopped, that a process is under SIGSTOP; full, that nobody reads the full pipe;
    limited, until a limit is lifted again; slow, that a slow step takes.
    """

    def __init__(
        self,
        folder: Path,
        stopped: float = 2.0,
        full: float = 0.3,
        limited: float = 0.7,
        slow: float = 1.0,
    ) -> None:
        self.folder = folder
        self._stopped, self._full, self._limited, self._slow = stopped, full, limited, slow
        os.mkfifo(folder / "orders")
        self._orders = os.open(folder / "orders", os.O_RDWR)

    def close(self) -> None:
        os.close(self._orders)

    @contextlib.contextmanager
    def program(self, faults: bool = True) -> Iterator[Program]:
        """Start the program to which faults happen, or the same without."""
        path = os.pathsep.join([environment()["PYTHONPATH"], str(HERE)])
        more = {"PYTHONPATH": path, "MALLOC_ARENA_MAX": "1"}
        if faults:
            more |= {"ENDLESS_PY_FAULTS": "inject.at", "FAULT_FOLDER": str(self.folder)}
        words = [str(HERE / "served.py"), str(self.folder)]
        with Program(command=[sys.executable, *words], env=environment(**more)) as program:
            yield program

    def place(self, cell: Cell, old: int) -> None:
        """Have the fault wait for its process to come to its step; old serves before the reload."""
        step, leads = cell.place
        body = {"step": step, "pid": old, "other": not leads, "slow": self._slow}
        (self.folder / "place.new").write_text(json.dumps(body))
        (self.folder / "place.new").rename(self.folder / "place")

    def carry_out(self, cell: Cell, program: Program, port: int, after: int = 0) -> set[int]:
        """Wait for the process, do it; return the clients' ports that the killed process had.

        after is the number of the program's lines before the fault was placed.
        """
        found = program.wait(rf"at '{cell.place[0]}': pid (\d+), descriptor (\d+)", after)
        here, free = int(found[1]), int(found[2])
        others = beside(here, program)
        victim = here
        if cell.struck:
            if cell.place[0] == "spawn":  # it is on its way
                wait_until(lambda: len(beside(here, program)) == 1, "a successor")
                others = beside(here, program)
            assert len(others) == 1, f"{others} beside {here}"
            victim = others[0]
        if cell.fault == "fork":
            return self._no_forks(cell, here, program, port)
        if cell.fault in ("kill", "leader", "worker"):
            if cell.fault == "worker":
                victim = wait_for_team(victim, program)[1][0]
            handled = kill(victim, port)
            if victim != here:
                time.sleep(HELD)
                self._order("g")
            return handled
        if cell.fault == "stop":
            os.kill(victim, signal.SIGSTOP)
            self._order("g")
            time.sleep(self._stopped)
            os.kill(victim, signal.SIGCONT)
        elif cell.fault == "exit":
            self._order("x")
            wait_stopped(here)
            handled = connections(here, port)
            os.kill(here, signal.SIGCONT)
            return handled
        elif cell.fault == "full":
            for pid in others:
                os.kill(pid, signal.SIGSTOP)
            self._order("f")
            time.sleep(self._full)
            for pid in others:
                os.kill(pid, signal.SIGCONT)
        elif cell.fault == "descriptors":
            limit(here, resource.RLIMIT_NOFILE, free)
            self._order("g")
        elif cell.fault == "memory":
            size = int(Path(f"/proc/{here}/statm").read_text().split()[0])
            limit(here, resource.RLIMIT_AS, size * resource.getpagesize() + MARGIN)
            self._order("m")
        elif cell.fault == "disk":
            limit(here, resource.RLIMIT_FSIZE, 0)
            self._order("g")
        else:
            self._order({"raise": "r", "slow": "s", "clock": "c"}[cell.fault])
        if cell.fault in ("descriptors", "memory", "disk"):
            time.sleep(self._limited)
            lift_limits(program.pids())
        return set()

    def _no_forks(self, cell: Cell, here: int, program: Program, port: int) -> set[int]:
        """Have forks fail, until after one has."""
        refusal, handled, after = self.folder / "no-forks", set(), len(program.lines)
        forks, workers = team(here, program)
        refusal.touch()
        if cell.kills_worker:
            handled = kill(workers[0], port)
        self._order("n")
        program.wait(rf"no fork: pid {forks if cell.kills_worker else ''}", after)
        time.sleep(self._limited)
        refusal.unlink()
        return handled

    def _order(self, letter: str) -> None:
        os.write(self._orders, letter.encode())
