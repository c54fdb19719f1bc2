"""The matrix: which steps there are, which faults, and which of them cannot meet."""

from __future__ import annotations

from typing import NamedTuple

# The steps, with the names that they have where the one who hands off and the one who is handed
# everything come to it; an empty one does not.
STEPS = {
    "signal": ("signal", ""),
    "hook": ("hook", ""),
    "channel opened": ("channel opened", "channel received"),
    "listeners sent": ("listeners sent", "listeners received"),
    "spawn": ("spawn", ""),
    "adopted": ("adopted heard", "adopted"),
    "fork server": ("", "fork server"),
    "fork worker": ("", "fork worker"),
    "ready": ("ready heard", "ready"),
    "stop accepting": ("stop accepting", ""),
    "migrating": ("migrating", "connections received"),
    "draining": ("draining", ""),
    "hammer": ("hammer", ""),
    "exec": ("exec", ""),
    "exit": ("exit", ""),
}
BEFORE_SPAWN = ["signal", "hook", "channel opened", "listeners sent"]
FORKS = ["fork server", "fork worker"]
BEFORE_WORKERS = [*BEFORE_SPAWN, "spawn", "adopted", *FORKS]
FAULTS = {
    "kill": "SIGKILL",
    "stop": "SIGSTOP",
    "raise": "exception",
    "exit": "`os._exit`",
    "full": "full pipe",
    "descriptors": "descriptor limit",
    "memory": "memory limit",
    "disk": "disk full",
    "slow": "slow start",
    "clock": "clock stepped",
    "worker": "SIGKILL of a worker",
    "leader": "SIGKILL of the leader",
    "fork": "fork fails",
}
WITH_WORKERS = ("worker", "leader", "fork")  # in a program that has some; all others have none
COUNT = 3  # of its workers
LIMITS = ("descriptors", "memory")  # these are told of where it forks, too
DELAYS = ("stop", "full", "disk", "slow", "clock", "worker")  # these prevent no reload
STRIKES = ("kill", "stop", "worker", "leader")  # they can hit a process that is at no step itself
# Where a kept pid makes a difference to a program with workers.
KEPT = ("adopted", "fork worker", "ready", "draining", "exec", "exit")


class Handoff(NamedTuple):
    """Who hands off to whom."""

    keep_pid: bool
    leads: int  # 0, 1: which one has the pid of the process that was there before the reload
    names: tuple[str, str]


HANDOFFS = {
    "reload": Handoff(False, 0, ("incumbent", "successor")),
    "kept": Handoff(True, 0, ("incumbent", "bridge")),
    "back": Handoff(True, 1, ("bridge", "successor")),
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
    def place(self) -> tuple[str, bool]:
        """The step's name where it is taken, and whether the process from before takes it."""
        who = 1 - self.victim if self.struck else self.victim
        return STEPS[self.step][who], HANDOFFS[self.handoff].leads == who

    @property
    def why_not(self) -> str:
        """Why there is nothing to try here; empty: there is."""
        if self.handoff == "back" and self.step in ("signal", "hook", "spawn", "exec"):
            return "the kept pid's end begins it: no signal, no hook, and nothing is started"
        if self.handoff == "reload" and self.step == "exec":
            return "only a kept pid starts its program anew in place"
        if self.step in FORKS and not self.workers > 1:
            return "only a program with workers comes to it, and a limit alone tells something new"
        if self.struck and self.step in BEFORE_SPAWN:
            return "the one to be started is not there yet"
        if self.struck and self.fault not in STRIKES:
            return "the other one does not come to this step; signals alone can hit it there"
        early = [*BEFORE_SPAWN, "spawn"] if self.victim == 0 else BEFORE_SPAWN
        if self.fault == "full" and self.step in early:
            return "nobody is at the channel's other end yet who could leave it full"
        if self.workers > 1 and self.handoff != "reload" and self.step not in KEPT:
            return "as in the first table: that the pid is kept makes no difference to workers here"
        return self._why_no_worker if self.fault == "worker" else self._why_no_fork

    @property
    def _why_no_worker(self) -> str:
        early = self.victim == 1 and self.step in BEFORE_WORKERS
        late = self.victim == 0 and self.step in ("hammer", "exec", "exit")
        return "it has no workers yet, or no more" if early or late else ""

    @property
    def _why_no_fork(self) -> str:
        """Why nothing is forked next, by the one at the step, that could fail."""
        if self.fault != "fork":
            return ""
        if self.handoff == "kept":
            again = self.victim == 1 or self.step != "exec"
            return "as in the first table, or in the third" if again else ""
        if self.victim == 0 and self.step == "spawn":
            return "the one that is started forks next: see there"
        if self.victim == 0 and self.step not in BEFORE_SPAWN:
            return "what drains, or is just about to, forks nothing"
        return ""

    @property
    def kills_worker(self) -> bool:
        """Whether nobody would fork before a worker is to be replaced."""
        late = self.step in ("ready", "migrating")
        return self.fault == "worker" or (self.fault == "fork" and late)

    @property
    def drains_workers(self) -> bool:
        """Whether a worker is to be killed that ends as soon as it has nothing to finish."""
        late = self.step in ("stop accepting", "draining", "migrating")
        return self.fault == "worker" and self.victim == 0 and late

    @property
    def workers(self) -> int:
        """How many processes of each generation serve."""
        forks = self.step in FORKS and self.fault in LIMITS
        return COUNT if self.fault in WITH_WORKERS or forks else 1

    @property
    def leaves_none(self) -> bool:
        """Whether nobody is left to serve: the last one was killed."""
        if self.fault not in ("kill", "exit", "leader"):
            return False
        if self.victim == 0:
            return self.handoff != "back" and self.step in BEFORE_SPAWN
        return self.handoff != "kept" and self.step == "exit"

    @property
    def waits_for_ready_timeout(self) -> bool:
        """Whether a limit may end a server in a thread of what is started in place."""
        kept_pid = (self.handoff, self.victim) in (("kept", 0), ("back", 1))
        return kept_pid and self.fault in ("descriptors", "memory")


def every_cell() -> list[Cell]:
    return [Cell(h, s, f, v) for h in HANDOFFS for s in STEPS for f in FAULTS for v in (0, 1)]


def all_cells() -> list[Cell]:
    """Return those that can be tried."""
    return [cell for cell in every_cell() if not cell.why_not]


def share(cells: list[Cell], number: int, of: int) -> list[Cell]:
    """Return one of so many shares, counted from 1, each with cells of every row and column.

    Neighbours are the two victims of one fault, so it goes across.
    """
    return [cell for i, cell in enumerate(cells) if (i + i // of) % of == number - 1]
