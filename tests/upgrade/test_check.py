"""Checks: what is not what it should be is refused with a line that says why."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
from apps import main, zipapp
from harness import TIMEOUT, Program, environment

from endless_py import upgrade
from endless_py._handoff.command_line import CommandLine
from endless_py._reload import process
from endless_py.upgrade import versions

CONTENT = b"an artifact"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def artifact(tmp_path):
    (tmp_path / "app.pyz").write_bytes(CONTENT)
    return upgrade.Artifact(tmp_path / "app.pyz")


def candidate(artifact, **more):
    return upgrade.Candidate(artifact, artifact.path, Path("/srv/app.pyz"), **more)


def beside(artifact, name, content):
    artifact.path.with_name(name).write_bytes(content)


# -- digests ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SHA256SUMS", f"{'0' * 64}  other.pyz\n{DIGEST}  app.pyz\n"),
        ("SHA256SUMS", f"{DIGEST.upper()} *app.pyz\r\n"),
        ("SHA256SUMS", f"{DIGEST}  ./dist/app.pyz\n"),
        ("app.pyz.sha256", f"{DIGEST}\n"),
        ("app.pyz.sha256", f"{DIGEST}  app.pyz\n"),
    ],
)
def test_a_published_digest_is_found_and_compared(artifact, name, text):
    beside(artifact, name, text.encode())
    upgrade.SHA256().run(candidate(artifact))
    artifact.path.write_bytes(CONTENT[:-1])
    with pytest.raises(upgrade.Refused, match=f"the SHA-256 of app.pyz is .*published is {DIGEST}"):
        upgrade.SHA256().run(candidate(artifact))


def test_without_a_digest_an_artifact_is_refused(artifact):
    beside(artifact, "SHA256SUMS", f"{DIGEST}  other.pyz\n".encode())
    with pytest.raises(upgrade.Refused, match=r"no digest of app\.pyz: neither SHA256SUMS nor"):
        upgrade.SHA256().run(candidate(artifact))
    named = upgrade.Artifact(artifact.path, sha256=DIGEST)
    upgrade.SHA256().run(candidate(named))
    beside(artifact, "SHA256SUMS", b"123  app.pyz\n")
    with pytest.raises(upgrade.Refused, match=r"'123' for app\.pyz, no SHA-256"):
        upgrade.SHA256().run(candidate(named))


# -- signatures ---------------------------------------------------------------


def keys():
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    private = ed25519.Ed25519PrivateKey.generate()
    return private, private.public_key().public_bytes_raw()


def test_a_signature_by_one_of_the_keys_passes(artifact):
    private, public = keys()
    _, other_public = keys()
    signature = private.sign(CONTENT)
    from cryptography.hazmat.primitives import serialization as form

    pem = private.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    )
    for key in (public, public.hex(), base64.b64encode(public).decode(), pem, pem.decode()):
        for written in (signature, signature.hex().encode(), base64.b64encode(signature) + b"\n"):
            beside(artifact, "app.pyz.sig", written)
            upgrade.Ed25519(key).run(candidate(artifact))
    upgrade.Ed25519([other_public, public]).run(candidate(artifact))
    with pytest.raises(upgrade.Refused, match="not by the expected key"):
        upgrade.Ed25519(other_public).run(candidate(artifact))
    artifact.path.write_bytes(CONTENT + b"?")
    with pytest.raises(upgrade.Refused, match="not by the expected key"):
        upgrade.Ed25519(public).run(candidate(artifact))
    beside(artifact, "app.pyz.sig", b"short")
    with pytest.raises(upgrade.Refused, match="should have 64 bytes"):
        upgrade.Ed25519(public).run(candidate(artifact))
    artifact.path.with_name("app.pyz.sig").unlink()
    with pytest.raises(upgrade.Refused, match=r"not signed: there is no app\.pyz\.sig"):
        upgrade.Ed25519(public).run(candidate(artifact))
    with pytest.raises(ValueError, match="32 bytes"):
        upgrade.Ed25519("abc")


def test_cryptography_is_only_needed_by_those_who_use_it(tmp_path):
    (tmp_path / "cryptography.py").write_text("raise ImportError('not there')")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from endless_py import upgrade\n"
        "assert 'cryptography' not in sys.modules\n"
        "try: upgrade.Ed25519(bytes(32))\n"
        "except upgrade.UpgradeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert "pip install 'endless-py[signatures]'" in done.stdout, done.stderr


# -- versions -----------------------------------------------------------------


def test_versions_are_ordered_by_the_documented_rule():
    ordered = ["0.9", "1.0-3", "1.0.dev1", "1.0a1", "1.0-alpha.2", "1.0b1", "1.0-beta.2"]
    ordered += ["1.0-beta.11", "1.0rc1", "v1.0", "1.0.post1", "1.0.1", "1.2", "1.10", "2.0"]
    for index, version in enumerate(ordered):
        for later in ordered[index + 1 :]:
            assert versions.is_older(version, later), (version, later)
            assert not versions.is_older(later, version), (later, version)
    for same in ("1.2.0", "v1.2", "1.2+build.7"):
        assert versions.key(same) == versions.key("1.2")
    with pytest.raises(upgrade.Refused, match="'latest' is no version"):
        versions.key("latest")


def test_versions_are_read_from_names():
    assert versions.in_name("app-1.2.3.pyz") == "1.2.3"
    assert versions.in_name("app_v2.0rc1.tar.gz") == "2.0rc1"
    assert versions.in_name("app-1.2.3-py3-none-any.zip") == "1.2.3"
    assert versions.in_name("app.pyz") is None
    assert versions.in_name("app-2.pyz") is None


def test_an_older_version_is_refused(artifact):
    check = upgrade.NoDowngrade()
    check.run(candidate(artifact, version="1.0", installed=None))
    check.run(candidate(artifact, version="1.0", installed="1.0"))
    check.run(candidate(artifact, version="1.1", installed="1.1rc1"))
    with pytest.raises(upgrade.Refused, match=r"it is 1\.9, older than 1\.10 in place"):
        check.run(candidate(artifact, version="1.9", installed="1.10"))
    with pytest.raises(upgrade.Refused, match="it says no version"):
        check.run(candidate(artifact, version=None, installed="1.10"))


# -- dry starts ---------------------------------------------------------------


@pytest.fixture
def own_command(monkeypatch, tmp_path):
    """This process's command line, as if it were `python app.pyz` in tmp_path."""

    def pretend(*words, directory=tmp_path):
        command = CommandLine(sys.executable, ["python", *words], str(directory))
        monkeypatch.setattr(process.current.spawn, "command", command)

    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    pretend("app.pyz")
    return pretend


def app(tmp_path, content):
    """A candidate beside the place where it would be put."""
    (tmp_path / "new").mkdir(exist_ok=True)
    path = tmp_path / "new" / "app.pyz"
    path.write_bytes(content)
    return upgrade.Candidate(upgrade.Artifact(path), path, tmp_path / "app.pyz")


def test_a_version_that_reaches_its_server_passes_and_binds_nothing(own_command, tmp_path):
    mark = tmp_path / "mark"
    code = zipapp(
        "1", f"open({str(mark)!r}, 'a').write('start')", f"open({str(mark)!r}, 'a').write('bound')"
    )
    upgrade.DryStart().run(app(tmp_path, code))
    assert mark.read_text() == "start"
    assert os.listdir(tmp_path / "new") == ["app.pyz"]


BROKEN = {
    "syntax error": (b"def", r"it ended with status 1 before .*SyntaxError"),
    "exception": (b"raise RuntimeError('bro' + 'ken')", r"status 1 .*RuntimeError: broken"),
    "no server": (b"print('done')", r"it ended with status 0 before .*: done"),
    "killed": (b"import os; os.kill(os.getpid(), 9)", r"it ended by signal 9 before"),
    "hang": (b"import time; print('waits'); time.sleep(60)", r"no server within 1 s"),
    "wrong answer": (
        b"import os; os.write(int(os.environ['ENDLESS_PY_DRY_START'].split(':')[0]), b'ready\\n')",
        r"it ended with status 0 before",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_version_that_does_not_start_is_refused(name, own_command, tmp_path):
    code, reason = BROKEN[name]
    # "hang" leaves a process of its own too, which has to go with it
    code = b"import os\nif os.fork() == 0: import time; time.sleep(60)\n" * (name == "hang") + code
    timeout = 1 if name == "hang" else TIMEOUT
    found = app(tmp_path, b"")
    with zipfile.ZipFile(found.release, "w") as made:
        made.writestr("__main__.py", code)
    start = time.monotonic()
    with pytest.raises(upgrade.Refused, match=f"its dry start fails: .*{reason}"):
        upgrade.DryStart(timeout=timeout).run(found)
    assert time.monotonic() - start < 20
    while any(
        str(found.release).encode() in _read(entry)
        for entry in Path("/proc").glob("[0-9]*/cmdline")
    ):  # what was killed takes a moment to go
        assert time.monotonic() - start < TIMEOUT
        time.sleep(0.01)


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("how", ["thread", "bare except", "handle_request", "late bind"])
def test_no_program_serves_in_a_dry_start(how, own_command, tmp_path):
    programs = {
        "thread": """
            import threading
            from endless_py.http.server import HTTPServer
            thread = threading.Thread(target=lambda: HTTPServer(("127.0.0.1", 0), None))
            thread.start(); thread.join()
            open("mark", "w")
        """,
        "bare except": """
            from endless_py.http.server import HTTPServer
            for _ in range(2):
                try: HTTPServer(("127.0.0.1", 0), None); open("mark", "w")
                except: pass
        """,
        "handle_request": """
            import socket
            from endless_py.http.server import HTTPServer
            server = HTTPServer(("127.0.0.1", 0), None, bind_and_activate=False)
            server.socket.bind(("127.0.0.1", 0)); server.socket.listen()
            server.handle_request()
            open("mark", "w")
        """,
        "late bind": """
            from endless_py.http.server import HTTPServer
            server = HTTPServer(("127.0.0.1", 0), None, bind_and_activate=False)
            server.server_bind()
            open("mark", "w")
        """,
    }
    found = app(tmp_path, b"")
    with zipfile.ZipFile(found.release, "w") as made:
        made.writestr("__main__.py", textwrap.dedent(programs[how]))
    upgrade.DryStart(timeout=TIMEOUT).run(found)
    assert (tmp_path / "mark").exists() == (how == "thread")  # what is after the thread


def test_the_command_line_leads_to_the_candidate(own_command, tmp_path):
    release = tmp_path / "new"
    release.mkdir()
    (release / "app.py").write_text(main("2", "import sys; assert sys.argv[1:] == ['-m', 'x']"))
    found = upgrade.Candidate(upgrade.Artifact(release), release, tmp_path / "current")
    own_command("current/app.py", "-m", "x")
    upgrade.DryStart().run(found)
    own_command(str(tmp_path / "current" / "app.py"), "-m", "x", directory="/")
    upgrade.DryStart().run(found)
    own_command("app.py", "-m", "x", directory=tmp_path / "current")
    upgrade.DryStart().run(found)
    own_command("-m", "app")
    with pytest.raises(
        upgrade.Refused, match=r"cannot be done: .*/current is not in this .* -m app"
    ):
        upgrade.DryStart().run(found)
    upgrade.DryStart([sys.executable, "{release}/app.py", "-m", "x"]).run(found)


def test_a_challenge_from_nowhere_is_said_and_ignored():
    env = environment(ENDLESS_PY_DRY_START="77:token")
    with Program("http_server.py", "HTTPServer", 0, env=env) as program:
        pid = program.wait_serving()
        program.wait("ENDLESS_PY_DRY_START is ignored and removed: .*; this process serves")
        program.stop(pid)
