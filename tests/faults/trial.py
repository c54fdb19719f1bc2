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
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from cells import DELAYS, HANDOFFS, Cell
from harness import TIMEOUT, Program, get, rests
from mixed_load import Clients
from processes import (
    descriptors,
    lasting_surplus,
    remote_sockets,
    serving,
    wait_for_team,
    wait_until,
)
from strike import Striker

READY_TIMEOUT = 60  # seconds


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


def read_pid_file(folder: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return (folder / "pid").read_text()
    return ""


def quiet(pid: int) -> list[str]:
    """Return the kinds of a process's descriptors, empty while it still opens and closes some."""
    looks = []
    for _ in range(5):
        looks.append(descriptors(pid))
        time.sleep(0.02)
    busy = any(Path(kind).name.startswith(".pid") for kind in looks[0])
    return [] if busy or looks.count(looks[0]) < len(looks) else looks[0]


class Trial:
    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell = cell
        self.folder = folder
        self.handoff = HANDOFFS[cell.handoff]
        self.who = "ends"
        self.excused = 0
        self.lines: list[str] = []
        settings = {
            "workers": cell.workers,
            "keep_pid": self.handoff.keep_pid,
            "ready_timeout": READY_TIMEOUT,  # longer than anything here waits, on a busy machine
            "keepalive_grace": 1,
            "drain_timeout": 1 if cell.step == "hammer" else 60,
        }
        (folder / "settings").write_text(json.dumps(settings))
        self.striker = Striker(folder)

    def run(self) -> None:
        try:
            with self.striker.program() as program:
                try:
                    self._run(program)
                finally:
                    self.lines += program.lines
            if self.who == "ends":
                self._starts_again()
        finally:
            self.striker.close()

    def _run(self, program: Program) -> None:
        cell, striker = self.cell, self.striker
        old = program.wait_serving(0, 2)
        port = int(program.wait(r"serves tcp .*:(\d+); ")[1])
        # The pid file is written after the line that was waited for.
        wait_until((self.folder / "pid").exists, "a pid file")
        pids = [old, *(wait_for_team(old, program)[1] if cell.workers > 1 else [])]
        normal = [wait_until(lambda p=pid: quiet(p), "no temporary file") for pid in pids[:2]]
        opened: list[socket.socket] = []
        with Clients(port) as clients:
            clients.wait_served(10)
            if cell.step == "hammer" and cell.handoff != "back":
                # With workers each of them has one.
                opened += [self._ask(port, "/hold") for _ in range(cell.workers)]
            if cell.step == "migrating":  # these are sure to be idle
                opened += [self._ask(port, "/") for _ in range(3)]
            if cell.drains_workers:  # one of them is still there to be killed
                opened += [self._ask(port, "/slow?6") for _ in range(3 * cell.workers)]
            striker.place(cell, old)
            os.kill(old, signal.SIGHUP)
            if cell.step == "hammer" and cell.handoff == "back":
                program.wait("finishing ")
                opened.append(self._ask(port, "/hold"))  # only the bridge can take it
            handled = striker.carry_out(cell, program, port)
            if cell.leaves_none:
                program.wait_alone(None)
            else:
                seconds = 1.5 * READY_TIMEOUT if cell.waits_for_ready_timeout else TIMEOUT
                state = wait_until(
                    lambda: self._settled(program, port), "one process serves", seconds
                )
                self._name(state, old)
                clients.wait_served(10)
                # Without a descriptor the successor refuses them, and what a leader's workers
                # have has nowhere to go without it; they end with the grace.
                if cell.step == "migrating" and cell.fault not in ("descriptors", "leader"):
                    self._ask_again([s for s in opened if s.getsockname()[1] not in handled])
        for sock in opened:
            sock.close()
        if self.who == "ends":
            return
        unexcused = [loss for loss in clients.lost if loss.port not in handled]
        assert not unexcused, f"lost: {'; '.join(map(str, unexcused))}"
        self.excused = len(clients.lost)
        self._nothing_left(program, state, normal)
        self._next_reload(program, port, state)

    def _settled(self, program: Program, port: int) -> dict:
        state = serving(program, port, self.folder)
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

    # -- afterwards -------------------------------------------------------

    def _name(self, state: dict, old: int) -> None:
        new = state["generation"] > 0
        if self.handoff.keep_pid and new and state["pid"] != old:
            self.who = "bridge"
        else:
            self.who = "new" if new else "old"

    def _nothing_left(self, program: Program, state: dict, normal: list[list[str]]) -> None:
        pid, pids = state["pid"], state["pids"]
        for number, each in enumerate(pids):
            usual = normal[min(number, 1)]
            more = lasting_surplus(each, usual)
            assert not more, f"descriptors of worker {number}: {more} more than {usual}"
        names = {entry.name for entry in self.folder.iterdir()}
        left = names - {"settings", "orders", "log", "pid", "socket"}
        assert not left, f"left behind: {left}"
        assert remote_sockets() >= {str(pid)}
        self._pid_file(pid)
        for each in program.pids():
            wait_until(lambda p=each: rests(p), f"pid {each} rests when nobody asks it anything")

    def _pid_file(self, pid: int) -> None:
        wait_until(lambda: read_pid_file(self.folder) == f"{pid}\n", f"{pid} in the pid file")

    def _next_reload(self, program: Program, port: int, before: dict) -> None:
        os.kill(before["pid"], signal.SIGHUP)

        def reloaded() -> dict:
            state = serving(program, port, self.folder)
            return state if state.get("generation", 0) > before["generation"] else {}

        state = wait_until(reloaded, "the next reload")
        pid = state["pid"]
        assert (pid == before["pid"]) == self.handoff.keep_pid, f"{pid} after {before['pid']}"
        self._pid_file(pid)
        seen = set(program.pids())
        os.kill(pid, signal.SIGTERM)
        program.wait_alone(None)
        left = {entry.name for entry in self.folder.iterdir()} & {"pid", "socket"}
        assert not left, f"left behind after the end: {left}"
        assert not remote_sockets() & set(map(str, seen))

    def _starts_again(self) -> None:
        """Nobody serves: what a supervisor starts finds nothing in its way."""
        with self.striker.program(faults=False) as program:
            pid = program.wait_serving(0, 2)
            assert get(self.folder / "socket").endswith("end")
            self._pid_file(pid)
            os.kill(pid, signal.SIGTERM)
            program.wait_alone(None)
