"""One cell of the matrix: a reload under load, with one fault at one step of one process.

The process comes to the step, stops there and says so; then the fault is carried out, on it or
(where it does not come to this step itself) on its neighbour. Afterwards one process must serve
both listeners, having lost no request but those on connections that the killed process had
accepted; nothing else may be left; and the next reload must work.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from harness import TIMEOUT, Program, environment, get
from mixed_load import Clients
from processes import (
    connections,
    descriptors,
    kill,
    lift_limits,
    limit,
    remote_sockets,
    serving,
    wait_stopped,
    wait_until,
)

HERE = Path(__file__).resolve().parent
STOPPED = 2.0  # seconds
PEER_STOPPED = 0.3
MARGIN = 32 << 20  # bytes that a limit of memory leaves: the load's threads need some

# The steps, with the names that they have where the one who hands off and the one who is handed
# everything come to it; an empty one does not.
STEPS = {
    "signal": ("signal", ""),
    "hook": ("hook", ""),
    "channel opened": ("channel opened", "channel received"),
    "listeners sent": ("listeners sent", "listeners received"),
    "spawn": ("spawn", ""),
    "adopted": ("adopted heard", "adopted"),
    "ready": ("ready heard", "ready"),
    "stop accepting": ("stop accepting", ""),
    "migrating": ("migrating", "connections received"),
    "draining": ("draining", ""),
    "hammer": ("hammer", ""),
    "exec": ("exec", ""),
    "exit": ("exit", ""),
}
BEFORE_SPAWN = ["signal", "hook", "channel opened", "listeners sent"]
FAULTS = {
    "kill": "SIGKILL",
    "stop": f"SIGSTOP, {STOPPED:g} s",
    "raise": "exception",
    "exit": "`os._exit`",
    "full": "full pipe",
    "descriptors": "descriptor limit",
    "memory": "memory limit",
    "disk": "disk full",
    "slow": "slow start",
    "clock": "clock stepped",
}
DELAYS = ("stop", "full", "disk", "slow", "clock")
LIMITED = 0.7  # seconds until a limit of descriptors or memory is lifted again
STRIKES = ("kill", "stop")  # they can hit a process that is at no step itself


class Handoff(NamedTuple):
    """Who hands off to whom; inject.py's names for the two processes."""

    keep_pid: bool
    incumbent: str
    successor: str
    names: tuple[str, str]


HANDOFFS = {
    "reload": Handoff(False, "first", "second", ("incumbent", "successor")),
    "kept": Handoff(True, "first", "second", ("incumbent", "bridge")),
    "back": Handoff(True, "second", "third", ("bridge", "successor")),
}


class Cell(NamedTuple):
    handoff: str
    step: str
    fault: str
    victim: int  # 0: the one who hands off, 1: the other one

    def __str__(self) -> str:
        return f"{self.handoff}, {self.step}, {self.fault} of the {self.name}"

    @property
    def name(self) -> str:
        return HANDOFFS[self.handoff].names[self.victim]

    @property
    def struck(self) -> bool:
        """Whether the victim is hit while its neighbour is at the step."""
        return not STEPS[self.step][self.victim]

    @property
    def makes_sense(self) -> bool:
        if self.handoff == "back" and self.step in ("signal", "hook", "spawn", "exec", "hammer"):
            return False  # no signal begins it, and nothing is spawned
        if self.handoff == "reload" and self.step == "exec":
            return False
        if self.struck and (self.fault not in STRIKES or self.step in BEFORE_SPAWN):
            return False
        if self.fault == "full":  # there must be a channel, and a peer to stop
            early = [*BEFORE_SPAWN, "spawn"]
            return self.step not in (early if self.victim == 0 else BEFORE_SPAWN)
        return True

    @property
    def leaves_none(self) -> bool:
        """Whether nobody is left to serve: the last one, or the pid that is kept, was killed."""
        if self.fault not in ("kill", "exit"):
            return False
        if self.handoff == "reload":
            alone = BEFORE_SPAWN if self.victim == 0 else ["exit"]
            return self.step in alone
        return self.hits_kept_pid

    @property
    def hits_kept_pid(self) -> bool:
        return (self.handoff, self.victim) in (("kept", 0), ("back", 1))

    @property
    def may_leave_none(self) -> bool:
        """Whether the pid that is kept may end, so that a supervisor starts another one.

        Code that fails when it is started in place ends it, as after any crash.
        """
        if self.handoff == "kept":  # what is started in its place has the same limits
            return self.hits_kept_pid and self.fault in ("descriptors", "memory")
        starts = (*BEFORE_SPAWN, "adopted", "ready")
        fails = ("raise", "descriptors", "memory")
        return self.hits_kept_pid and self.fault in fails and self.step in starts


def all_cells() -> list[Cell]:
    cells = [Cell(h, s, f, v) for h in HANDOFFS for s in STEPS for f in FAULTS for v in (0, 1)]
    return [cell for cell in cells if cell.makes_sense]


class Outcome(NamedTuple):
    cell: Cell
    bad: str  # what is wrong; empty: nothing
    who: str  # who served afterwards
    excused: int  # requests lost with the process that handled them
    seconds: float
    log: str

    @property
    def text(self) -> str:
        if self.bad:
            return f"BAD {self.cell.name}"
        return self.who + (f", {self.excused} cut" if self.excused else "")


def run(cell: Cell) -> Outcome:
    """Run a cell; never raises."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fault-") as name:
        trial = Trial(cell, Path(name))
        bad = ""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                trial.run()
        except Exception as error:
            bad = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            if not isinstance(error, AssertionError):
                bad += f" at {error.__traceback__.tb_next and _where(error)}"
        log = "\n".join(trial.lines)
    return Outcome(cell, bad, trial.who, trial.excused, time.monotonic() - began, log)


def _where(error: BaseException) -> str:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback else "?"


class Trial:
    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell = cell
        self.folder = folder
        self.handoff = HANDOFFS[cell.handoff]
        self.who = "nobody"
        self.excused = 0
        self.lines: list[str] = []
        own, other = STEPS[cell.step][cell.victim], STEPS[cell.step][1 - cell.victim]
        at = (self.handoff.incumbent, self.handoff.successor)
        self.place = (at[cell.victim], own) if own else (at[1 - cell.victim], other)
        settings = {
            "keep_pid": self.handoff.keep_pid,
            "ready_timeout": 10,
            "keepalive_grace": 1,
            "drain_timeout": 0.3 if cell.step == "hammer" else 5,
        }
        (folder / "settings").write_text(json.dumps(settings))
        os.mkfifo(folder / "orders")
        self.orders = os.open(folder / "orders", os.O_RDWR)

    @contextlib.contextmanager
    def program(self, faults: bool) -> Iterator[Program]:
        path = os.pathsep.join([environment()["PYTHONPATH"], str(HERE)])
        more = {"PYTHONPATH": path, "MALLOC_ARENA_MAX": "1"}
        if faults:
            more |= {
                "ENDLESS_PY_FAULTS": "inject.at",
                "FAULT_FOLDER": str(self.folder),
                "FAULT_WHO": self.place[0],
                "FAULT_STEP": self.place[1],
            }
        command = [sys.executable, str(HERE / "served.py"), str(self.folder)]
        with Program(command=command, env=environment(**more)) as program:
            try:
                yield program
            finally:
                self.lines += program.lines

    def run(self) -> None:
        try:
            with self.program(faults=True) as program:
                self._run(program)
            if self.who == "nobody":
                self._starts_again()
        finally:
            os.close(self.orders)

    def _run(self, program: Program) -> None:
        old = program.wait_serving(0, 2)
        port = int(program.wait(r"serves tcp .*:(\d+); ")[1])
        # The pid file is written after the line that was waited for.
        wait_until((self.folder / "pid").exists, "a pid file")
        normal = wait_until(lambda: self._quiet(old), "no temporary file")
        opened: list[socket.socket] = []
        with Clients(port, patience=10) as clients:
            clients.wait_served(10)
            if self.cell.step == "hammer":
                opened.append(self._ask(port, "/hold"))
            if self.cell.step == "migrating":  # these are sure to be idle
                opened += [self._ask(port, "/") for _ in range(3)]
            os.kill(old, signal.SIGHUP)
            handled = self._place_fault(program, port, old)
            if self.cell.leaves_none:
                lost = len(clients.lost)  # from now on there is nobody
                program.wait_alone(None)
            else:
                state = wait_until(lambda: self._settled(program, port), "one process serves", 12)
                lost = len(clients.lost)
                if state["pid"]:
                    self._name(state, old)
                    clients.wait_served(10)
                    # Without a descriptor the successor refuses them; they end with the grace.
                    if self.cell.step == "migrating" and self.cell.fault != "descriptors":
                        self._ask_again([s for s in opened if s.getsockname()[1] not in handled])
        for sock in opened:
            sock.close()
        unexcused = [loss for loss in clients.lost if loss.port not in handled]
        if self.who == "nobody":
            self.excused = lost
            return
        assert not unexcused, f"lost: {'; '.join(map(str, unexcused))}"
        self.excused = len(clients.lost)
        self._nothing_left(program, state["pid"], normal)
        self._next_reload(program, port, state)

    @staticmethod
    def _quiet(pid: int) -> list[str]:
        found = descriptors(pid)
        return [] if any("pid" in Path(kind).name for kind in found) else found

    def _settled(self, program: Program, port: int) -> dict:
        if self.cell.may_leave_none and not program.pids() and program.process.poll() is not None:
            return {"pid": 0}
        state = serving(program, port, self.folder)
        # A mere delay prevents no reload.
        new = state.get("generation", 0) > 0 or self.cell.fault not in DELAYS
        return state if new else {}

    @staticmethod
    def _ask(port: int, path: str) -> socket.socket:
        """Return a connection on which an answer has at least begun."""
        asker = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        asker.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
        answer = asker.recv(1)
        while path == "/" and not answer.endswith(b"end"):
            answer += asker.recv(1000)
        return asker

    @staticmethod
    def _ask_again(askers: list[socket.socket]) -> None:
        for asker in askers:
            asker.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = asker.recv(1)
            while answer and not answer.endswith(b"end"):
                answer += asker.recv(1000)
            assert answer, "an idle connection was closed"

    # -- the fault --------------------------------------------------------

    def _place_fault(self, program: Program, port: int, old: int) -> set[int]:
        """Carry the fault out; return the connections that the killed process had."""
        found = program.wait(rf"at '{self.place[1]}': pid (\d+), descriptor (\d+)")
        here, free = int(found[1]), int(found[2])
        others = [pid for pid in program.pids() if pid != here]
        cell = self.cell
        victim = here
        if cell.struck:
            assert len(others) == 1, f"{others} beside {here}"
            victim = others[0]
        if cell.fault == "kill":
            handled = kill(victim, port)
            if victim != here:
                self._order("g")
            return handled
        if cell.fault == "stop":
            os.kill(victim, signal.SIGSTOP)
            self._order("g")
            time.sleep(STOPPED)
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
            time.sleep(PEER_STOPPED)
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
            time.sleep(LIMITED)
            lift_limits(program.pids())
        return set()

    def _order(self, letter: str) -> None:
        os.write(self.orders, letter.encode())

    # -- afterwards -------------------------------------------------------

    def _name(self, state: dict, old: int) -> None:
        new = state["generation"] > 0
        if self.handoff.keep_pid and new and state["pid"] != old:
            self.who = "bridge"
        else:
            self.who = "new" if new else "old"

    def _nothing_left(self, program: Program, pid: int, normal: list[str]) -> None:
        program.wait_alone(pid, timeout=5)
        wait_until(
            lambda: descriptors(pid) == normal,
            f"descriptors of {pid}: {descriptors(pid)} as {normal}",
            3,
        )
        names = {entry.name for entry in self.folder.iterdir()}
        expected = {"settings", "orders", "fired", "log", "pid", "socket"}
        left = {n for n in names - expected if not n.startswith("image-")}
        assert not left, f"left behind: {left}"
        assert remote_sockets() >= {str(pid)}
        self._pid_file(pid)

    def _pid_file(self, pid: int) -> None:
        wait_until(lambda: self._read_pid_file() == f"{pid}\n", f"{pid} in the pid file", 5)

    def _read_pid_file(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "pid").read_text()
        return ""

    def _next_reload(self, program: Program, port: int, before: dict) -> None:
        os.kill(before["pid"], signal.SIGHUP)

        def reloaded() -> dict:
            state = serving(program, port, self.folder)
            return state if state.get("generation", 0) > before["generation"] else {}

        state = wait_until(reloaded, "the next reload", 12)
        pid = state["pid"]
        assert (pid == before["pid"]) == self.handoff.keep_pid, f"{pid} after {before['pid']}"
        self._pid_file(pid)
        seen = set(program.pids())
        os.kill(pid, signal.SIGTERM)
        program.wait_alone(None, timeout=10)
        left = {entry.name for entry in self.folder.iterdir()} & {"pid", "socket"}
        assert not left, f"left behind after the end: {left}"
        assert not remote_sockets() & set(map(str, seen))

    def _starts_again(self) -> None:
        """Nobody serves: what a supervisor starts finds nothing in its way."""
        with self.program(faults=False) as program:
            pid = program.wait_serving(0, 2)
            assert get(self.folder / "socket").endswith("end")
            self._pid_file(pid)
            os.kill(pid, signal.SIGTERM)
            program.wait_alone(None, timeout=TIMEOUT)
