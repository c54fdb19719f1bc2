"""Many reloads at random moments under the mixed load, with random faults, all from one seed.

Each one keeps the pid or not and starts one, two or three workers, by chance, and is one of: a
plain reload; a cell of the matrix; a storm of HUPs, after which the code that serves must be
younger than the last of them; a process, or a worker, killed or stopped at any moment. The last
reload leads to as many workers as there were at first, so that the two can be compared. Faults that
end the last process, or the pid that is kept, are left to the matrix, since nobody would serve
until a supervisor's restart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from cells import COUNT, DELAYS, Cell, all_cells
from harness import TIMEOUT, Program, get, rests
from mixed_load import Clients, Loss
from processes import (
    descriptors,
    has_ended,
    kill,
    lasting_surplus,
    leaders,
    memory,
    remote_sockets,
    serving,
    team,
    wait_for_team,
    wait_until,
)
from strike import Striker
from trial import READY_TIMEOUT, quiet, read_pid_file

SETTLED = 60.0  # seconds that a reload may take, fault included
DRAIN, HAMMER = 60.0, 1.0  # seconds: drain_timeout, and the one where it is to run out
CELLS = [cell for cell in all_cells() if not cell.leaves_none]
KINDS = ("plain", "cell", "storm", "kill", "stop", "worker")
WEIGHTS = (4, 8, 1, 1, 1, 2)
WORKERS = (1, 2, COUNT)  # one of these


class Plan(NamedTuple):
    """What happens around one order to reload.

    keep_pid and workers are for the generation that it starts.
    """

    kind: str
    cell: Cell
    keep_pid: bool
    workers: int
    pauses: list[float]  # seconds: before the first HUP, then until what comes next

    def __str__(self) -> str:
        return str(self.cell) if self.kind == "cell" else self.kind


def draw(seed: int, number: int, keeps_pid: bool, has_workers: bool) -> Plan:
    """Return the plan for this order, given what is so of the generation that gets it."""
    dice = random.Random(f"{seed}/{number}")
    kind = dice.choices(KINDS, WEIGHTS)[0]
    workers = dice.choice(WORKERS)
    both = has_workers and workers > 1
    own = [cell for cell in CELLS if (cell.handoff != "reload") == keeps_pid]
    own = [cell for cell in own if cell.workers == 1 or both]
    pauses = [dice.uniform(0, 0.1), *(dice.uniform(0, 0.3) for _ in range(dice.randint(1, 4)))]
    return Plan(kind, dice.choice(own), dice.random() < 0.4, workers, pauses)


class Soak:
    """The run of one seed. Attributes are what it prints."""

    def __init__(self, seed: int, reloads: int, folder: Path, log: bool = False) -> None:
        self.seed, self.wanted, self.folder, self.log = seed, reloads, folder, log
        self.orders = self.reloads = 0
        self.bad: list[str] = []
        self.descriptors: list[int] = []  # first, largest, last
        self.memory: list[int] = []  # KiB; first and last generation
        self.excused = 0
        self.left = 0
        # A client's port (in so many connections one comes again): between which moments the
        # process that had its connection was killed.
        self._killed: dict[int, list[tuple[float, float]]] = {}
        self._seen: set[int] = set()
        self._striker = Striker(folder, stopped=0.3, full=0.2, limited=0.3, slow=0.3)
        self._settings(False, COUNT, DRAIN)

    def _settings(self, keep_pid: bool, workers: int, drain_timeout: float) -> None:
        given = {"keep_pid": keep_pid, "workers": workers, "drain_timeout": drain_timeout}
        given |= {"ready_timeout": READY_TIMEOUT, "keepalive_grace": 1}
        (self.folder / "settings").write_text(json.dumps(given))

    def run(self) -> None:
        with contextlib.closing(self._striker), self._striker.program() as program:
            try:
                self._run(program)
            except Exception as error:
                self.bad.append(f"{type(error).__name__}: {error}")
            if self.bad:
                self.bad.append("the last lines of its log:\n" + "\n".join(program.lines[-40:]))

    def _run(self, program: Program) -> None:
        program.wait_serving(0, 2)
        port = int(program.wait(r"serves tcp .*:(\d+); ")[1])
        wait_until((self.folder / "pid").exists, "a pid file")
        pids = [program.pid, *wait_for_team(program.pid, program)[1]]
        normal = [wait_until(lambda p=pid: quiet(p), "no temporary file") for pid in pids[:2]]
        self.descriptors = [len(normal[0])] * 3
        with Clients(port) as self.clients:
            self.clients.wait_served(100)
            state = wait_until(lambda: serving(program, port, self.folder), "workers")
            self.memory = [self._memory(program)] * 2
            while self.reloads < self.wanted:
                self.orders += 1
                plan = draw(self.seed, self.orders, state["keep_pid"], state["wanted"] > 1)
                if self.reloads == self.wanted - 1:
                    plan = plan._replace(kind="plain", keep_pid=False, workers=COUNT)
                try:
                    state = self._order(plan, state, program, port)
                except Exception as error:
                    raise AssertionError(f"order {self.orders}, {plan}: {error}") from error
                self.reloads = state["generation"]
            self.clients.wait_served(100)
            self.memory[1] = self._memory(program)
        self._end(program, state["pids"], normal)

    @staticmethod
    def _memory(program: Program) -> int:
        """Return what all its processes use, what they share counted once."""
        return sum(memory(pid)[0] for pid in program.pids())

    # -- one order to reload ----------------------------------------------

    def _order(self, plan: Plan, before: dict, program: Program, port: int) -> dict[str, Any]:
        began, after = time.monotonic(), len(program.lines)
        opened: list[socket.socket] = []
        hammer = plan.kind == "cell" and plan.cell.step == "hammer"
        back = plan.cell.handoff == "back"
        self._set_drain(port, HAMMER if hammer and not back else DRAIN, before["pids"])
        self._settings(plan.keep_pid, plan.workers, HAMMER if hammer and back else DRAIN)
        if plan.kind == "cell":
            if hammer and not back:
                opened += [self._ask(port, "/hold") for _ in before["pids"]]
            elif plan.cell.step == "migrating":
                opened += [self._ask(port, "/") for _ in range(3)]
            if plan.cell.drains_workers:  # one of them is still there to be killed
                opened += [self._ask(port, "/slow?6") for _ in range(3 * len(before["pids"]))]
            self._striker.place(plan.cell, before["pid"])
        time.sleep(plan.pauses[0])
        last = time.monotonic()
        os.kill(before["pid"], signal.SIGHUP)
        succeeds = True
        if plan.kind == "cell":
            if hammer and back:
                for pid in before["pids"]:  # a worker accepts until it is told as well
                    program.wait(rf"\[{pid}\] .*finishing ", after)
                opened.append(self._ask(port, "/hold"))
            ports = self._striker.carry_out(plan.cell, program, port, after)
            self._note_killed(ports, last)
            succeeds = plan.cell.fault in DELAYS
        elif plan.kind == "storm":
            last = self._storm(plan, program)
        elif plan.kind != "plain":
            succeeds = self._strike(plan, before, program, port)

        def settled() -> dict[str, Any]:
            state = serving(program, port, self.folder)
            # One that has just got the last HUP, and has not taken it yet, is older than that.
            new = state.get("generation", 0) > before["generation"] and state["started"] > last
            return state if new or not succeeds else {}

        what = "younger than the last HUP, " if succeeds else ""
        waits = plan.kind == "cell" and plan.cell.waits_for_ready_timeout
        state = wait_until(
            settled,
            f"one process serves, {what}and no other is left",
            SETTLED + READY_TIMEOUT * waits,
        )
        for sock in opened:
            sock.close()
        self._look(state)
        if self.log:
            seconds = time.monotonic() - began
            done = "done" if state["generation"] > before["generation"] else "given up"
            print(f"{seconds:5.1f} s {self.orders}, {plan}: {done}", flush=True)
        return state

    @staticmethod
    def _set_drain(port: int, seconds: float, pids: list[int]) -> None:
        """Tell each process; a client is let in by any of them."""
        left = set(pids)

        def told() -> bool:
            left.discard(int(get(port, f"/drain?{seconds}").split()[1]))
            return not left

        wait_until(told, f"an answer of {pids}")

    @staticmethod
    def _ask(port: int, path: str) -> socket.socket:
        """Return a connection on which an answer has begun."""
        asker = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        asker.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
        asker.recv(1)
        return asker

    def _storm(self, plan: Plan, program: Program) -> float:
        """Send more HUPs, as an operator would; return when the last one was sent."""
        last = 0.0
        for pause in plan.pauses[1:]:
            time.sleep(pause)
            pid = int(read_pid_file(self.folder) or 0)
            if pid in program.pids() and not has_ended(pid):
                sent = time.monotonic()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGHUP)
                    last = sent
        return last

    def _strike(self, plan: Plan, before: dict, program: Program, port: int) -> bool:
        """Kill or stop a process at a random moment; whether the reload must succeed."""
        time.sleep(plan.pauses[1])
        began = time.monotonic()
        old = before["pid"]
        others = [pid for pid in leaders(program) if pid != old]
        if plan.kind == "worker":
            own = team(old, program)[1]
            victims = own + [pid for other in others for pid in team(other, program)[1]]
            if not victims:
                return True
            victim = victims[int(plan.pauses[0] * 1000) % len(victims)]
            self._note_killed(kill(victim, port), began)
            return victim in own  # that of a successor may fail it
        if plan.kind == "stop":
            victim = (others or [old])[0]
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGSTOP)
                time.sleep(plan.pauses[-1])
                os.kill(victim, signal.SIGCONT)
            return True
        if not others:
            return True  # there is no other one yet, or no more
        # The pid that is kept must live; any other one must not matter, once it has a successor.
        if before["keep_pid"]:
            self._note_killed(kill(others[0], port), began)
            return False
        if not has_ended(old):
            self._note_killed(kill(old, port), began)
        return True

    # -- what came of it --------------------------------------------------

    def _note_killed(self, ports: set[int], since: float) -> None:
        for port in ports:
            self._killed.setdefault(port, []).append((since, time.monotonic()))

    def _look(self, state: dict) -> None:
        pid = state["pid"]
        self._seen.add(pid)
        with contextlib.suppress(FileNotFoundError):  # a worker that was killed late
            most = max(len(descriptors(each)) for each in state["pids"])
            self.descriptors[1] = max(self.descriptors[1], most)
        wait_until(lambda: read_pid_file(self.folder) == f"{pid}\n", "the pid file")
        left = {entry.name for entry in self.folder.iterdir()}
        left -= {"settings", "orders", "log", "pid", "socket"}
        assert not left, f"left behind: {left}"
        lost = self._lost()
        assert not lost, f"lost: {'; '.join(map(str, lost))}"
        self.clients.wait_served(3)

    def _lost(self) -> list[Loss]:
        """Return what was lost although nobody killed the process that had it."""
        lost = list(self.clients.lost)
        found = []
        for loss in lost:
            killed = self._killed.get(loss.port, ())
            if not any(since <= loss.when and loss.opened <= until for since, until in killed):
                found.append(loss)
        self.excused = len(lost) - len(found)
        return found

    def _end(self, program: Program, pids: list[int], normal: list[list[str]]) -> None:
        pid = pids[0]
        for number, each in enumerate(pids):
            more, usual = lasting_surplus(each, normal[min(number, 1)]), normal[min(number, 1)]
            if more:
                self.bad.append(f"descriptors of worker {number}: {more} more than {usual}")
        self.descriptors[2] = len(descriptors(pid))
        lost = self._lost()
        if lost:
            self.bad.append(f"lost: {'; '.join(map(str, lost))}")
        for each in program.pids():
            wait_until(lambda p=each: rests(p), f"pid {each} rests when nobody asks it anything")
        os.kill(pid, signal.SIGTERM)
        try:
            program.wait_alone(None)
        except AssertionError:
            self.left = len(program.pids())
            self.bad.append(f"processes left: {program.pids()}")
        files = {entry.name for entry in self.folder.iterdir()} & {"pid", "socket"}
        if files:
            self.bad.append(f"left behind after the end: {files}")
        if remote_sockets() & set(map(str, self._seen)):
            self.bad.append("sockets for commands are left")

    def line(self, seconds: float) -> str:
        """Return all of it in one line."""
        first, largest, last = self.descriptors
        before, after = (f"{kib / 1024:.1f} MB" for kib in self.memory)
        return (
            f"{self.reloads} reloads done in {self.orders} orders, "
            f"{self.clients.served} requests served, {len(self._lost())} lost, "
            f"{self.excused} cut with the process that was killed, "
            f"{self.clients.closed} connections closed with a word; "
            f"descriptors: {first} at first, {largest} under load, {last} at last; "
            f"memory: {before} in the first generation, {after} in the last, workers included; "
            f"{self.left} processes left; seed {self.seed}, {seconds:.0f} s, "
            f"CPython {platform.python_version()}, {os.cpu_count()} cores"
        )


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python tests/faults soak", description=__doc__)
    parser.add_argument("--reloads", type=int, default=1000, metavar="N", help="so many (1000)")
    parser.add_argument("--seed", type=int, metavar="N", help="of an earlier run (a new one)")
    parser.add_argument("--log", action="store_true", help="say each order as it was carried out")
    given = parser.parse_args(words)
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(
        f"the same again: python tests/faults soak --reloads {given.reloads} --seed {seed}",
        flush=True,
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        soak = Soak(seed, given.reloads, Path(name), given.log)
        soak.run()
    for text in soak.bad:
        print(f"BAD: {text}")
    print(soak.line(time.monotonic() - began))
    return 1 if soak.bad else 0
