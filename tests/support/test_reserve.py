"""The descriptors that are kept back, in a process that may open few."""

from __future__ import annotations

import os
import resource

import pytest

from endless_py._support.reserve import Reserve


@pytest.fixture
def few():
    """No descriptor more than sixty others, whatever this process has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(60)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, hard))
    fill(taken)  # in holes below
    for _ in range(60):
        os.close(taken.pop())
    yield taken
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def fill(taken):
    """Open whatever can be opened; return how many that were."""
    before = len(taken)
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return len(taken) - before


def test_it_is_there_when_all_else_is_used_up(few):
    reserve = Reserve()
    reserve.keep(True)
    assert fill(few) == 60 - reserve.size - 1
    assert not reserve.asks
    with reserve.lent():
        assert reserve.spares(reserve.size)
        assert not reserve.has_room()
        assert reserve.spares_a_reload()
    assert not reserve.spares(1)
    assert not reserve.asks
    reserve.keep(False)


def test_what_somebody_took_meanwhile_comes_back_first(few):
    reserve = Reserve()
    reserve.keep(True)
    fill(few)
    with reserve.lent():
        assert fill(few) == reserve.size
        assert not reserve.spares_a_reload()
    assert reserve.asks
    assert not reserve.has_room()
    for _ in range(reserve.size):
        os.close(few.pop())
    assert reserve.has_room()
    assert not reserve.asks
    assert not reserve.spares(1)
    reserve.keep(False)


def test_while_one_has_it_another_does_not_take_it_back(few):
    reserve = Reserve()
    reserve.keep(True)
    fill(few)
    with reserve.lent():
        with reserve.lent():
            pass
        assert reserve.spares(reserve.size)
    assert not reserve.spares(1)
    reserve.keep(False)


def test_it_leaves_most_to_a_process_that_may_open_very_few(few):
    fill(few)
    for _ in range(6):
        os.close(few.pop())
    reserve = Reserve()
    reserve.keep(True)
    assert reserve.size == 2
    assert not reserve.asks
    reserve.keep(False)
    assert reserve.spares(5)  # what they are duplicates of stays


def test_none_of_it_is_inherited_or_a_standard_stream():
    reserve = Reserve()
    before = set(os.listdir("/proc/self/fd"))
    reserve.keep(True)
    numbers = {int(name) for name in set(os.listdir("/proc/self/fd")) - before}
    assert len(numbers) >= reserve.size
    assert min(numbers) > 2
    open_ones = [number for number in numbers if os.path.exists(f"/proc/self/fd/{number}")]
    assert not any(map(os.get_inheritable, open_ones))
    reserve.keep(False)
