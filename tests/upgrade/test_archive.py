"""Archives are unpacked whole or not at all, and nothing of them lands elsewhere."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile

import pytest

from endless_py import upgrade
from endless_py.upgrade import archive

SUFFIXES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz", ".tar.bz2": "w:bz2"}


def add(tar, name, content=b"", kind=tarfile.REGTYPE, link="", mode=0o644):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(content)
    tar.addfile(info, io.BytesIO(content))


def make_tar(path, *members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for member in members:
            add(tar, **member)
    return path


def member(name, **more):
    return {"name": name, **more}


def link(name, to):
    return {"name": name, "link": to, "kind": tarfile.SYMTYPE}


def hard(name, to):
    return {"name": name, "link": to, "kind": tarfile.LNKTYPE}


def refused(path, tmp_path, match, unpack=upgrade.unpack, **limits):
    """Refused, and nothing is left, inside or outside."""
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(upgrade.Refused, match=match):
        unpack(path, tmp_path / "release", **limits)
    assert sorted(p for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_tar_is_unpacked_with_its_links_and_modes(suffix, tmp_path):
    path = make_tar(
        tmp_path / f"app-1.2{suffix}",
        member("./VERSION", content=b"1.2\n"),
        member("bin/", kind=tarfile.DIRTYPE),
        member("bin/run", content=b"#!/bin/sh\n", mode=0o4755),
        member("lib/deep/data", content=os.urandom(100_000)),
        link("lib/run", "../bin/run"),
        link("lib/itself", "."),
        hard("bin/again", "bin/run"),
        mode=SUFFIXES[suffix],
    )
    release = upgrade.unpack(path, tmp_path / "release")
    assert release == tmp_path / "release"
    assert (release / "VERSION").read_text() == "1.2\n"
    assert stat.S_IMODE((release / "bin/run").stat().st_mode) == 0o755  # no set-uid
    assert os.readlink(release / "lib/run") == "../bin/run"
    assert (release / "bin/again").read_bytes() == b"#!/bin/sh\n"
    assert (release / "bin/again").stat().st_nlink == 1
    assert (release / "lib/deep/data").stat().st_size == 100_000


def test_a_zip_is_unpacked_with_its_links_and_modes(tmp_path):
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as made:
        run = zipfile.ZipInfo("bin/run")
        run.external_attr = (stat.S_IFREG | 0o755) << 16
        made.writestr(run, "#!/bin/sh\n")
        pointer = zipfile.ZipInfo("run")
        pointer.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(pointer, "bin/run")
        made.writestr("empty/", "")
    release = upgrade.unpack(tmp_path / "app.zip", tmp_path / "release")
    assert os.access(release / "bin/run", os.X_OK)
    assert os.readlink(release / "run") == "bin/run"
    assert (release / "empty").is_dir()


def test_the_one_folder_named_after_the_archive_is_the_release(tmp_path):
    path = make_tar(tmp_path / "app-1.2.tar.gz", member("app-1.2/VERSION"), mode="w:gz")
    release = upgrade.unpack(path, tmp_path / "one")
    assert release == tmp_path / "one" / "app-1.2"
    path = make_tar(tmp_path / "app-1.2.tgz", member("package/__main__.py"), mode="w:gz")
    assert upgrade.unpack(path, tmp_path / "two") == tmp_path / "two"


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)],
)
def test_a_single_file_is_taken_as_it_is_or_decompressed(suffix, pack, tmp_path):
    content = os.urandom(1000) + bytes(1_000_000)
    path = tmp_path / f"app.pyz{suffix}"
    path.write_bytes(pack(content))
    release = upgrade.unpack(path, tmp_path / "release")
    assert release == tmp_path / "release" / "app.pyz"
    assert release.read_bytes() == content
    if suffix:
        (tmp_path / "release" / "app.pyz").unlink()
        (tmp_path / "release").rmdir()
        refused(path, tmp_path, "more than 100000 bytes", max_size=100_000)
        path.write_bytes(pack(content)[:-20])
        refused(path, tmp_path, "cannot be unpacked")


OUTSIDE = {
    "above": [member("../outside")],
    "above in the middle": [member("a/../../outside")],
    "absolute": [member("/tmp/outside")],
    "link above": [link("a", "../outside")],
    "link absolute": [link("a", "/etc/passwd")],
    "link above from below": [link("a/b", "../../outside")],
    "through a link": [link("a", "b"), member("a/c", content=b"?")],
    "over a link": [link("a", "b"), member("a", content=b"?")],
    "link through a link": [
        member("d/", kind=tarfile.DIRTYPE),
        link("d/up", ".."),
        link("x", "d/up/../outside"),
    ],
    "link through a later link": [link("x", "d/up/../outside"), link("d/up", "..")],
    "hard link above": [hard("a", "../outside")],
    "hard link absolute": [hard("a", "/etc/passwd")],
    "hard link through a link": [link("a", "."), hard("b", "a/../../outside")],
    "hard link to a link": [link("a", "b"), hard("c", "a")],
    "hard link to nothing": [hard("c", "later")],
    "device": [member("a", kind=tarfile.CHRTYPE)],
    "fifo": [member("a", kind=tarfile.FIFOTYPE)],
    "twice": [member("a", content=b"1"), member("a", content=b"2")],
    "file as a folder": [member("a", content=b"1"), member("a/b", content=b"2")],
    "no name": [member("./", content=b"1")],
}


@pytest.mark.parametrize("library", ["filters", "no filters"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_member_that_would_land_elsewhere_is_refused(name, library, tmp_path, monkeypatch):
    unpack = upgrade.unpack
    if library == "no filters":  # an interpreter before 3.9.17, 3.10.12 and 3.11.4
        trusted = {"filter": "fully_trusted"} if archive._FILTER else {}
        monkeypatch.setattr(archive, "_FILTER", trusted)

        def unpack(path, folder):
            return archive.unpack(path, folder, 1 << 30, 1000)

    (tmp_path / "outside").write_text("mine")
    path = make_tar(tmp_path / "app.tar", *OUTSIDE[name])
    refused(path, tmp_path, r"^app\.tar", unpack)
    assert (tmp_path / "outside").read_text() == "mine"


def test_a_link_out_of_the_one_top_folder_is_refused(tmp_path):
    path = make_tar(
        tmp_path / "app-1.tar", member("app-1/a", content=b"1"), link("app-1/b", "../../x")
    )
    refused(path, tmp_path, "leads outside")
    path = make_tar(
        tmp_path / "app-1.tar", member("app-1/a", content=b"1"), link("app-1/b", "../c")
    )
    refused(path, tmp_path, "leads outside")


@pytest.mark.parametrize(
    ("name", "kind", "content"),
    [
        ("../outside", stat.S_IFREG, "?"),
        ("/tmp/outside", stat.S_IFREG, "?"),
        ("link", stat.S_IFLNK, "../outside"),
        ("link", stat.S_IFLNK, "/etc/passwd"),
        ("link", stat.S_IFLNK, "x" * 5000),
        ("fifo", stat.S_IFIFO, ""),
    ],
)
def test_a_zips_member_that_would_land_elsewhere_is_refused(name, kind, content, tmp_path):
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as made:
        info = zipfile.ZipInfo(name)
        info.external_attr = (kind | 0o644) << 16
        made.writestr(info, content)
    refused(tmp_path / "app.zip", tmp_path, r"^app\.zip")


@pytest.mark.slow
def test_size_and_number_are_bounded_whatever_the_headers_say(tmp_path):
    with zipfile.ZipFile(tmp_path / "app.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("zeros", bytes(3_000_000))
    refused(tmp_path / "app.zip", tmp_path, "more than 1000000 bytes", max_size=1_000_000)
    path = make_tar(tmp_path / "app.tgz", member("zeros", content=bytes(3_000_000)), mode="w:gz")
    refused(path, tmp_path, "more than 1000000 bytes", max_size=1_000_000)
    path = make_tar(tmp_path / "many.tar", *(member(f"{i}") for i in range(11)))
    refused(path, tmp_path, "more than 10 members", max_count=10)
    # A pax header of 8 MiB, which tarfile would read into memory.
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "x" * (8 << 20)}
    with tarfile.open(tmp_path / "pax.tgz", "w:gz", format=tarfile.PAX_FORMAT) as made:
        made.addfile(info)
    refused(tmp_path / "pax.tgz", tmp_path, "headers larger than")


def test_a_broken_archive_is_refused(tmp_path):
    path = make_tar(tmp_path / "app.tgz", member("a", content=os.urandom(100_000)), mode="w:gz")
    path.write_bytes(path.read_bytes()[:50_000])
    refused(path, tmp_path, r"app\.tgz cannot be unpacked")
    for name in ("app.tar", "app.zip", "app.tar.xz"):
        (tmp_path / name).write_bytes(os.urandom(2000))
        refused(tmp_path / name, tmp_path, "cannot be unpacked")
        (tmp_path / name).unlink()


def test_a_pyz_is_no_archive_but_a_program():
    assert not archive.is_archive("app.pyz")
    assert archive.is_archive("app-1.2.TAR.GZ")
    assert archive.release_name("app.pyz.gz") == "app.pyz"
