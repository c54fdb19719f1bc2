"""What a process says to who commands it: checked, bounded, and not followed to another user."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from custom_code import SERVE, custom
from harness import TIMEOUT, environment, tool

from endless_py._control import client, launch
from endless_py._control.client import Client, Deadline, Failed, TimedOut
from endless_py._control.speaker import Speaker
from endless_py._control.words import problem
from endless_py._handoff import words as handoff_words
from endless_py._handoff.channel import HEADER, MAGIC

STATE = {
    "event": "status",
    "pid": 5,
    "generation": 0,
    "phase": "serving",
    "since": 1.0,
    "bridge": False,
    "servers": [{"address": "tcp 127.0.0.1:80", "accepting": True, "active": 0, "idle": 0}],
    "successor": None,
    "predecessors": [{"pid": 4, "generation": 0}],
    "last_reload": {"at": 1.0, "ok": False, "generation": 1, "reason": "no"},
    "upgrade": {"version": None, "source": None, "last_look": None},
}
READY = {"event": "ready", "pid": 5, "generation": 1, "bridge": False, "seconds": 0.1}
FAILED = {"event": "failed", "generation": 1, "reason": "no", "output": ["a line"]}


def frame(body):
    data = json.dumps(body).encode()
    return HEADER.pack(MAGIC, len(data), 0) + data


@pytest.fixture
def pair():
    """A client that waits for half a second, and the socket of the process that it asks."""
    mine, other = socket.socketpair()
    with Client(os.getpid(), mine, Deadline(0.5)) as asking, other:
        yield asking, other


@pytest.mark.parametrize("body", [STATE, READY, FAILED, {"event": "what a newer version says"}])
def test_what_is_right_is_taken(body):
    assert problem(body) == ""


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"event": 3},
        {**STATE, "servers": None},
        {**STATE, "servers": [{"address": 1, "active": 0, "idle": 0}]},
        {**STATE, "since": 1e300},
        {**STATE, "since": float("nan")},
        {**STATE, "predecessors": [{"pid": 0, "generation": 0}]},
        {**STATE, "predecessors": [{"pid": 4, "generation": 0}] * 1001},
        {**STATE, "successor": {"pid": "4", "generation": 0}},
        {**STATE, "last_reload": {"ok": True}},
        {**STATE, "upgrade": []},
        {"event": "moved", "pid": -1},
        {**READY, "seconds": "soon"},
        {**FAILED, "output": "text"},
        {"event": "cut", "requests": "many"},
    ],
)
def test_what_is_wrong_is_one_clear_line(body, pair):
    asking, other = pair
    other.sendall(frame(body))
    with pytest.raises(Failed, match=r"protocol error: (an answer without|'.*' with a wrong)"):
        asking.next()


def test_who_says_more_and_more_is_heard_until_the_deadline_and_fills_no_memory(pair):
    asking, other = pair
    ended = threading.Event()

    def flood():
        with contextlib.suppress(OSError):
            while not ended.is_set():
                other.sendall(frame({"event": "noise"}) * 100)

    thread = threading.Thread(target=flood)
    thread.start()
    most = 0

    def listen():
        nonlocal most
        while asking.next() == {"event": "noise"}:
            most = max(most, len(asking._heard))

    try:
        with pytest.raises(TimedOut):
            listen()
    finally:
        ended.set()
        other.shutdown(socket.SHUT_RDWR)
        asking.close()
        thread.join(TIMEOUT)
    assert most < 20000  # a message's greatest length, in messages as short as these


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [(0, 1000, True), (1000, 1000, True), (1000, 0, False), (1000, 1001, False), (None, 0, True)],
)
def test_a_user_s_process_speaks_for_that_user_s_only(one, other, may):
    assert Speaker(os.getpid(), one).speaks_for(Speaker(os.getpid(), other)) is may


# Answers as a server of endless_py would, but names the process that it is told to name.
LIAR = """
import os, sys
import json, re
from endless_py._control.socket import ControlSocket
from endless_py._sockets.poller import Poller

uid, named = int(sys.argv[1]), int(sys.argv[2])
os.setgid(uid)
os.setuid(uid)

def answer(conversation, request):
    if request["command"] == "reload":
        conversation.send({"event": "moved", "pid": named}, last=True)
    elif request["command"] == "status":
        conversation.send({
            "event": "status", "pid": os.getpid(), "generation": 0, "phase": "serving",
            "since": 1.0, "bridge": False, "servers": [], "predecessors": [],
            "successor": {"pid": named, "generation": 1}, "last_reload": None, "upgrade": None,
        }, last=True)

control = ControlSocket(answer)
control.open()
print("ready", flush=True)
poller = Poller()
while True:
    poller.watch(control.watched())
    poller.wait(0.5)
    control.step()
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_s_command_does_not_follow_a_user_s_process_to_another_one(tmp_path):
    with custom(tmp_path, SERVE) as program:
        pid = program.wait_serving()
        env = environment(PYTHONDONTWRITEBYTECODE="1")
        words = [sys.executable, "-c", LIAR, "65534", str(pid)]
        liar = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            if liar.stdout.readline() != b"ready\n":
                pytest.skip(f"another user cannot run this Python: {liar.stderr.read()[-200:]!r}")

            def command(word):
                return subprocess.run(
                    [sys.executable, "-m", "endless_py", word, str(liar.pid), "--timeout", "20"],
                    env=env,
                    capture_output=True,
                    text=True,
                    timeout=2 * TIMEOUT,
                    check=False,
                )

            done = command("reload")
            assert done.returncode == 1
            assert f"names process {pid}, which is another user's" in done.stderr
            shown = command("status")
            assert shown.returncode == 0
            assert str(liar.pid) in shown.stdout
            assert str(pid) not in shown.stdout.replace(str(liar.pid), "")
        finally:
            liar.kill()
            liar.communicate()
        assert "started generation" not in program.text
        program.stop(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a namespace")
def test_numbers_that_a_container_s_process_says_are_taken_for_that_container_s(tmp_path):
    unshare = [tool("unshare", "util-linux"), "--pid", "--fork", "--kill-child", "sleep", "60"]
    if subprocess.run([*unshare[:4], "true"], capture_output=True, check=False).returncode:
        pytest.skip("a namespace cannot be made here")
    process = subprocess.Popen(unshare)
    try:
        inside = 0
        deadline = time.monotonic() + TIMEOUT
        while not inside:
            assert time.monotonic() < deadline
            with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
                inside = int(file.read() or 0)
        body = {"event": "moved", "pid": 1, "successor": {"pid": 1}, "predecessors": [{"pid": 77}]}
        Speaker(inside, 0).translate(body)
        assert body["pid"] == body["successor"]["pid"] == inside
        assert body["predecessors"] == [{"pid": 0}]
        here = {"event": "moved", "pid": 1}
        Speaker(os.getpid(), 0).translate(here)
        assert here["pid"] == 1
    finally:
        process.kill()
        process.wait(TIMEOUT)


def test_the_new_code_s_last_words_are_escaped_where_the_command_shows_them(tmp_path):
    code = """
if (folder / "bad").exists():
    os.write(2, b"\\x1b]0;owned\\x07" + b"x" * 3000 + b"\\nlast \\x9b words\\n")
    os._exit(3)
"""
    with custom(tmp_path, code + SERVE) as program:
        pid = program.wait_serving()
        (tmp_path / "bad").touch()
        done = subprocess.run(
            [sys.executable, "-m", "endless_py", "reload", str(pid), "--timeout", "20"],
            env=environment(),
            capture_output=True,
            timeout=2 * TIMEOUT,
            check=False,
        )
        assert done.returncode == 1
        assert b"\\x1b]0;owned\\x07xxx" in done.stderr
        assert b"\x1b" not in done.stderr
        assert b"\x07" not in done.stderr
        program.stop(pid)


def test_of_a_log_only_the_end_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(launch, "_TAIL", 100)
    path = tmp_path / "log"
    path.write_bytes(b"before\n" + b"\x1b[2J" * 100 + b"\n" + b"line\n" * 10)
    launch._show_tail(str(path), 7)
    assert capsys.readouterr().err == "    line\n" * 10
    launch._show_tail(str(path), len(path.read_bytes()) - 10)
    assert capsys.readouterr().err == "    line\n" * 2


@pytest.mark.parametrize(
    "report", [{}, {"ok": 1}, {"ok": True, "at": 1.0, "generation": 1}, {"ok": False, "at": "now"}]
)
def test_a_report_of_a_predecessor_is_checked(report):
    wrong = handoff_words.problem(
        handoff_words.FROM_PREDECESSOR, {"type": "reloaded", "report": report}
    )
    assert wrong == "'reloaded' with a wrong 'report'"
    right = {"ok": True, "at": 1.0, "generation": 1, "seconds": 0.5}
    body = {"type": "reloaded", "report": right}
    assert handoff_words.problem(handoff_words.FROM_PREDECESSOR, body) == ""


def test_a_chain_without_end_is_not_followed_for_ever(monkeypatch):
    asked = []

    def state_of(pid, deadline, told_by=None, verbose=False):
        asked.append(pid)
        found = {**STATE, "pid": pid, "predecessors": [{"pid": pid + 1, "generation": 0}]}
        return found, None

    monkeypatch.setattr(client, "state_of", state_of)
    assert len(client.chain(1, Deadline(TIMEOUT))) == len(asked) == 100
