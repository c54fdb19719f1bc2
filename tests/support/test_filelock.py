"""The lock that says of a file that who wrote it lives."""

from __future__ import annotations

import contextlib
import os
import struct
import sys

import pytest

from endless_py._support import filelock

fcntl = pytest.importorskip("fcntl")


@pytest.fixture
def opened(tmp_path):
    """Open a file once more, for reading and writing if nothing else is said."""
    descriptors = []

    def once_more(flags=os.O_RDWR | os.O_CREAT):
        descriptors.append(os.open(tmp_path / "file", flags, 0o644))
        return descriptors[-1]

    yield once_more
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_one_open_file_has_it_until_its_last_descriptor_is_closed(opened):
    first, second = opened(), opened()
    assert filelock.is_held(second) is False
    assert filelock.acquire(first) is True
    assert filelock.acquire(first) is True
    assert filelock.acquire(second) is False
    assert filelock.is_held(second) is True
    handed_on = os.dup(first)
    os.close(first)
    os.close(opened())  # as a program does that reads its own pid file
    assert filelock.is_held(second) is True
    os.close(handed_on)
    assert filelock.is_held(second) is False
    assert filelock.acquire(second) is True


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere who may read may lock")
def test_who_may_only_read_the_file_cannot_pretend_to_own_it(opened):
    owner = opened()
    stranger = opened(os.O_RDONLY)
    assert filelock.acquire(stranger) is None
    lock = struct.pack("hhqqi", fcntl.F_RDLCK, 0, 0, 0, 0)
    fcntl.fcntl(stranger, fcntl.F_OFD_SETLK, lock)
    fcntl.flock(stranger, fcntl.LOCK_EX)
    assert filelock.is_held(opened()) is False
    assert filelock.acquire(owner) is None  # and nobody is said to have it


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), AttributeError()])
def test_without_locks_nothing_is_known(error, opened, monkeypatch):
    def none(*_):
        raise error

    monkeypatch.setattr(fcntl, "fcntl", none)
    monkeypatch.setattr(fcntl, "flock", none)
    assert filelock.acquire(opened()) is None
    assert filelock.is_held(opened()) is None
