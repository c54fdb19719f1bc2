"""python -m endless_py upgrade, what status says of it, and --watch."""

from __future__ import annotations

import json
import os
import sys

import pytest
from apps import zipapp
from commands import command
from harness import Program, environment, first, get

UPDATE = """
from endless_py import upgrade
upgrade.Updater(upgrade.FileSource("new.pyz"), sys.argv[0], interval=3600, keep=2).start()
"""


@pytest.mark.parametrize("keep_pid", first(["", "1"], 0), ids=["new pid", "kept pid"])
def test_a_server_looks_when_it_is_asked(keep_pid, tmp_path):
    (tmp_path / "app.pyz").write_bytes(zipapp("1.0", UPDATE))
    (tmp_path / "new.pyz").write_bytes(zipapp("1.0", UPDATE))
    env = environment(KEEP_PID=keep_pid)
    words = [sys.executable, "app.pyz"]
    with Program(command=words, cwd=tmp_path, env=env) as program:
        pid = program.wait_serving()
        status, output, errors = command("upgrade", pid)
        assert (status, errors) == (0, "")
        assert output.startswith("unchanged: nothing new at ")
        (tmp_path / "new.pyz").write_bytes(zipapp("1.1", UPDATE))
        status, output, _ = command("upgrade", "--check-only", pid)
        assert status == 0
        assert output.startswith("available: version 1.1 from ")
        assert get(program.port) == "1.0 end"
        status, output, errors = command("upgrade", pid)
        assert (status, errors) == (0, "")
        assert output.startswith("upgraded: version 1.1 from ")
        assert get(program.port) == "1.1 end"
        line = program.wait(r"\[(\d+)\] generation 1: generation .* has ended")
        pid = int(line[1])
        program.wait_alone(pid)
        (tmp_path / "new.pyz").write_bytes(zipapp("1.2", UPDATE + "raise OSError('no luck')"))
        status, output, errors = command("upgrade", pid)
        assert (status, output) == (1, "")
        assert "refused: version 1.2 from " in errors
        assert "no luck" in errors
        status, output, _ = command("status", pid)
        assert "upgrade: version 1.1, from " in output
        assert "last look: " in output
        assert "no luck" in output
        found = json.loads(command("status", "--json", pid)[1])["generations"][0]["upgrade"]
        assert (found["version"], found["last_look"]["result"]) == ("1.1", "refused")
        assert get(program.port) == "1.1 end"
        program.stop(pid)


def test_a_server_without_an_updater_says_so(tmp_path):
    (tmp_path / "app.pyz").write_bytes(zipapp("1.0"))
    with Program(command=[sys.executable, "app.pyz"], cwd=tmp_path) as program:
        pid = program.wait_serving()
        status, output, errors = command("upgrade", pid)
        assert (status, output) == (1, "")
        assert "this program has no Updater" in errors
        program.stop(pid)


@pytest.mark.slow
def test_the_folder_server_reloads_when_what_it_watches_changes(tmp_path):
    watched = tmp_path / "watched"
    watched.write_text("one")
    words = [sys.executable, "-m", "endless_py", "0", "-b", "127.0.0.1", "--watch", watched.name]
    with Program(command=words, cwd=tmp_path) as program:
        pid = program.wait_serving()
        for generation, text in enumerate(("two", "three"), start=1):
            (tmp_path / "new").write_text(text)
            os.replace(tmp_path / "new", watched)
            pid = program.wait_serving(generation)
            program.wait_alone(pid)
            program.wait("watch: .*watched has changed; reloads")
        program.stop(pid)


@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_wrong_interval_is_one_clear_line(value, tmp_path):
    status, _, errors = command("0", "--watch", tmp_path, "--watch-interval", value)
    assert status == 1
    assert "interval and settle must be more than 0 seconds" in errors.splitlines()[-1]
