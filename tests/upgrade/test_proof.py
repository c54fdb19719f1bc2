"""A version is proven by its own generation's ready; one that is not does not stay."""

from __future__ import annotations

import errno
import io
import os
import sys
import tarfile

import pytest
from apps import zipapp
from harness import Program, environment, get

from endless_py import upgrade
from endless_py.upgrade import files
from endless_py.upgrade.place import Place

FAILED = upgrade.Reloaded(False, "it exited with status 1")
OK = upgrade.Reloaded(True)
OLD, NEW = zipapp("1.0"), zipapp("2.0")


class Power(BaseException):
    """The process, or the machine, stops here."""


@pytest.fixture
def target(tmp_path):
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv" / "app.pyz").write_bytes(OLD)
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "app.pyz").write_bytes(NEW)
    return tmp_path / "srv" / "app.pyz"


def updater_of(target, reload):
    source = upgrade.FileSource(target.parent.parent / "shelf" / "app.pyz")
    return upgrade.Updater(source, target, dry_start=False, reload=reload)


def stop_here():
    raise Power


def cut_off(target):
    """An upgrade that was switched, and whose process then stopped."""
    with pytest.raises(Power):
        updater_of(target, stop_here).look()
    assert target.read_bytes() == NEW
    assert upgrade.status(target)["under_way"] == "2.0"


@pytest.mark.slow
def test_the_way_back_comes_before_anything_is_written(target, monkeypatch):
    """The new version fills the disk, and fails for that."""
    save, make = Place.save, files.create
    full = []

    def write(self):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self)

    def create(path):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return make(path)

    monkeypatch.setattr(Place, "save", write)
    monkeypatch.setattr("endless_py.upgrade.files.create", create)

    def reload():
        full.append(1)
        return FAILED

    updater = updater_of(target, reload)
    for _ in range(2):
        assert updater.look().result == "error"  # as it cannot be written down
        assert target.read_bytes() == OLD
        full.clear()  # the operator makes room
    outcome = updater.look()
    assert outcome.result == "refused"
    assert "it was started 2 times and never became ready" in outcome.text
    assert (target.read_bytes(), full) == (OLD, [])


def test_an_unproven_version_is_proven_anew_before_anything_else(target):
    cut_off(target)
    outcome = updater_of(target, lambda: OK).look()
    assert (outcome.result, outcome.version) == ("upgraded", "2.0")
    assert upgrade.status(target)["under_way"] is None
    assert target.read_bytes() == NEW


def test_an_unproven_version_that_fails_is_left_for_the_one_before(target):
    cut_off(target)
    updater = updater_of(target, lambda: FAILED)
    outcome = updater.look()
    assert outcome.result == "failed"
    assert "version 1.0 is back in place" in outcome.text
    assert target.read_bytes() == OLD
    assert updater.look().result == "unchanged"


def test_an_unproven_version_gets_two_starts(target):
    cut_off(target)
    with pytest.raises(Power):
        updater_of(target, stop_here).look()
    assert target.read_bytes() == NEW
    reloads = []
    updater = updater_of(target, lambda: reloads.append(1))
    outcome = updater.look()
    assert outcome.result == "failed"
    assert "it was started 2 times and never became ready" in outcome.text
    assert target.read_bytes() == OLD
    assert updater.look().result == "unchanged"
    assert reloads == []


UPDATE = """
from endless_py import upgrade
upgrade.Updater(upgrade.FileSource("../shelf/app.pyz"), sys.argv[0], interval=3600).start()
"""


def run(target):
    return Program(command=[sys.executable, target.name], cwd=target.parent, env=environment())


def test_the_program_confirms_the_version_it_was_started_from_when_it_is_ready(target):
    new = zipapp("2.0", UPDATE)
    (target.parent.parent / "shelf" / "app.pyz").write_bytes(new)
    with pytest.raises(Power):
        updater_of(target, stop_here).look()
    with run(target) as program:
        pid = program.wait_serving()
        program.wait("upgrade: version 2.0 serves; its upgrade had been cut off")
        status = upgrade.status(target)
        assert (status["under_way"], status["version"]) == (None, "2.0")
        program.stop(pid)
    assert target.read_bytes() == new


@pytest.mark.slow
def test_a_program_that_never_gets_ready_is_left_after_two_starts(target):
    old = zipapp("1.0", UPDATE)
    target.write_bytes(old)
    new = zipapp("2.0", UPDATE, before="sys.exit(3)")
    (target.parent.parent / "shelf" / "app.pyz").write_bytes(new)
    with pytest.raises(Power):
        updater_of(target, stop_here).look()
    starts = 0
    while target.read_bytes() == new:  # as a supervisor would
        with run(target) as program:
            program.process.wait(60)
        starts += 1
        assert starts < 5
    assert starts == 2  # the second one finds that it is the third, with that of the reload
    with run(target) as program:
        pid = program.wait_serving()
        assert get(program.port) == "1.0 end"
        program.stop(pid)
    assert "never became ready" in upgrade.status(target)["refused"]["reason"]


# -- an operator's own switch ---------------------------------------------------


@pytest.fixture
def link(tmp_path):
    for version in ("1.0", "hand"):
        (tmp_path / "releases" / version).mkdir(parents=True)
        (tmp_path / "releases" / version / "VERSION").write_text(version)
    (tmp_path / "current").symlink_to("releases/1.0")
    with tarfile.open(tmp_path / "app.tar.gz", "w:gz") as made:
        info = tarfile.TarInfo("VERSION")
        info.size = 3
        made.addfile(info, io.BytesIO(b"2.0"))
    return tmp_path / "current"


def switch(link):
    (link.parent / "new").symlink_to("releases/hand")
    os.replace(link.parent / "new", link)


@pytest.mark.parametrize("reloaded", [OK, FAILED], ids=["ok", "failed"])
def test_an_operators_switch_during_the_reload_stays(link, reloaded):
    def reload():
        switch(link)
        return reloaded

    source = upgrade.FileSource(link.parent / "app.tar.gz")
    updater = upgrade.Updater(source, link, dry_start=False, reload=reload, keep=1)
    outcome = updater.look()
    assert os.readlink(link) == "releases/hand"
    assert (link / "VERSION").read_text() == "hand"
    if not reloaded.ok:
        assert f"{link} was switched by somebody else meanwhile, and stays so" in outcome.text
    updater.look()
    assert os.readlink(link) == "releases/hand"
    assert upgrade.status(link)["under_way"] is None


def test_an_operators_switch_before_ours_is_noticed(link, monkeypatch):
    updater = upgrade.Updater(
        upgrade.FileSource(link.parent / "app.tar.gz"), link, dry_start=False, reload=lambda: OK
    )
    begin = updater.releases.begin

    def late(staged):
        release = begin(staged)
        switch(link)
        return release

    monkeypatch.setattr(updater.releases, "begin", late)
    outcome = updater.look()
    assert outcome.result == "failed"
    assert "was switched by somebody else meanwhile" in outcome.text
    assert os.readlink(link) == "releases/hand"
