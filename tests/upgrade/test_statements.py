"""With a signature check only a signed version counts.

The attacks are those that The Update Framework lists: replay and rollback, freeze, and
mix-and-match. Whoever does them can publish what they like, and has no key.
"""

from __future__ import annotations

import json
import re
import tracemalloc
from datetime import datetime, timedelta, timezone

import pytest
from apps import zipapp

from endless_py import upgrade

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
KEY = ed25519.Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
NEXT_YEAR = datetime.now(timezone.utc) + timedelta(days=365)


class Mirror(upgrade.Source):
    """Offers files under the version that somebody says."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.says = None
        self.files = {}

    def offer(self, says, **files):
        self.says, self.files = says, files

    def fetch(self, known, into, beside):
        for name, content in self.files.items():
            (into / name.replace("__", ".")).write_bytes(content)
        return upgrade.Artifact(into / "app.pyz", self.says)

    def release(self, content, version, expires=NEXT_YEAR, changes=None):
        """The files of a release with a signed statement."""
        path = self.folder / "app.pyz"
        path.write_bytes(content)
        said = upgrade.statement(path, version, expires)
        if changes:
            said = json.dumps({**json.loads(said), **changes}).encode()
        return {
            "app__pyz": content,
            "app__pyz__statement": said,
            "app__pyz__statement__sig": KEY.sign(said),
        }


@pytest.fixture
def mirror(tmp_path):
    return Mirror(tmp_path / "mirror")


def updater_of(mirror, tmp_path, check=None, **more):
    (tmp_path / "srv").mkdir(exist_ok=True)
    return upgrade.Updater(
        mirror,
        tmp_path / "srv" / "app.pyz",
        checks=[check or upgrade.Ed25519(PUBLIC)],
        dry_start=False,
        reload=lambda: upgrade.Reloaded(True),
        **more,
    )


def in_place(tmp_path):
    return (tmp_path / "srv" / "app.pyz").read_bytes()


def test_a_signed_statement_says_the_version_whatever_the_source_says(mirror, tmp_path):
    updater = updater_of(mirror, tmp_path)
    mirror.offer("0.1", **mirror.release(b"one", "1.0"))
    assert updater.look().version == "1.0"
    mirror.offer(None, **mirror.release(b"two", "2.0"))
    assert updater.look().version == "2.0"
    assert in_place(tmp_path) == b"two"


def test_replay_an_old_release_under_a_new_number_is_refused(mirror, tmp_path):
    updater = updater_of(mirror, tmp_path)
    old = mirror.release(b"old, with a hole", "1.0")
    mirror.offer("1.1", **mirror.release(b"good", "1.1"))
    updater.look()
    mirror.offer("9.9", **old)
    outcome = updater.look()
    assert outcome.result == "refused"
    assert "it is 1.0, older than 1.1 in place" in outcome.text
    # and the true next one is not kept out by it
    mirror.offer("1.2", **mirror.release(b"newer", "1.2"))
    assert updater.look().version == "1.2"


def test_replay_of_signed_bytes_that_say_no_version_is_refused(mirror, tmp_path):
    updater = updater_of(mirror, tmp_path)
    good, old = b"print('1.1')", b"print('1.0')"
    mirror.offer("1.1", app__pyz=good, app__pyz__sig=KEY.sign(good))
    assert updater.look().version is None  # the first one: there is nothing to go back from
    mirror.offer("9.9", app__pyz=old, app__pyz__sig=KEY.sign(old))
    outcome = updater.look()
    assert outcome.result == "refused"
    assert "nothing that is signed says its version" in outcome.text
    assert in_place(tmp_path) == good


def test_replay_of_signed_bytes_with_a_version_inside_is_a_downgrade(mirror, tmp_path):
    updater = updater_of(mirror, tmp_path)
    for version in ("1.1", "1.0"):
        content = zipapp(version)
        mirror.offer("9.9", app__pyz=content, app__pyz__sig=KEY.sign(content))
        outcome = updater.look()
    assert "it is 1.0, older than 1.1 in place" in outcome.text


def test_freeze_ends_when_the_statement_expires(mirror, tmp_path):
    updater = updater_of(mirror, tmp_path)
    past = datetime.now(timezone.utc) - timedelta(seconds=1)
    mirror.offer("2.0", **mirror.release(b"two", "2.0", past))
    assert "app.pyz.statement has expired" in updater.look().text
    mirror.offer("2.0", **mirror.release(b"two", "2.0"))
    assert updater.look().result == "upgraded"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "other.pyz"}, "is about 'other.pyz', not about app.pyz"),
        ({"length": 17}, "is about another content"),
        ({"hashes": {"sha256": "0" * 64}}, "is about another content"),
        ({"_type": "root"}, "is a statement of another kind, 'root'"),
        ({"version": "latest"}, "'latest' is no version"),
        ({"version": 2}, "is no statement"),
        ({"expires": "never"}, "is no statement"),
        ({"hashes": None}, "is no statement"),
    ],
)
def test_mix_and_match_a_statement_is_about_one_artifact(mirror, tmp_path, changes, why):
    mirror.offer("2.0", **mirror.release(b"two", "2.0", changes=changes))
    outcome = updater_of(mirror, tmp_path).look()
    assert outcome.result == "refused"
    assert re.search(why, outcome.text), outcome.text


def test_a_statement_that_is_not_signed_by_the_key_says_nothing(mirror, tmp_path):
    files = mirror.release(b"two", "2.0")
    updater = updater_of(mirror, tmp_path)
    other = ed25519.Ed25519PrivateKey.generate()
    changed = {**files, "app__pyz__statement__sig": other.sign(files["app__pyz__statement"])}
    mirror.offer("2.0", **changed)
    assert "the signature of app.pyz.statement is not by the expected key" in updater.look().text
    del files["app__pyz__statement__sig"]
    mirror.offer("2.0", **files)
    assert "app.pyz.statement is not signed" in updater.look().text


def test_a_statement_can_be_asked_for_and_is_no_artifact(mirror, tmp_path):
    files = mirror.release(b"two", "2.0")
    said, signature = files["app__pyz__statement"], files["app__pyz__statement__sig"]
    mirror.offer("2.0", app__pyz=said, app__pyz__sig=signature)
    assert "app.pyz is a statement, not an artifact" in updater_of(mirror, tmp_path).look().text
    content = zipapp("2.0")
    mirror.offer("2.0", app__pyz=content, app__pyz__sig=KEY.sign(content))
    check = upgrade.Ed25519(PUBLIC, statement=True)
    outcome = updater_of(mirror, tmp_path, check).look(again=True)
    assert "app.pyz has no statement: there is no app.pyz.statement beside it" in outcome.text


def test_the_version_inside_must_be_the_one_that_is_signed(mirror, tmp_path):
    mirror.offer("2.0", **mirror.release(zipapp("1.0"), "2.0"))
    outcome = updater_of(mirror, tmp_path).look()
    assert "it is signed as 2.0, and the file VERSION in it says 1.0" in outcome.text


def test_an_older_version_is_taken_where_downgrades_are_allowed(mirror, tmp_path):
    updater = updater_of(mirror, tmp_path, downgrades=True)
    mirror.offer("2.0", **mirror.release(b"two", "2.0"))
    updater.look()
    mirror.offer("1.0", **mirror.release(b"one", "1.0"))
    assert updater.look().version == "1.0"


def test_an_artifact_whose_signer_is_not_known_is_not_read_into_memory(tmp_path):
    path = tmp_path / "app.pyz"
    with open(path, "wb") as file:
        file.truncate(64 << 20)
    (tmp_path / "app.pyz.sig").write_bytes(bytes(64))
    candidate = upgrade.Candidate(upgrade.Artifact(path), path, path)
    check = upgrade.Ed25519(PUBLIC)
    tracemalloc.start()
    with pytest.raises(upgrade.Refused, match="not by the expected key"):
        check.run(candidate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_statement_needs_a_version_and_a_time_zone(tmp_path):
    (tmp_path / "app.pyz").write_bytes(b"?")
    with pytest.raises(ValueError, match="needs a time zone"):
        upgrade.statement(tmp_path / "app.pyz", "1.0", datetime(2030, 1, 1))
    with pytest.raises(upgrade.Refused, match="is no version"):
        upgrade.statement(tmp_path / "app.pyz", "new", NEXT_YEAR)
