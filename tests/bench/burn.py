"""A handler that computes: so many turns of a loop, however long that takes meanwhile.

Not so much time: that would be over as soon where threads keep each other from running.
"""

import statistics
import time


def burn(turns):
    total = 0
    for number in range(turns):
        total += number % 7
    return total


def turns_in(seconds):
    """How many turns this interpreter does in that time, with nothing beside it."""
    turns = 10_000
    found = []
    for _ in range(21):
        start = time.thread_time()
        burn(turns)
        found.append(time.thread_time() - start)
    return max(1, int(turns * seconds / statistics.median(found)))
