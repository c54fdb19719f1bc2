"""Updater: looks, takes what is good, leaves what is not, and says so in one line."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time

import pytest
from apps import tar, zipapp
from file_server import FileServer
from harness import TIMEOUT, Load, Program, environment, first, get

from endless_py import upgrade

OK = upgrade.Reloaded(True)


class Shelf(upgrade.Source):
    """Has what it is told to have; an exception is raised."""

    def __init__(self):
        self.has = None
        self.asked = threading.Semaphore(0)

    def __str__(self):
        return "the shelf"

    def put(self, version, content=None, name="app.pyz"):
        self.has = (name, version, content or zipapp(version))

    def fetch(self, known, into, beside):
        self.asked.release()
        if isinstance(self.has, Exception):
            raise self.has
        if self.has is None:
            return None
        name, version, content = self.has
        (into / name).write_bytes(content)
        return upgrade.Artifact(into / name, version)


@pytest.fixture
def shelf():
    return Shelf()


def updater_of(shelf, tmp_path, reload=lambda: OK, **settings):
    (tmp_path / "srv").mkdir(exist_ok=True)
    if not (tmp_path / "srv" / "app.pyz").exists():
        (tmp_path / "srv" / "app.pyz").write_bytes(zipapp("1.0"))
    settings = {"dry_start": False, **settings}
    return upgrade.Updater(shelf, tmp_path / "srv" / "app.pyz", reload=reload, **settings)


def test_a_new_version_is_put_in_place_and_reloaded(shelf, tmp_path):
    reloaded = []

    def reload():
        reloaded.append((tmp_path / "srv" / "app.pyz").read_bytes())
        return OK

    updater = updater_of(shelf, tmp_path, reload)
    assert updater.look().text == "nothing new at the shelf; version 1.0 is in place"
    shelf.put("1.1")
    outcome = updater.look()
    assert (outcome.result, outcome.ok, outcome.version) == ("upgraded", True, "1.1")
    assert outcome.text == "version 1.1 from the shelf serves"
    assert reloaded == [zipapp("1.1")]
    assert updater.look().result == "unchanged"  # the same bytes again
    status = upgrade.status(tmp_path / "srv" / "app.pyz")
    assert (status["version"], status["source"]) == ("1.1", "the shelf")
    assert status["last_look"]["result"] == "unchanged"
    assert abs(status["last_look"]["at"] - time.time()) < 60


def test_check_only_changes_nothing(shelf, tmp_path):
    updater = updater_of(shelf, tmp_path)
    shelf.put("1.1")
    outcome = updater.look(check_only=True)
    assert outcome.result == "available"
    assert outcome.text == "version 1.1 from the shelf passed every check"
    assert (tmp_path / "srv" / "app.pyz").read_bytes() == zipapp("1.0")
    shelf.put("0.9")
    assert updater.look(check_only=True).result == "refused"
    shelf.put("1.1")
    assert updater.look().result == "upgraded"


def test_an_older_version_is_refused_unless_asked_for(shelf, tmp_path):
    shelf.put("0.9")
    outcome = updater_of(shelf, tmp_path).look()
    assert outcome.result == "refused"
    assert outcome.text == (
        "version 0.9 from the shelf is refused: it is 0.9, older than 1.0 in place"
    )
    assert not outcome.ok
    outcome = updater_of(shelf, tmp_path, downgrades=True).look(again=True)
    assert (outcome.result, outcome.version) == ("upgraded", "0.9")


def test_a_failed_reload_puts_the_old_version_back_and_is_not_tried_again(shelf, tmp_path):
    reloads = []

    def reload():
        reloads.append(1)
        return upgrade.Reloaded(len(reloads) > 2, "it exited with status 7")

    updater = updater_of(shelf, tmp_path, reload)
    shelf.put("1.1")
    outcome = updater.look()
    assert outcome.result == "failed"
    assert outcome.text == (
        "version 1.1 from the shelf: it exited with status 7; version 1.0 is back in place"
    )
    assert (tmp_path / "srv" / "app.pyz").read_bytes() == zipapp("1.0")
    outcome = updater.look()
    assert (outcome.result, len(reloads)) == ("unchanged", 1)
    assert "version 1.1 was not taken: it exited with status 7" in outcome.text
    assert updater.look(again=True).result == "failed"
    shelf.put("1.1", zipapp("1.1", "pass"))  # changed
    assert updater.look().result == "upgraded"
    assert upgrade.status(tmp_path / "srv" / "app.pyz")["refused"] is None


def test_a_reload_that_raises_is_a_failed_one(shelf, tmp_path):
    def reload():
        raise RuntimeError("no")

    shelf.put("1.1")
    outcome = updater_of(shelf, tmp_path, reload).look()
    assert outcome.result == "failed"
    assert "RuntimeError: no" in outcome.text
    assert (tmp_path / "srv" / "app.pyz").read_bytes() == zipapp("1.0")


@pytest.mark.parametrize("how", ["raises", "false", "passes"])
def test_a_users_check_sees_the_release(shelf, tmp_path, how):
    seen = []

    def check(path):
        seen.append(path.read_bytes())
        if how == "raises":
            raise RuntimeError("not on a Friday")
        return None if how == "passes" else False

    shelf.put("1.1")
    outcome = updater_of(shelf, tmp_path, checks=[check]).look()
    assert seen == [zipapp("1.1")]
    assert outcome.result == ("upgraded" if how == "passes" else "refused")
    if how == "raises":
        assert outcome.text.endswith("is refused: check() refuses it: not on a Friday")


def test_archives_become_folders_behind_a_symlink(shelf, tmp_path):
    shelf.put("1.1", tar("1.1"), "app.tar.gz")
    updater = upgrade.Updater(
        shelf, tmp_path / "current", dry_start=False, reload=lambda: OK, keep=2
    )
    assert updater.look().result == "upgraded"
    assert os.readlink(tmp_path / "current") == "releases/1.1"
    shelf.put("1.2", tar("1.2"), "app.tar.gz")
    updater.look()
    assert (tmp_path / "current" / "VERSION").read_text() == "1.2"
    shelf.put("1.3", tar("1.3"), "app.tar.gz")
    updater.look()
    assert sorted(p.name for p in (tmp_path / "releases").glob("[!.]*")) == ["1.2", "1.3"]
    assert updater.roll_back().version == "1.2"
    assert os.readlink(tmp_path / "current") == "releases/1.2"
    assert updater.look().version == "1.3"  # this source always gives it, and it is newer


def test_errors_are_logged_once_back_off_and_end(shelf, tmp_path, caplog):
    caplog.set_level("INFO", "endless_py")
    updater = updater_of(shelf, tmp_path, interval=10, jitter=0)
    waits = []
    for number in range(12):
        shelf.has = upgrade.SourceError(f"it is away for {number} s")
        waits.append(updater.pause_after(updater.look()))
    assert waits[:4] == [20, 40, 80, 160]
    assert waits[-1] == 3600
    shelf.has = upgrade.SourceError("asked too often", retry_after=7000)
    assert updater.pause_after(updater.look()) == 7000
    shelf.has = ZeroDivisionError("a bug")
    assert updater.look().text == "the shelf failed: ZeroDivisionError: a bug"
    shelf.has = None
    assert updater.pause_after(updater.look()) == 10
    updater.look()
    assert [record.getMessage().partition("upgrade: ")[2] for record in caplog.records] == [
        "it is away for 0 s",
        "asked too often",
        "the shelf failed: ZeroDivisionError: a bug",
        "the shelf can be asked again",
    ]


def test_the_interval_varies_by_the_jitter(shelf, tmp_path):
    updater = updater_of(shelf, tmp_path, interval=100, jitter=0.2)
    waits = [updater.pause_after(upgrade.Outcome("unchanged", "")) for _ in range(200)]
    assert 80 <= min(waits) < 90 < 110 < max(waits) <= 120
    with pytest.raises(ValueError, match="jitter from 0 to below 1"):
        updater_of(shelf, tmp_path, jitter=1)


def test_the_thread_looks_until_it_is_stopped_or_a_version_serves(shelf, tmp_path):
    updater = updater_of(shelf, tmp_path, interval=0.05).start()
    for _ in range(3):
        assert shelf.asked.acquire(timeout=TIMEOUT)
    with pytest.raises(RuntimeError, match="already started"):
        updater.start()
    updater.stop(TIMEOUT)
    assert not updater._thread.is_alive()
    shelf.put("1.1")
    updater.start()
    updater._thread.join(TIMEOUT)
    assert not updater._thread.is_alive()
    assert (tmp_path / "srv" / "app.pyz").read_bytes() == zipapp("1.1")


def test_programs_that_do_not_use_it_do_not_import_it():
    code = (
        "import sys, endless_py, endless_py.__main__, endless_py.http.server\n"
        "print([name for name in sys.modules if name.startswith('endless_py.upgrade')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n", done.stderr


# -- a real program, over HTTP, under load ------------------------------------

UPDATE = """
from endless_py import upgrade
checks = [upgrade.SHA256()]
if os.environ.get("KEY"):
    checks.append(upgrade.Ed25519(os.environ["KEY"]))
upgrade.Updater(
    upgrade.HTTPSource(os.environ["URL"]), sys.argv[0], checks, interval=0.1, keep=2,
).start()
"""


class Deployed:
    """app.pyz, running, and the server that has its next versions."""

    def __init__(self, tmp_path, server, **env):
        self.server = server
        self.sign = None
        self.folder = tmp_path / "srv"
        self.folder.mkdir()
        self.path = self.folder / "app.pyz"
        self.path.write_bytes(zipapp("1.0", UPDATE))
        self.put(self.path.read_bytes())
        self.env = environment(URL=f"{server.url}/app.pyz", **env)

    def put(self, content, digest=None, signature=None):
        """What is beside it first: a look may come at any moment."""
        digest = digest or hashlib.sha256(content).hexdigest()
        if signature == b"":
            self.server.files.pop("/app.pyz.sig", None)
        elif self.sign is not None:
            self.server.put("/app.pyz.sig", signature or self.sign(content))
        self.server.put("/SHA256SUMS", f"{digest}  app.pyz\n".encode())
        self.server.put("/app.pyz", content)

    def run(self):
        return Program(command=[sys.executable, "app.pyz"], cwd=self.folder, env={**self.env})


@pytest.fixture
def server():
    with FileServer() as server:
        yield server


@pytest.mark.parametrize("keep_pid", first(["", "1"], 0), ids=["new pid", "kept pid"])
def test_five_upgrades_over_http_under_load_lose_nothing(keep_pid, server, tmp_path):
    deployed = Deployed(tmp_path, server, KEEP_PID=keep_pid)
    with deployed.run() as program:
        program.wait_serving()
        port = program.port
        with Load(port) as load:
            for number in range(1, 6):
                deployed.put(zipapp(f"1.{number}", UPDATE))
                load.wait_answer(f"1.{number} ")
                program.wait(f"upgrade: version 1.{number} from .* serves")
        assert load.lost == []
        deadline = time.monotonic() + TIMEOUT
        while len(program.pids()) > 1:
            program.process.poll()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (pid,) = program.pids()
        assert (pid == program.pid) == bool(keep_pid)
        assert get(port) == "1.5 end"
        assert upgrade.status(deployed.path)["kept"][-1] == "1.5"
        program.stop(pid)


@pytest.mark.slow
def test_bad_artifacts_are_refused_or_rolled_back_under_load_with_a_clear_line(server, tmp_path):
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    key, other = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
    public = key.public_key().public_bytes_raw().hex()
    deployed = Deployed(tmp_path, server, KEY=public, READY_TIMEOUT="8")
    deployed.sign = key.sign

    def good(version, **more):
        return zipapp(version, UPDATE, **more)

    whole = hashlib.sha256(good("2.0")).hexdigest()
    bad = [
        (good("2.0")[:-100], {"digest": whole}, "the SHA-256 of app.pyz is"),
        (good("2.0").replace(b"PK", b"KP"), {"digest": whole}, "the SHA-256 of app.pyz is"),
        (good("2.1"), {"signature": b""}, "app.pyz is not signed: there is no app.pyz.sig"),
        (good("2.1"), {"signature": b"-"}, r"app.pyz.sig is no signature"),
        (good("2.2"), {"signature": other.sign(good("2.2"))}, "not by the expected key"),
        (good("0.9"), {}, r"it is 0\.9, older than 1\.0 in place"),
        (zipapp("2.3", "raise SystemExit(7)"), {}, "its dry start fails: it ended with status 7"),
        (
            good("2.4", before="raise SystemExit(7)"),
            {},
            "reload failed: .*status 7.*; version 1.0 is back in place",
        ),
        (
            good("2.5", before="import time; time.sleep(60)"),
            {},
            "not ready within 8 s.*; version 1.0 is back in place",
        ),
    ]
    with deployed.run() as program:
        pid = program.wait_serving()
        with Load(program.port) as load:
            for content, more, line in bad:
                after = len(program.lines)
                deployed.put(content, **more)
                program.wait(f"upgrade: .*{line}", after)
                assert deployed.path.read_bytes() == zipapp("1.0", UPDATE)
            deployed.put(good("3.0"))
            load.wait_answer("3.0 ")
            program.wait("upgrade: version 3.0 from .* serves")
        assert load.lost == []
        assert {answer.split()[0] for answer in load.answers} == {"1.0", "3.0"}
        new = program.wait_serving(1)
        program.wait_alone(new)
        assert new != pid
        program.stop(new)


def test_a_reload_that_could_not_be_tried_blames_no_version(shelf, tmp_path):
    outcomes = [upgrade.Reloaded(False, "it is draining", again=True), OK]
    updater = updater_of(shelf, tmp_path, lambda: outcomes.pop(0))
    shelf.put("1.1")
    assert updater.look().result == "failed"
    assert (tmp_path / "srv" / "app.pyz").read_bytes() == zipapp("1.0")
    assert updater.look().result == "upgraded"
