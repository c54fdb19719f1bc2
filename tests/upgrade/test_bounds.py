"""Whoever offers an artifact can neither use up the program, nor stop it, nor read its secrets."""

from __future__ import annotations

import io
import lzma
import os
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest
from apps import tar, zipapp
from file_server import FileServer
from harness import TIMEOUT, environment

from endless_py import upgrade
from endless_py.upgrade import files, transfer, worker

OK = upgrade.Reloaded(True)


def updater_of(source, target, **more):
    return upgrade.Updater(source, target, dry_start=False, reload=lambda: OK, **more)


def tar_of(path, name):
    with tarfile.open(path, "w:gz") as made:
        made.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


# -- unpacking ------------------------------------------------------------------


def test_an_archive_that_needs_much_memory_is_refused(tmp_path):
    window = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 256 << 20}]
    compressor = lzma.LZMACompressor(filters=window)
    path = tmp_path / "app.tar.xz"
    header = tarfile.TarInfo("zeros")
    header.size = 1 << 20
    data = compressor.compress(header.tobuf() + bytes(header.size)) + compressor.flush()
    path.write_bytes(data)
    with worker.Worker(memory=200 << 20) as second:
        where = worker.places(path, tmp_path / "release")
        with pytest.raises(upgrade.Refused, match="it needs more than 200 MB of memory"):
            second.ask("unpack", **where, limits=[1 << 30, 10])
        assert not (tmp_path / "release").exists()
        # and it can be asked again
        assert second.ask("digests", paths=[str(tmp_path / "none")]) == [None]


@pytest.mark.parametrize("name", ["d/" * 64 + "x", "d/" * 1200 + "x", "n" * 1025], ids=len)
def test_a_member_that_lies_too_deep_or_has_a_long_name_is_refused(name, tmp_path):
    path = tar_of(tmp_path / "app.tar.gz", name)
    with pytest.raises(upgrade.Refused, match="lies deeper than 64 folders or has a name"):
        upgrade.unpack(path, tmp_path / "release")
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as made:
        made.writestr(name, "?")
    with pytest.raises(upgrade.Refused, match="lies deeper than 64 folders or has a name"):
        upgrade.unpack(tmp_path / "app.zip", tmp_path / "release")
    assert not (tmp_path / "release").exists()


@pytest.mark.slow
def test_a_folder_that_lies_too_deep_to_be_walked_is_removed(tmp_path):
    before = os.getcwd()
    os.mkdir(tmp_path / "top")
    os.chdir(tmp_path / "top")
    try:
        for _ in range(1200):
            os.mkdir("d" * 100)
            Path("file").write_text("?")
            os.chdir("d" * 100)
    finally:
        os.chdir(before)
    files.remove(tmp_path / "top")
    assert os.listdir(tmp_path) == []


def test_unpacking_ends_when_its_time_is_over(tmp_path):
    os.mkfifo(tmp_path / "app.pyz")  # nobody writes: it never ends
    late = pytest.raises(upgrade.Refused, match=r"it was not unpacked within 0\.5 s")
    with worker.Worker(timeout=0.5) as second, late:
        second.ask("digests", paths=[str(tmp_path / "app.pyz")])
    second._process.wait(TIMEOUT)


def test_a_process_that_dies_while_it_unpacks_is_said(tmp_path):
    with worker.Worker() as second:
        second.ask("digests", paths=[])
        second._process.kill()
        second._process.wait(TIMEOUT)
        with pytest.raises(upgrade.UpgradeError, match="has ended before it was done"):
            second.ask("digests", paths=[])


def test_the_process_that_unpacks_ends_with_the_one_that_asked(tmp_path):
    code = (
        "import os\n"
        "from endless_py.upgrade import worker\n"
        "second = worker.Worker().__enter__()\n"
        "second.ask('digests', paths=[])\n"
        "print(second._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, timeout=TIMEOUT
    )
    pid = int(done.stdout)
    until = time.monotonic() + TIMEOUT
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < until
        time.sleep(0.02)


# -- files ----------------------------------------------------------------------


@pytest.fixture
def no_umask():
    before = os.umask(0)
    yield
    os.umask(before)


class Careless(upgrade.Source):
    """Makes files that everybody may write."""

    def __init__(self, name, content):
        self.name, self.content = name, content

    def fetch(self, known, into, beside):
        assert stat.S_IMODE(into.stat().st_mode) == 0o700  # nobody else gets that far
        (into / self.name).write_bytes(self.content)
        (into / self.name).chmod(0o666)
        return upgrade.Artifact(into / self.name)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_nothing_can_be_written_by_others_whatever_the_umask(kind, tmp_path, no_umask):
    top = tmp_path / "a" / "b"
    if kind == "file":
        top.mkdir(parents=True, mode=0o755)
        source, target = Careless("app.pyz", zipapp("2.0")), top / "app.pyz"
        target.write_bytes(zipapp("1.0"))
        assert stat.S_IMODE(target.stat().st_mode) == 0o666
        updater = updater_of(source, target)
    else:
        source = Careless("app.tar.gz", tar("2.0"))
        updater = updater_of(source, tmp_path / "current", releases=top / "releases")
        (tmp_path / "a").mkdir(mode=0o755)
    assert updater.look().result == "upgraded"
    found = [p for p in (tmp_path / "a").rglob("*") if not p.is_symlink()]
    assert len(found) > 4
    for path in found:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o022, path


def test_an_artifact_that_is_a_fifo_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "app.pyz")
    (tmp_path / "into").mkdir()
    with pytest.raises(upgrade.SourceError, match="is not a regular file"):
        upgrade.FileSource(tmp_path / "app.pyz").fetch(None, tmp_path / "into", [])


# -- transfers ------------------------------------------------------------------


class Drip:
    """Accepts connections, and sends a beginning and then a byte at a time for ever."""

    def __init__(self, beginning=b""):
        self.beginning = beginning
        self.cut = threading.Event()

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def _serve(self):
        connection, _ = self._listener.accept()
        with connection:
            try:
                connection.sendall(self.beginning)
                for _ in range(300):
                    connection.sendall(b"x")
                    time.sleep(0.1)
            except OSError:
                self.cut.set()

    def __exit__(self, *_):
        self._thread.join(TIMEOUT)
        self._listener.close()


def fetch(source, tmp_path):
    (tmp_path / "into").mkdir()
    return source.fetch(None, tmp_path / "into", [])


@pytest.mark.parametrize(
    ("scheme", "beginning"),
    [
        ("http", b"HTTP/1.1 200 OK\r\nX-Slow: "),
        ("http", b"HTTP/1.1 302 Found\r\nLocation: /\r\nX-Slow: "),
        ("http", b"HTTP/1.1 404 No\r\nContent-Length: 100000\r\nX-Slow: "),
        # a handshake record of 16 KiB, which never comes whole
        ("https", b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"),
    ],
    ids=["headers", "redirect", "error", "handshake"],
)
def test_the_total_time_bounds_whatever_drips(scheme, beginning, tmp_path):
    with Drip(beginning) as server:
        url = f"{scheme}://127.0.0.1:{server.port}/app.pyz"
        start = time.monotonic()
        with pytest.raises(upgrade.SourceError, match=r"not done within 1 s"):
            fetch(upgrade.HTTPSource(url, total_timeout=1), tmp_path)
        assert time.monotonic() - start < 5
        assert server.cut.wait(TIMEOUT)


def test_the_total_time_bounds_a_proxy_and_its_tunnel(tmp_path, monkeypatch):
    with Drip(b"HTTP/1.1 200 OK\r\nX-Slow: ") as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        source = upgrade.HTTPSource("https://artifacts.invalid/app.pyz", total_timeout=1)
        with pytest.raises(upgrade.SourceError, match=r"not done within 1 s"):
            fetch(source, tmp_path)
        assert proxy.cut.wait(TIMEOUT)


def test_the_total_time_bounds_the_resolution_of_a_name(tmp_path, monkeypatch):
    released = threading.Event()

    def resolve(*arguments):
        released.wait(TIMEOUT)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(upgrade.SourceError, match=r"not done within 0\.3 s"):
        fetch(upgrade.HTTPSource("http://artifacts.invalid/app.pyz", total_timeout=0.3), tmp_path)
    released.set()


def test_the_body_of_a_redirect_is_not_waited_for(tmp_path):
    with FileServer() as server:
        server.put("/app.pyz", b"content")
        head = f"HTTP/1.1 302 Found\r\nLocation: {server.url}/app.pyz\r\n\r\n".encode()
        with Drip(head) as slow:
            source = upgrade.HTTPSource(f"http://127.0.0.1:{slow.port}/app.pyz", total_timeout=20)
            start = time.monotonic()
            assert fetch(source, tmp_path).path.read_bytes() == b"content"
            assert time.monotonic() - start < 5


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/app.pyz", "file:///etc/passwd", "data:,x"])
def test_a_redirect_to_another_scheme_is_refused(url, tmp_path):
    with FileServer() as server:
        server.redirects["/app.pyz"] = url
        with pytest.raises(upgrade.Refused, match=r"redirects from http to \w+; not followed"):
            fetch(upgrade.HTTPSource(f"{server.url}/app.pyz"), tmp_path)


# -- secrets --------------------------------------------------------------------


def test_what_is_secret_in_a_url_is_neither_logged_nor_kept(tmp_path, caplog):
    caplog.set_level("DEBUG")
    with FileServer() as server, FileServer() as other:
        server.redirects["/a.pyz?token=SECRET"] = f"{other.url}/b.pyz?signature=SECRET"
        server.redirects["/c.pyz?token=SECRET"] = "ftp://host/?SECRET"
        server.redirects["/d.pyz?token=SECRET"] = "http://me:SECRET@127.0.0.1/d.pyz"
        server.put("/e.pyz?token=SECRET", bytes(1000))
        for name in "abcde":
            target = tmp_path / name / "app.pyz"
            target.parent.mkdir()
            source = upgrade.HTTPSource(f"{server.url}/{name}.pyz?token=SECRET", max_size=10)
            outcome = updater_of(source, target).look()
            assert outcome.result == "error", outcome
            assert "SECRET" not in outcome.text + str(source)
        for path in tmp_path.rglob("*"):
            assert "SECRET" not in path.name
            if path.is_file():
                assert b"SECRET" not in path.read_bytes()
    assert "SECRET" not in caplog.text


def test_a_wrong_url_or_header_does_not_show_what_is_secret():
    for url in ("http://me:SECRET@host/app.pyz", "ftp://host/?SECRET", "http://h/a b?SECRET"):
        with pytest.raises(ValueError, match=r"URL|user's name") as caught:
            upgrade.HTTPSource(url)
        assert "SECRET" not in str(caught.value)
    with pytest.raises(ValueError, match="the header 'X-Key' has characters") as caught:
        upgrade.HTTPSource("http://host/app.pyz", headers={"X-Key": "SECRET\n"})
    assert "SECRET" not in str(caught.value)


def test_headers_go_to_the_origin_that_was_asked_and_to_no_other(tmp_path):
    with FileServer() as server, FileServer() as other:
        server.redirects["/app.pyz"] = f"{other.url}/app.pyz"
        other.redirects["/app.pyz"] = f"{server.url}/back.pyz"
        server.put("/back.pyz", b"content")
        source = upgrade.HTTPSource(f"{server.url}/app.pyz", headers={"X-Key": "SECRET"})
        assert fetch(source, tmp_path).path.read_bytes() == b"content"
        assert server.requests[0][1]["X-Key"] == "SECRET"
        assert "X-Key" not in other.requests[0][1]
        # an address that an answer names is not trusted more than a redirect
        ask = transfer.Transfer(transfer.Limits(), server.url, {"X-Key": "SECRET"})
        other.put("/asset", b"?")
        with ask.open(f"{other.url}/asset", {}) as answer:
            answer.read()
        assert "X-Key" not in other.requests[-1][1]


def test_what_others_say_is_one_line_that_no_terminal_obeys(tmp_path, caplog):
    class Loud(upgrade.Source):
        def fetch(self, known, into, beside):
            raise upgrade.SourceError("\x1b[2J\nupgrade: version 9 serves" + "x" * 5000)

    outcome = updater_of(Loud(), tmp_path / "app.pyz").look()
    assert outcome.text.isprintable()
    assert len(outcome.text) < 2000
    assert "\x1b" not in caplog.text
