"""A swap is whole or not done, whichever step is the last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from apps import tar, zipapp
from harness import TIMEOUT, environment, slow

from endless_py import upgrade
from endless_py.upgrade.place import Busy

SCRIPT = Path(__file__).with_name("swapping.py")
OLD, NEW = zipapp("1.0"), zipapp("2.0")


def prepare(tmp_path, kind):
    """A target at 1.0 and a shelf with 2.0."""
    folder = tmp_path / "srv"
    folder.mkdir(parents=True)
    (tmp_path / "shelf").mkdir()
    if kind == "file":
        (folder / "app.pyz").write_bytes(OLD)
        (tmp_path / "shelf" / "app-2.0.pyz").write_bytes(NEW)
    else:
        (folder / "releases" / "1.0").mkdir(parents=True)
        (folder / "releases" / "1.0" / "app.py").write_text("1.0")
        (folder / "current").symlink_to("releases/1.0")
        (tmp_path / "shelf" / "app-2.0.tar.gz").write_bytes(tar("2.0"))
    return folder


def in_place(folder, kind):
    """Which version is in place; whole, or this fails."""
    if kind == "file":
        content = (folder / "app.pyz").read_bytes()
        assert content in (OLD, NEW)
        return "1.0" if content == OLD else "2.0"
    text = (folder / "current" / "app.py").read_text()
    assert text == "1.0" or text.rstrip().endswith("server.serve_forever()")
    return "1.0" if text == "1.0" else "2.0"


class Swaps:
    """swapping.py, which does upgrades and is killed in them."""

    def __init__(self, kind, outcome="ok"):
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), kind, outcome],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder, step=0):
        """Return the status and how many acts there were."""
        print(step, folder, file=self._process.stdin, flush=True)
        status, acts = self._process.stdout.readline().split()
        return int(status), int(acts)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(TIMEOUT)
        self._process.stdout.close()


def tidy(folder, kind):
    """Nothing is left of what was under way."""
    hidden = sorted(p.name for p in (folder / "releases").iterdir() if p.name.startswith("."))
    name = "app.pyz" if kind == "file" else "current"
    assert hidden == [f".{name}.json", f".{name}.lock"]
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        slow("file", "ok"),
        slow("file", "it did not start"),
        slow("link", "ok"),
        slow("link", "it did not start"),
    ],
)
def test_sigkill_at_each_step_leaves_a_whole_version_and_the_next_start_goes_on(
    kind, outcome, tmp_path
):
    final = "2.0" if outcome == "ok" else "1.0"
    seen = set()
    with Swaps(kind, outcome) as swaps:
        folder = prepare(tmp_path / "all", kind)
        status, acts = swaps.run(folder)
        assert (status, in_place(folder, kind)) == (0, final)
        assert acts > 15
        for step in range(1, acts + 1):
            folder = prepare(tmp_path / str(step), kind)
            assert swaps.run(folder, step) == (9, 0)
            found = in_place(folder, kind)
            seen.add(found)
            # The next start, in this process: it recovers, and gets where the other was going.
            target = folder / ("app.pyz" if kind == "file" else "current")
            updater = upgrade.Updater(
                upgrade.FileSource(next((folder.parent / "shelf").iterdir())),
                target,
                dry_start=False,
                keep=1,
                reload=lambda: upgrade.Reloaded(outcome == "ok", outcome),
            )
            updater.look()
            # Also where it was switched and nobody heard how the reload ended: it is proven anew.
            assert in_place(folder, kind) == final
            assert upgrade.status(target)["under_way"] is None
            tidy(folder, kind)
            assert updater.look().result == "unchanged"
    assert seen == {"1.0", "2.0"}


@pytest.mark.slow
def test_the_layout_is_the_documented_one(tmp_path):
    folder = prepare(tmp_path, "link")
    with Swaps("link") as swaps:
        assert swaps.run(folder)[0] == 0
    assert os.readlink(folder / "current") == "releases/2.0"
    assert (folder / "releases" / "1.0").exists()  # not ours, so it is never removed
    other = prepare(tmp_path / "other", "file")
    os.chmod(other / "app.pyz", 0o755)
    with Swaps("file") as swaps:
        assert swaps.run(other)[0] == 0
    assert sorted(p.name for p in (other / "releases").glob("[!.]*")) == ["2.0"]  # keep=1
    assert (other / "releases" / "2.0" / "app-2.0.pyz").read_bytes() == NEW
    assert os.access(other / "app.pyz", os.X_OK)
    assert not (other / "app.pyz").is_symlink()


def updater_of(folder, *versions, keep=3):
    """An Updater, one upgrade after the other, for a file."""
    reloads = []

    class Versions(upgrade.Source):
        def fetch(self, known, into, beside):
            (into / "app.pyz").write_bytes(zipapp(versions[len(reloads)]))
            return upgrade.Artifact(into / "app.pyz", versions[len(reloads)])

    def reload():
        reloads.append(1)
        return upgrade.Reloaded(True)

    updater = upgrade.Updater(
        Versions(), folder / "app.pyz", dry_start=False, keep=keep, reload=reload
    )
    return updater


def test_the_last_releases_are_kept_and_one_can_go_back_and_back_again(tmp_path):
    folder = prepare(tmp_path, "file")
    updater = updater_of(folder, "2.0", "3.0", "4.0", "5.0")
    for version in ("2.0", "3.0", "4.0"):
        outcome = updater.look()
        assert (outcome.result, outcome.version) == ("upgraded", version)
    assert upgrade.status(folder / "app.pyz")["kept"] == ["2.0", "3.0", "4.0"]
    assert sorted(p.name for p in (folder / "releases").glob("[!.]*")) == ["2.0", "3.0", "4.0"]
    outcome = updater.roll_back()
    assert outcome.text == "rolled back: version 3.0 serves"
    assert (folder / "app.pyz").read_bytes() == zipapp("3.0")
    assert updater.roll_back().version == "2.0"
    outcome = updater.roll_back()
    assert outcome.result == "error"
    assert "no earlier release" in outcome.text
    assert upgrade.status(folder / "app.pyz")["version"] == "2.0"


def test_a_file_put_there_by_hand_is_kept_like_any_other(tmp_path):
    folder = prepare(tmp_path, "file")
    updater = updater_of(folder, "2.0", "3.0")
    updater.look()
    (folder / "app.pyz").write_bytes(zipapp("2.5"))
    assert updater.look().version == "3.0"
    assert updater.roll_back().version == "2.5"
    assert (folder / "app.pyz").read_bytes() == zipapp("2.5")


def test_only_one_process_swaps_at_a_time(tmp_path):
    folder = prepare(tmp_path, "file")
    code = (
        "import sys; from endless_py import upgrade\n"
        "with upgrade.Releases(sys.argv[1]).lock():\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "app.pyz")],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout.readline() == b"locked\n"
        updater = updater_of(folder, "2.0")
        assert updater.look().result == "busy"
        with pytest.raises(Busy, match="another process"), updater.releases.lock():
            pass
        holder.kill()
    holder.wait(TIMEOUT)
    assert updater.look().result == "upgraded"


def test_what_cannot_be_switched_says_what_to_do(tmp_path):
    (tmp_path / "current").mkdir()
    updater = upgrade.Updater(upgrade.FileSource(tmp_path / "x"), tmp_path / "current")
    assert "is a folder, which cannot be switched at once" in updater.look().text
    folder = prepare(tmp_path / "file", "file")
    (tmp_path / "app-2.0.tar.gz").write_bytes(tar("2.0"))
    updater = upgrade.Updater(
        upgrade.FileSource(tmp_path / "app-2.0.tar.gz"), folder / "app.pyz", dry_start=False
    )
    outcome = updater.look()
    assert outcome.result == "refused"
    assert "make the target a symlink" in outcome.text
    (folder / "releases" / ".app.pyz.json").write_text("{")
    outcome = updater.look()
    assert outcome.result == "error"
    assert "remove it to forget all earlier upgrades" in outcome.text
    with pytest.raises(ValueError, match="keep must be at least 1"):
        upgrade.Releases(tmp_path / "app.pyz", keep=0)
