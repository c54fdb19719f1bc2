"""Watching: another content is told once, whole, and nothing else is."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time

import pytest
from apps import main
from harness import TIMEOUT, Load, Program, environment, get

from endless_py import upgrade

QUIET = 0.6  # seconds in which something unexpected would show


class Watched:
    """A watch whose news are waited for."""

    def __init__(self, path, **settings):
        self.news: queue.Queue[str] = queue.Queue()
        self.settings = {"interval": 0.1, "settle": 0.05, **settings}
        self.watch = upgrade.watch(path, self.news.put, **self.settings)

    def expect(self, pattern="has changed"):
        text = self.news.get(timeout=TIMEOUT)
        assert pattern in text
        return text

    def expect_nothing(self):
        with pytest.raises(queue.Empty):
            self.news.get(timeout=QUIET)


@pytest.fixture(params=[True, False], ids=["events", "poll"])
def watch(request):
    made = []

    def make(path, **settings):
        made.append(Watched(path, events=request.param, **settings))
        if request.param and not sys.platform.startswith("linux"):
            pytest.skip("inotify is Linux's")
        assert made[-1].watch.polls != request.param
        return made[-1]

    yield make
    for watched in made:
        watched.watch.stop()


def test_a_new_content_is_told_and_new_times_are_not(watch, tmp_path):
    path = tmp_path / "app.py"
    path.write_text("one")
    watched = watch(path)
    os.utime(path, (1, 1))
    (tmp_path / "neighbour").write_text("another file")
    path.write_text("one")
    watched.expect_nothing()
    path.write_text("two")
    watched.expect(f"{path} has changed")
    watched.expect_nothing()


def test_an_atomic_rename_is_told_again_and_again(watch, tmp_path):
    path = tmp_path / "app.py"
    path.write_text("0")
    watched = watch(path)
    for number in range(1, 4):
        (tmp_path / "new").write_text(str(number))
        os.replace(tmp_path / "new", path)
        watched.expect()
    (tmp_path / "new").write_text("3")  # another file with the same content
    os.replace(tmp_path / "new", path)
    watched.expect_nothing()


def test_the_same_size_and_time_do_not_hide_a_change(watch, tmp_path):
    path = tmp_path / "app.py"
    path.write_text("one")
    status = path.stat()
    watched = watch(path)
    path.write_text("two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    watched.expect()


@pytest.mark.parametrize("relative", [True, False])
def test_a_symlink_is_followed_afresh(watch, tmp_path, relative):
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "app.py").write_text(version)
    current = tmp_path / "current"
    current.symlink_to("1")
    watched = watch(current)

    def switch(version):
        (tmp_path / "new").symlink_to(version if relative else tmp_path / version)
        os.replace(tmp_path / "new", current)

    switch("2")
    assert watched.expect("now leads to").count(str(tmp_path / "2")) == 1
    (tmp_path / "2" / "app.py").write_text("two")
    watched.expect()
    (tmp_path / "1" / "app.py").write_text("nobody runs that any more")
    watched.expect_nothing()
    switch("1")
    watched.expect()


def test_a_folder_is_watched_with_all_that_counts_in_it(watch, tmp_path):
    top = tmp_path / "app"
    (top / "package").mkdir(parents=True)
    (top / "package" / "module.py").write_text("one")
    watched = watch(top, ignore=["*.log"])
    (top / "package" / "__pycache__").mkdir()
    (top / "package" / "__pycache__" / "module.cpython-39.pyc").write_text("x")
    (top / ".git").mkdir()
    (top / ".git" / "index").write_text("x")
    (top / "server.log").write_text("x")
    (top / "package" / "module.py~").write_text("x")
    watched.expect_nothing()
    (top / "package" / "module.py").write_text("two")
    watched.expect()
    (top / "new" / "deep").mkdir(parents=True)
    watched.expect()
    (top / "new" / "deep" / "module.py").write_text("three")
    watched.expect()
    (top / "package" / "module.py").unlink()
    watched.expect()


@pytest.mark.slow
def test_a_copy_that_is_still_written_is_waited_for(watch, tmp_path):
    path = tmp_path / "app.pyz"
    path.write_bytes(b"old")
    watched = watch(path, settle=1.0)
    with open(path, "wb", buffering=0) as file:
        for _ in range(15):
            file.write(b"x" * 1000)
            time.sleep(0.05)
            assert watched.news.empty()
    watched.expect()
    watched.expect_nothing()


def test_what_is_gone_is_waited_for(watch, tmp_path):
    path = tmp_path / "app.py"
    path.write_text("one")
    watched = watch(path)
    path.unlink()
    watched.expect_nothing()
    path.write_text("one")
    watched.expect_nothing()
    path.unlink()
    path.write_text("two")
    watched.expect()


def test_a_callback_that_fails_does_not_end_the_watch(tmp_path, caplog):
    path = tmp_path / "app.py"
    path.write_text("one")
    called = queue.Queue()

    def fail(text):
        called.put(text)
        raise RuntimeError("broken")

    watch = upgrade.watch(path, fail, interval=0.1, settle=0.05)
    path.write_text("two")
    called.get(timeout=TIMEOUT)
    path.write_text("three")
    called.get(timeout=TIMEOUT)
    watch.stop()
    assert "the callback failed: RuntimeError: broken" in caplog.text


def test_a_watch_leaves_nothing_behind(tmp_path):
    path = tmp_path / "app.py"
    path.write_text("one")
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for events in (True, False):
        upgrade.watch(path, events=events).stop()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads
    with pytest.raises(ValueError, match="more than 0 seconds"):
        upgrade.watch(path, interval=0)


WATCH = "from endless_py import upgrade; upgrade.watch(sys.argv[0], settle=0.1)"


@pytest.mark.slow
def test_a_program_reloads_itself_under_load_and_a_broken_one_is_not_tried_again(tmp_path):
    path = tmp_path / "app.py"

    def put(version, code=WATCH):
        (tmp_path / "new").write_text(main(version, code))
        os.replace(tmp_path / "new", path)

    put("v0")
    env = environment()
    with Program(command=[sys.executable, str(path)], cwd=tmp_path, env=env) as program:
        pid = program.wait_serving()
        port = program.port
        with Load(port) as load:
            for number in range(1, 4):
                put(f"v{number}")
                pid = program.wait_serving(number)
                load.wait_answer(f"v{number} ")
            put("v4", "raise SystemExit(7)")
            program.wait("reload failed: .*status 7")
            seen = len(program.lines)
            time.sleep(1)
            assert "reload" not in "\n".join(program.lines[seen:])
            put("v5")
            pid = program.wait_serving(4)
            load.wait_answer("v5 ")
        assert load.lost == []
        program.wait_alone(pid)
        assert get(port) == "v5 end"
        program.stop(pid)
