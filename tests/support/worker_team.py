"""What tests of several processes of one generation ask of them."""

from __future__ import annotations

import json

from harness import get, until


def state(address):
    return json.loads(get(address, "/state"))


def workers(address):
    """Return the pids of the workers, the leader's first."""
    return [worker["pid"] for worker in state(address)["workers"]]


def leader_of(address, generation):
    found = state(address)
    return found["workers"][0]["pid"] if found["generation"] == generation else None


def all_answer(address, count=3):
    """Wait until each of so many processes has answered; return what they said."""
    return until(lambda: len(found := {get(address) for _ in range(9)}) == count and found)


def wait_settled(program, pid, count=3):
    """Wait until this generation's processes are all that is left: its workers, its fork server."""

    def settled():
        program.process.poll()
        found = program.pids()
        return found if pid in found and len(found) == count + 1 else None

    return until(settled)
