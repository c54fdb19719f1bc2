"""start-or-reload writes its log to a file of its own, and to nothing else."""

from __future__ import annotations

import os

import pytest

from endless_py._control import launch
from endless_py._control.client import Deadline, Failed


@pytest.mark.parametrize("kind", ["symlink", "dangling symlink", "fifo", "folder"])
def test_a_log_path_that_is_no_file_is_refused_at_once(kind, tmp_path):
    log = tmp_path / "log"
    if kind == "symlink":
        (tmp_path / "other").write_text("mine")
        log.symlink_to("other")
    elif kind == "dangling symlink":
        log.symlink_to("other")
    elif kind == "fifo":
        os.mkfifo(log)
    else:
        log.mkdir()
    with pytest.raises(Failed, match=r"cannot write the log .*log: "):
        launch.start(str(tmp_path / "pid"), ["false"], str(log), Deadline(60))
    if kind == "fifo":  # somebody reads it: still not a file
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(Failed, match="it is not a regular file"):
            launch.start(str(tmp_path / "pid"), ["false"], str(log), Deadline(60))
        os.close(reader)
    if kind == "symlink":
        assert (tmp_path / "other").read_text() == "mine"
    assert not (tmp_path / "other").exists() or kind == "symlink"
