"""Deploys by symlink with the script beside this test, supervisord watching."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile

import pytest
from commands import without_waits
from harness import TIMEOUT, Load, get, until
from managed import Supervisord

pytestmark = pytest.mark.slow


class Deployed(Supervisord):
    section = "deploy/app.conf"

    def install(self) -> None:
        super().install()
        self.app.server.unlink()  # releases have it
        for name in ("releases", "uploads"):
            (self.app.folder / name).mkdir()
        self.script = self.app.install("deploy/deploy.sh", self.app.folder)
        self.upload("1.0")
        assert self.deploy("1.0") == (0, "1.0 is the first release; start it now\n", "")

    def upload(self, tag: str, start: str = "") -> None:
        """Provide a release whose answers name its tag."""
        code = self.app.code(start).replace("{os.getpid()} end", f"{{os.getpid()}} {tag} end")
        data = code.encode()
        member = tarfile.TarInfo("server.py")
        member.size = len(data)
        with tarfile.open(self.app.folder / "uploads" / f"{tag}.tar.gz", "w:gz") as archive:
            archive.addfile(member, io.BytesIO(data))

    def deploy(self, *arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [str(self.script), *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        return done.returncode, done.stdout, without_waits(done.stderr)

    @property
    def current(self) -> str:
        return os.readlink(self.app.folder / "current")


@pytest.fixture
def service(tmp_path):
    service = Deployed(tmp_path)
    try:
        yield service
    finally:
        service.close()
        print(service.app.log)


def test_deploys_under_load_lose_nothing(service):
    app = service.app
    pid = service.wait_up()
    assert get(app.port) == f"0 {pid} 1.0 end"
    with Load(app.port) as load:
        for generation, tag in enumerate(("1.1", "1.2", "1.1"), start=1):  # back to one, too
            service.upload(tag)
            status, said, complaint = service.deploy(tag)
            assert (status, complaint) == (0, "")
            assert said.endswith(f"{tag} serves\n")
            assert get(app.port) == f"{generation} {pid} {tag} end"
            assert service.current == f"releases/{tag}"
            assert os.readlink(f"/proc/{pid}/cwd") == str(app.folder / "releases" / tag)
            shutil.rmtree(app.folder / "releases" / "1.0", ignore_errors=True)
    assert load.lost == []
    assert service.status()[0] == pid
    assert app.starts == 1
    assert (app.folder / "app.pid").read_text() == f"{pid}\n"


BAD = {"is no Python": ("def", "SyntaxError"), "ends at once": ("1 / 0", "ZeroDivisionError")}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_release_is_rolled_back(kind, service):
    app = service.app
    start, error = BAD[kind]
    pid = service.wait_up()
    service.upload("bad", start)
    with Load(app.port) as load:
        status, said, complaint = service.deploy("bad")
    assert load.lost == []
    assert {answer.split(" ", 1)[1] for answer in load.answers} == {f"{pid} 1.0 end"}
    assert (status, said) == (1, "")
    assert error in complaint
    assert complaint.endswith("bad was given up; back to releases/1.0\n")
    assert service.current == "releases/1.0"
    until(lambda: app.processes() == [pid])
    assert service.status()[0] == pid

    service.upload("2.0")
    assert service.deploy("2.0")[0] == 0
    assert get(app.port) == f"1 {pid} 2.0 end"
    assert app.starts == 1


def test_a_release_that_fails_only_in_place_is_rolled_back_by_a_restart(service):
    """It serves as the bridge, until what supervisord starts takes over: the link is back."""
    app = service.app
    pid = service.wait_up()
    service.upload(
        "bad", "import os\nassert os.environ.get('ENDLESS_PY_CHANNEL', '').count(':') == 1"
    )
    status, _, complaint = service.deploy("bad")
    assert status == 1
    assert complaint.endswith("bad was given up; back to releases/1.0\n")
    new = until(lambda: [s for s in [service.status()] if s and s[0] != pid])[0][0]
    until(lambda: app.answer() == f"1 {new} 1.0 end")


def test_a_release_that_is_not_there_changes_nothing(service):
    pid = service.wait_up()
    assert "which release?" in service.deploy()[2]
    status, said, complaint = service.deploy("9.9")
    assert (status, said) == (1, "")
    assert "9.9.tar.gz" in complaint
    assert service.current == "releases/1.0"
    assert os.listdir(service.app.folder / "releases") == ["1.0"]
    assert get(service.app.port) == f"0 {pid} 1.0 end"


def test_a_program_that_replaces_itself_keeps_its_pid(service):
    """The same folders, and no deploy by hand: the program takes what is uploaded."""
    app = service.app
    upload = app.folder / "uploads" / "app.tar.gz"
    start = (
        "from endless_py import upgrade\n"
        f"upgrade.Updater(upgrade.FileSource({str(upload)!r}), {str(app.folder / 'current')!r}, "
        "interval=0.2).start()"
    )

    def publish(tag: str, more: str = "") -> None:
        service.upload(tag, f"{start}\n{more}")
        os.replace(app.folder / "uploads" / f"{tag}.tar.gz", upload)

    pid = service.wait_up()
    service.upload("1.1", start)
    assert service.deploy("1.1")[0] == 0
    with Load(app.port) as load:
        publish("1.2")
        until(lambda: app.answer() == f"2 {pid} 1.2 end")
        publish("bad", "1 / 0")
        until(lambda: "ZeroDivisionError" in app.log)
        until(lambda: "is refused" in app.log)
        publish("1.3")
        until(lambda: app.answer() == f"3 {pid} 1.3 end")
    assert load.lost == []
    assert service.status()[0] == pid
