"""When a bridge has something to do, played without a process."""

import time
from types import SimpleNamespace

from endless_py._reload.bridge import Bridge


def bridge(waiting):
    """Return a bridge for which this predecessor waits, and whose program did not start."""
    process = SimpleNamespace(
        machine=SimpleNamespace(at_peace=True),
        predecessors=SimpleNamespace(waiting=lambda: waiting[0]),
    )
    report = SimpleNamespace(failed=lambda text: None, last=None)
    made = Bridge(process, None, None, report)
    made._put_off("it did not start")
    return made


def test_it_tries_again_for_as_long_as_somebody_waits():
    waiting = [SimpleNamespace(pid=7, say=lambda word, **fields: None)]
    made = bridge(waiting)
    assert made.deadline() > time.monotonic()
    waiting[0] = None  # killed by an operator: a moment that passes unused would be spun on
    assert made.deadline() is None
