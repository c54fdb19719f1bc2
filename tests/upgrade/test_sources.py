"""Sources: what is new is fetched whole, what is not is not fetched at all."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from file_server import FileServer, GitHub
from harness import TIMEOUT, environment

from endless_py import upgrade
from endless_py.upgrade import transfer

CONTENT = os.urandom(300_000)


def fetch(source, folder, known=None, beside=()):
    """Fetch into a new folder, as an Updater does."""
    into = folder / f"into{len(list(folder.iterdir()))}"
    into.mkdir()
    artifact = source.fetch(known, into, beside)
    assert [p.name for p in into.iterdir() if p.name.endswith(".part")] == []
    return artifact


def known_of(artifact):
    return upgrade.Known(artifact.version, None, artifact.marks)


@pytest.fixture
def server():
    with FileServer() as server:
        server.put("/app-1.2.pyz", CONTENT)
        yield server


# -- a source of ten lines ----------------------------------------------------


def test_a_source_of_ones_own_is_ten_lines(tmp_path):
    class Shelf(upgrade.Source):
        def fetch(self, known, into, beside):
            if known is not None and known.marks.get("version") == "7.1":
                return None
            path = into / "app.pyz"
            path.write_bytes(CONTENT)
            return upgrade.Artifact(path, "7.1", marks={"version": "7.1"})

    artifact = fetch(Shelf(), tmp_path)
    assert artifact.version == "7.1"
    assert fetch(Shelf(), tmp_path, known_of(artifact)) is None
    assert str(Shelf()) == "Shelf"


# -- files --------------------------------------------------------------------


def test_a_file_is_fetched_with_what_lies_beside_it_and_only_when_it_has_changed(tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "app-1.2.pyz").write_bytes(CONTENT)
    (shelf / "SHA256SUMS").write_text("sums")
    (shelf / "app.pyz").symlink_to("app-1.2.pyz")
    source = upgrade.FileSource(shelf / "app.pyz")
    beside = ["SHA256SUMS", "{name}.sig"]
    artifact = fetch(source, tmp_path, None, beside)
    assert artifact.path.read_bytes() == CONTENT
    assert artifact.version == "1.2"
    assert (artifact.path.parent / "SHA256SUMS").read_text() == "sums"
    known = known_of(artifact)
    assert fetch(source, tmp_path, known, beside) is None
    (shelf / "app.pyz.sig").write_bytes(b"now signed")
    artifact = fetch(source, tmp_path, known, beside)
    assert (artifact.path.parent / "app.pyz.sig").read_bytes() == b"now signed"


def test_a_file_that_is_missing_or_too_large_says_so(tmp_path):
    with pytest.raises(upgrade.SourceError, match=r"cannot read .*nothing.pyz"):
        fetch(upgrade.FileSource(tmp_path / "nothing.pyz"), tmp_path)
    (tmp_path / "large.pyz").write_bytes(CONTENT)
    with pytest.raises(upgrade.Refused, match="larger than the limit of 1000 bytes"):
        fetch(upgrade.FileSource(tmp_path / "large.pyz", max_size=1000), tmp_path)


# -- HTTP ---------------------------------------------------------------------


@pytest.mark.parametrize("etag", [True, False], ids=["etag", "last-modified"])
def test_a_url_is_fetched_once_until_it_changes(server, tmp_path, etag):
    server.etag = etag
    source = upgrade.HTTPSource(f"{server.url}/app-1.2.pyz")
    artifact = fetch(source, tmp_path)
    assert artifact.path.read_bytes() == CONTENT
    assert artifact.path.name == "app-1.2.pyz"
    assert artifact.version == "1.2"
    assert fetch(source, tmp_path, known_of(artifact)) is None
    name = "If-None-Match" if etag else "If-Modified-Since"
    assert name in server.requests[-1][1]
    server.put("/app-1.2.pyz", b"new")
    assert fetch(source, tmp_path, known_of(artifact)).path.read_bytes() == b"new"


def test_files_beside_a_url_are_fetched_and_a_late_one_makes_it_new(server, tmp_path):
    source = upgrade.HTTPSource(f"{server.url}/app-1.2.pyz")
    beside = ["SHA256SUMS", "{name}.sig"]
    server.put("/SHA256SUMS", b"sums")
    artifact = fetch(source, tmp_path, None, beside)
    assert (artifact.path.parent / "SHA256SUMS").read_bytes() == b"sums"
    assert not (artifact.path.parent / "app-1.2.pyz.sig").exists()
    assert fetch(source, tmp_path, known_of(artifact), beside) is None
    server.put("/app-1.2.pyz.sig", b"signed")
    artifact = fetch(source, tmp_path, known_of(artifact), beside)
    assert (artifact.path.parent / "app-1.2.pyz.sig").read_bytes() == b"signed"


def test_a_broken_transfer_goes_on_where_it_broke(server, tmp_path):
    server.cuts = [100_000, 50_000]
    artifact = fetch(upgrade.HTTPSource(f"{server.url}/app-1.2.pyz"), tmp_path)
    assert artifact.path.read_bytes() == CONTENT
    asked = [headers.get("Range") for _, headers in server.requests]
    assert asked == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("why", ["no ranges", "weak etag", "changed"])
def test_a_broken_transfer_starts_anew_where_it_cannot_go_on(server, tmp_path, why):
    server.ranges = why != "no ranges"
    server.weak = why == "weak etag"
    server.cuts = [100_000]
    expected = CONTENT
    if why == "changed":
        expected = os.urandom(200_000)
        server.before_cut = lambda: server.put("/app-1.2.pyz", expected)
    artifact = fetch(upgrade.HTTPSource(f"{server.url}/app-1.2.pyz"), tmp_path)
    assert artifact.path.read_bytes() == expected
    assert len(server.requests) == 2


def test_a_transfer_that_breaks_again_and_again_is_given_up(server, tmp_path):
    server.cuts = [0] * 50
    with pytest.raises(upgrade.SourceError, match="cannot fetch http"):
        fetch(upgrade.HTTPSource(f"{server.url}/app-1.2.pyz"), tmp_path)
    assert len(server.requests) < 10


def test_content_encoded_with_gzip_is_decoded_within_the_limit(server, tmp_path):
    server.encode = True
    server.put("/zeros.pyz", bytes(10_000_000))
    url = f"{server.url}/zeros.pyz"
    artifact = fetch(upgrade.HTTPSource(url), tmp_path)
    assert artifact.path.read_bytes() == bytes(10_000_000)
    with pytest.raises(upgrade.Refused, match="decompressed, is larger than the limit"):
        fetch(upgrade.HTTPSource(url, max_size=1_000_000), tmp_path)
    server.cuts = [5_000]
    assert fetch(upgrade.HTTPSource(url), tmp_path).path.read_bytes() == bytes(10_000_000)


def test_a_url_that_sends_too_much_is_refused(server, tmp_path):
    source = upgrade.HTTPSource(f"{server.url}/app-1.2.pyz", max_size=100_000)
    with pytest.raises(upgrade.Refused, match="larger than the limit of 100000 bytes"):
        fetch(source, tmp_path)


def test_a_server_that_says_nothing_or_drips_is_given_up_in_time(server, tmp_path):
    start = time.monotonic()
    server.drip = 10
    source = upgrade.HTTPSource(f"{server.url}/app-1.2.pyz", total_timeout=0.7)
    with pytest.raises(upgrade.SourceError, match=r"not done within 0\.7 s"):
        fetch(source, tmp_path)
    server.silent = True
    source = upgrade.HTTPSource(f"{server.url}/app-1.2.pyz", timeout=0.3)
    with pytest.raises(upgrade.SourceError, match="timed out"):
        fetch(source, tmp_path)
    assert time.monotonic() - start < 10


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["in the headers", "while it connects"])
def test_headers_that_drip_are_given_up_in_time(late, tmp_path, monkeypatch):
    resolve, most = socket.getaddrinfo, 2.0

    def resolve_late(*arguments):
        time.sleep(most)
        return resolve(*arguments)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                    for _ in range(300):
                        connection.sendall(b"x")
                        time.sleep(0.1)
                except OSError:
                    given_up.set()

        given_up = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/app.pyz"
        if late:
            monkeypatch.setattr(socket, "getaddrinfo", resolve_late)
        with pytest.raises(upgrade.SourceError, match=r"not done within 2 s"):
            fetch(upgrade.HTTPSource(url, total_timeout=most), tmp_path)
        thread.join(TIMEOUT)
        assert given_up.is_set()


def test_errors_of_a_server_are_one_line_with_the_time_it_asks_for(server, tmp_path):
    with pytest.raises(upgrade.SourceError, match="pyz answers 404"):
        fetch(upgrade.HTTPSource(f"{server.url}/nothing.pyz"), tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(upgrade.SourceError, match="refused"):
        fetch(upgrade.HTTPSource(f"http://127.0.0.1:{port}/app.pyz"), tmp_path)
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    assert transfer.pause_asked_for({"Retry-After": "17"}) == 17
    assert 90 < transfer.pause_asked_for({"Retry-After": later}) <= 100
    assert transfer.pause_asked_for({"Retry-After": "soon"}) is None


@pytest.mark.parametrize("url", ["file:///etc/passwd", "app.pyz", "ftp://host/app.pyz"])
def test_a_url_of_another_kind_is_refused_at_once(url):
    with pytest.raises(ValueError, match="no URL of http"):
        upgrade.HTTPSource(url)


def test_no_header_of_the_users_is_sent_to_the_origin_of_a_redirect(server, tmp_path):
    with FileServer() as other:
        other.put("/other-2.0.pyz", b"content")
        server.redirects["/app.pyz"] = f"{other.url}/other-2.0.pyz"
        headers = {"Authorization": "Bearer secret", "JOB-TOKEN": "secret", "User-Agent": "secret"}
        source = upgrade.HTTPSource(f"{server.url}/app.pyz", headers=headers)
        artifact = fetch(source, tmp_path)
        assert artifact.version == "2.0"
        assert artifact.path.name == "app.pyz"
        assert server.requests[0][1]["Authorization"] == "Bearer secret"
        assert "secret" in server.requests[0][1].values()
        assert "secret" not in "".join(other.requests[0][1].values())


def test_proxies_are_those_of_the_environment(server, tmp_path):
    """The server is asked for a host that does not exist: as a proxy it answers."""
    url = "http://artifacts.invalid/app-1.2.pyz"
    server.files[url], server.times[url] = b"through a proxy", 0
    code = (
        "import pathlib, sys\n"
        "from endless_py import upgrade\n"
        "source = upgrade.HTTPSource(sys.argv[1])\n"
        "print(source.fetch(None, pathlib.Path(sys.argv[2]), []).path.read_text())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, url, str(tmp_path)],
        env=environment(http_proxy=server.url, no_proxy=""),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.stdout == "through a proxy\n", done.stderr


# -- GitHub -------------------------------------------------------------------


@pytest.fixture
def github():
    with GitHub(token="secret") as github:
        github.release("v1.0", {"app-1.0.pyz": b"one", "notes.txt": b"notes"})
        yield github


def source_of(github, channel="latest", token="secret"):
    return upgrade.GitHubSource(
        github.repo, "app-*.pyz", channel=channel, token=token, api=github.url
    )


def test_the_latest_release_is_fetched_once(github, tmp_path):
    github.release("v1.1", {"app-1.1.pyz": b"eleven"})
    github.release("v2.0rc1", {"app-2.0.pyz": b"candidate"}, prerelease=True)
    github.release("v9", {"app-9.pyz": b"draft"}, draft=True)
    source = source_of(github)
    artifact = fetch(source, tmp_path)
    assert (artifact.version, artifact.path.name) == ("v1.1", "app-1.1.pyz")
    assert artifact.path.read_bytes() == b"eleven"
    assert artifact.sha256 is not None
    before = github.remaining
    assert fetch(source_of(github), tmp_path, known_of(artifact)) is None
    assert github.remaining == before  # 304 costs nothing
    assert "Authorization" not in github.storage.requests[-1][1]
    github.releases[2]["assets"][0]["download_count"] = 17  # another ETag, nothing new
    assert fetch(source, tmp_path, known_of(artifact)) is None
    assert fetch(source, tmp_path, known_of(artifact)) is None
    assert len(github.storage.requests) == 1


def test_channels_are_prereleases_or_patterns_of_tags(github, tmp_path):
    github.release("v2.0rc1", {"app-2.0.pyz": b"candidate"}, prerelease=True)
    github.release("v1.1", {"app-1.1.pyz": b"eleven"})
    github.release("v9", {"app-9.pyz": b"draft"}, draft=True)
    assert fetch(source_of(github, "prerelease"), tmp_path).version == "v1.1"
    assert fetch(source_of(github, "v2.*"), tmp_path).version == "v2.0rc1"
    with pytest.raises(upgrade.SourceError, match=r"no release in the channel 'v3\.\*'"):
        fetch(source_of(github, "v3.*"), tmp_path)


def test_an_asset_has_to_be_the_only_one_and_the_token_right(github, tmp_path):
    github.release("v1.1", {"app-a.pyz": b"a", "app-b.pyz": b"b"})
    with pytest.raises(upgrade.SourceError, match=r"2 assets .* it has: app-a.pyz, app-b.pyz"):
        fetch(source_of(github), tmp_path)
    with pytest.raises(upgrade.SourceError, match=r"404.*is the token right"):
        fetch(source_of(github, token="wrong"), tmp_path)
    with pytest.raises(ValueError, match="owner/name"):
        upgrade.GitHubSource("app", "*")


def test_files_beside_an_asset_are_assets_of_the_same_release(github, tmp_path):
    github.release("v1.1", {"app-1.1.pyz": b"eleven", "SHA256SUMS": b"sums"})
    artifact = fetch(source_of(github), tmp_path, None, ["SHA256SUMS", "{name}.sig"])
    assert (artifact.path.parent / "SHA256SUMS").read_bytes() == b"sums"
    assert not (artifact.path.parent / "app-1.1.pyz.sig").exists()


@pytest.mark.parametrize("kind", ["reset", "retry-after", "429"])
def test_a_rate_limit_is_honoured(github, tmp_path, kind):
    github.remaining = 0 if kind == "reset" else 10
    github.refusal = {"Retry-After": "100"} if kind == "retry-after" else {}
    github.refusal_status = 429 if kind == "429" else 403
    source = source_of(github)
    with pytest.raises(upgrade.SourceError, match="rate limit is used up") as caught:
        fetch(source, tmp_path)
    expected = {"reset": 3600, "retry-after": 100, "429": 60}[kind]
    assert expected - 10 < caught.value.retry_after <= expected
    github.refusal = None
    count = len(github.requests)
    with pytest.raises(upgrade.SourceError, match="rate limit is used up for another"):
        fetch(source, tmp_path)
    assert len(github.requests) == count  # it was not even asked


def test_a_limit_reached_by_an_answer_is_honoured_next_time(github, tmp_path):
    github.remaining = 1
    source = source_of(github)
    artifact = fetch(source, tmp_path)
    with pytest.raises(upgrade.SourceError, match="rate limit"):
        fetch(source, tmp_path, known_of(artifact))


def test_an_answer_that_is_not_githubs_is_said(server, tmp_path):
    server.put("/repos/owner/app/releases/latest", gzip.compress(b"?"))
    source = upgrade.GitHubSource("owner/app", "*", api=server.url)
    with pytest.raises(upgrade.SourceError, match="does not answer as GitHub's API does"):
        fetch(source, tmp_path)
