"""What is uploaded: the sdist has what its tests need, and the wheel says what it is for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser

import pytest
from harness import ROOT, TIMEOUT

pytestmark = pytest.mark.slow  # it is built
TOP = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkout without what a build leaves."""
    folder = tmp_path_factory.mktemp("source")
    for name in TOP:
        shutil.copy(ROOT / name, folder)
    for name in ("endless_py", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    return folder


def build(source, what):
    """Return the path of what was built."""
    done = subprocess.run(
        [sys.executable, "-c", f"from setuptools.build_meta import *; print(build_{what}('dist'))"],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT,
    )
    if done.returncode and not has_setuptools():
        (pytest.fail if os.environ.get("CI_RUN") else pytest.skip)("setuptools is too old")
    assert done.returncode == 0, done.stderr
    assert "SetuptoolsDeprecationWarning" not in done.stderr
    return source / "dist" / done.stdout.splitlines()[-1]


def has_setuptools():
    try:
        import setuptools
    except ImportError:
        return False
    return int(setuptools.__version__.partition(".")[0]) >= 77


def test_the_sdist_has_every_file_that_its_tests_need(source):
    wanted = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    with tarfile.open(build(source, "sdist")) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert wanted - found == set()


def test_the_wheel_says_what_it_is_for(source):
    path = build(source, "wheel")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (name,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        told = Parser().parsestr(archive.read(name).decode())
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {"endless_py"}
    assert told["License-Expression"] == "MIT"
    assert told.get_all("License-File") == ["LICENSE"]
    assert told["Keywords"]
    kinds = told.get_all("Classifier")
    for minor in range(9, 16):
        assert f"Programming Language :: Python :: 3.{minor}" in kinds
    assert not [kind for kind in kinds if kind.startswith("License ::")]
    bench = [need for need in told.get_all("Requires-Dist") if need.endswith('extra == "bench"')]
    assert any(need.startswith("pytest") for need in bench)
