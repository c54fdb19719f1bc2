"""The commands for a running server: what they print, and their exit status."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest
from commands import command, finish, start_command
from harness import PROGRAMS, TIMEOUT, Program, environment, get, session_pids, tool, until

from endless_py._control import client
from endless_py._control import commands as control_commands
from endless_py._control.socket import MAX_REQUEST
from endless_py._handoff.channel import HEADER, MAGIC, Channel
from endless_py.exceptions import ChannelClosed

NOBODY = 65534


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code").write_text("")
    (tmp_path / "version").write_text("one")
    return tmp_path


def last_line(errors):
    return errors.rstrip("\n").rpartition("\n")[2]


@contextlib.contextmanager
def active(program, folder, name="slow"):
    """A request in flight until the block ends; yields where its answer will be."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(get(program.port, f"/{name}")))
    thread.start()
    while not (folder / name).exists():
        assert thread.is_alive()
    try:
        yield answers
    finally:
        (folder / name.replace("slow", "go")).touch()
        thread.join(TIMEOUT)


# -- reload -------------------------------------------------------------------


def test_a_good_reload(folder):
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        target = os.readlink(f"/proc/{old}/fd/2")
        status, output, errors = command("reload", "--wait-drained", old)
        new = program.wait_serving(1)
        assert (status, errors) == (0, "")
        first, second = output.splitlines()
        pattern = r"reloaded: generation 1 serves after \d+\.\d{3} s; pid (\d+) drains, pid (\d+) "
        assert re.match(pattern, first).groups() == (str(old), str(new))
        assert second == f"drained: pid {old} has ended"
        program.wait_alone(new, 0)
        assert os.readlink(f"/proc/{new}/fd/2") == target
        program.stop(new)


@pytest.mark.slow
def test_waiting_for_the_drain_is_for_every_older_generation(folder):
    with Program("steps.py", folder) as program:
        oldest = program.wait_serving()
        with active(program, folder):
            assert command("reload", oldest)[0] == 0
            old = program.wait_serving(1)
            process = start_command("reload", "--wait-drained", old)
            assert process.stdout.readline().startswith("reloaded: generation 2 serves after")
            program.wait(rf"generation 1 \(pid {old}\) has ended")
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.2)
        status, output, errors = finish(process)
        assert (status, errors) == (0, "")
        gone = ", ".join(map(str, sorted([oldest, old])))
        assert output == f"drained: pid {gone} has ended\n"
        program.stop(program.wait_serving(2))


FAILURES = {
    "a syntax error": ("def", "SyntaxError: ", "exited with status 1 before it was ready"),
    "an exception": ("import no_such_thing", "ModuleNotFoundError", "exited with status 1"),
    "a quiet exit": ("sys.exit(0)", "", "exited with status 0 before it was ready"),
    "a kill": ("import os; os.kill(os.getpid(), 9)", "", "killed by SIGKILL before it was"),
    "much output": (
        "import sys; sys.stderr.write('x' * 300000 + '\\nlast words\\n'); sys.exit(4)",
        "last words",
        "exited with status 4",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_reload_says_why(failure, folder):
    code, shown, reason = FAILURES[failure]
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        (folder / "code").write_text(code)
        status, output, errors = command("reload", pid)
        assert (status, output) == (1, "")
        assert shown in errors
        assert "reload failed: generation 1" in last_line(errors)
        assert reason in last_line(errors)
        program.wait(re.escape(shown))  # where it would have been without the command
        status, output, _ = command("status", pid)
        assert status == 0
        assert ", reload failed: generation 1 " in output
        (folder / "code").write_text("")
        assert command("reload", pid)[0] == 0
        new = program.wait_serving(1)
        program.wait_alone(new)
        program.stop(new)


@pytest.mark.slow
def test_a_successor_that_hangs(folder):
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        os.mkfifo(folder / "bound")
        status, _, errors = command("reload", "--timeout", "1", pid)
        assert status == 3
        assert last_line(errors).endswith("reload is not done after 1 s; nothing was undone")
        with open(folder / "bound", "w"):
            (folder / "bound").unlink()
        pid = program.wait_serving(1)
        program.wait_alone(pid)
        (folder / "code").write_text("ready_timeout = 0.5")
        assert command("reload", "--wait-drained", pid)[0] == 0
        pid = program.wait_serving(2)
        (folder / "code").write_text("time.sleep(60)")
        status, _, errors = command("reload", pid)
        assert status == 1
        assert "killed by SIGKILL before it was ready (it was not ready within 0.5 s)" in errors
        program.wait_alone(pid)
        program.stop(pid)


def test_a_successor_that_ends_after_it_was_ready(folder):
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        with active(program, folder) as answers:
            process = start_command("reload", "--wait-drained", pid)
            assert process.stdout.readline().startswith("reloaded: generation 1 serves after")
            os.kill(program.wait_serving(1), signal.SIGKILL)
            status, _, errors = finish(process)
            assert status == 1
            assert "generation 1 died; this one serves again" in last_line(errors)
        assert answers == ["one end"]
        program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.slow
def test_those_asked_for_during_a_reload_follow_it(folder):
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        gate = folder / "imported"
        with active(program, folder) as answers:  # the asked process lives until all are answered
            os.mkfifo(gate)
            processes = [start_command("reload", pid)]
            program.wait("started generation 1")
            processes += [start_command("reload", pid) for _ in range(2)]
            until(lambda: conversations(pid) == 3)
            with gate.open("w"):
                (folder / "version").write_text("two")
                gate.unlink()
            results = [finish(process) for process in processes]
        assert answers == ["one end"]
        assert [(status, errors) for status, _, errors in results] == [(0, "")] * 3
        assert results[0][1].startswith("reloaded: generation 1 serves")
        for _, output, _ in results[1:]:
            assert re.match("reloaded: generation [23] serves", output)
        assert get(program.port) == "two end"
        last = max(map(int, re.findall(r"generation (\d): serves", program.text)))
        pid = program.wait_serving(last)
        program.wait_alone(pid)
        program.stop(pid)


def conversations(pid):
    """Return how many askers a process has."""
    with open("/proc/net/unix") as file:
        return sum(line.endswith(f"/{pid}.sock\n") for line in file) - 1


def test_what_a_successor_has_started_can_write_errors_for_ever(folder):
    """Its standard error was the pipe that the command made the incumbent read."""
    os.mkfifo(folder / "gate")
    script = f"(read x < {folder}/gate; echo late line >&2) &"
    code = f"import subprocess; subprocess.run(['sh', '-c', {script!r}])"
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        (folder / "code").write_text(code)
        assert command("reload", "--wait-drained", pid)[0] == 0
        (folder / "gate").write_text("go\n")
        program.wait("^late line$")
        pid = program.wait_serving(1)
        program.wait_alone(pid)
        program.stop(pid)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["before", "in the middle"])
def test_what_a_successor_writes_is_read_though_the_incumbent_is_killed(killed, folder):
    """It would wait for ever else, before it serves: a pipe holds no more than 64 KiB."""
    os.mkfifo(folder / "gate")
    words = [
        "import endless_py, os, sys",
        "os.write(1, b'starts\\n')",
        f"open('{folder}/gate').read()",
    ]
    if killed == "in the middle":
        words.insert(1, "sys.stderr.write('begins\\n')")
    words.append("sys.stderr.write('x' * 300_000 + '\\nlast words\\n')")
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        (folder / "code").write_text("\n".join(words))
        asker = start_command("reload", pid)
        program.wait("starts")
        if killed == "in the middle":
            program.wait("begins")
        os.kill(pid, signal.SIGKILL)
        (folder / "gate").write_text("go")
        assert finish(asker)[0] == 1
        new = program.wait_serving(1)
        program.wait("last words$")
        assert get(program.port) == "one end"
        program.wait_alone(new)
        (folder / "code").write_text("")
        assert command("reload", "--wait-drained", new)[0] == 0
        new = program.wait_serving(2)
        program.wait_alone(new)
        assert os.listdir(f"/proc/{new}/task") == [str(new)]
        program.stop(new)


def test_a_hook_that_cancels(folder):
    hook = "import endless_py\n@endless_py.before_reload\ndef no(): raise ValueError('not now')"
    (folder / "code").write_text(hook)
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        status, _, errors = command("reload", pid)
        assert status == 1
        assert "reload cancelled" in last_line(errors)
        assert "not now" in last_line(errors)
        program.stop(pid)


def test_with_a_kept_pid(tmp_path):
    for name in ("start", "end"):
        (tmp_path / name).write_text("")
    with Program("kept.py", tmp_path) as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            status, output, errors = command("reload", "--wait-drained", pid)
            assert (status, errors) == (0, "")
            first, second = output.splitlines()
            assert re.match(
                rf"reloaded: generation {generation} serves after .* s; pid {pid} is kept, "
                r"\d+ is the bridge until it has drained",
                first,
            )
            assert second == f"drained: pid {pid} serves as generation {generation}"
            program.wait_alone(pid)
            report = re.search(
                r"^last reload: .* served after (.*) s$", command("status", pid)[1], re.M
            )
            assert 0 <= float(report[1]) < TIMEOUT
        assert command("stop", pid)[0] == 0
        assert program.process.wait(0.1) == 0
        assert program.pids() == []


def test_a_server_whose_only_loop_is_busy_is_woken(tmp_path):
    """Without threads the handler runs in the loop, so that nobody looks at the socket."""
    code = "with HTTPServer(('127.0.0.1', 0), Handler) as server: server.serve_forever()"
    (tmp_path / "code").write_text(code)
    with Program("custom.py", tmp_path) as program:
        pid = program.wait_serving()
        with active(program, tmp_path) as answers:
            status, output, _ = command("status", pid)
            assert status == 0
            assert re.search(r"serving .* 1 +0$", output, re.M)
            status, output, errors = command("reload", pid)
            assert (status, errors) == (0, "")
            assert not answers
        assert answers == [f"0 {pid} {pid} end"]
        pid = program.wait_serving(1)
        program.wait_alone(pid)
        program.stop(pid)


# -- stop ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_stop_waits_for_every_generation(folder):
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        with active(program, folder) as answers:
            assert command("reload", old)[0] == 0
            new = program.wait_serving(1)
            assert command("stop", "--timeout", "0.5", new)[0] == 3
            program.wait(rf"\[{new}\] .*stops")
            process = start_command("stop", old)
            assert process.stderr.readline().startswith("waits: ")
        status, output, errors = finish(process)
        program.process.wait(0.1)
        assert program.pids() == []
        assert (status, errors) == (0, "")
        assert answers == ["one end"]
        assert re.match(rf"stopped: pid {old}", output)


def test_a_stop_says_how_many_requests_it_cut(folder):
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        threads = [
            threading.Thread(target=cut_off, args=(program.port, f"/slow{number}"))
            for number in range(2)
        ]
        for thread in threads:
            thread.start()
        until(lambda: all((folder / f"slow{number}").exists() for number in range(2)))
        with socket.create_connection(("127.0.0.1", program.port)) as idle:
            until(lambda: re.search(r" 2 +1$", command("status", pid)[1], re.M))
            process = start_command("stop", pid)
            program.wait("the stop command; finishing 2 requests")
            os.kill(pid, signal.SIGTERM)
            status, output, errors = finish(process)
            assert idle.recv(1) == b""
        assert (status, errors) == (4, "")
        assert output == f"stopped: pid {pid} has ended; 2 requests were cut\n"
        for thread in threads:
            thread.join(TIMEOUT)
        program.wait_alone(None)


def cut_off(port, path):
    with contextlib.suppress(OSError, http.client.HTTPException):
        assert not get(port, path).endswith("end")


def test_a_stop_that_its_process_did_not_live_to_take(folder, monkeypatch, capsys):
    """Its successor, which was never told, is not waited for, and serves on."""
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        with active(program, folder):
            assert command("reload", old)[0] == 0
            new = program.wait_serving(1)

            look = control_commands.chain

            def look_and_kill(*arguments):
                found = look(*arguments)
                os.kill(old, signal.SIGKILL)
                program.process.wait(TIMEOUT)
                return found

            monkeypatch.setattr(control_commands, "chain", look_and_kill)
            assert control_commands.main(["stop", "--timeout", "20", str(old)]) == 1
            assert f"process {old} ended before it answered" in capsys.readouterr().err
        assert get(program.port) == "one end"
        program.stop(new)


# -- status -------------------------------------------------------------------


def test_the_status_of_two_generations(folder):
    with Program("steps.py", folder) as program:
        old = program.wait_serving()
        with active(program, folder), socket.create_connection(("127.0.0.1", program.port)):
            until(lambda: "serving" in command("status", old)[1])
            assert command("reload", old)[0] == 0
            new = program.wait_serving(1)
            # What its predecessor says of the reload comes to it a moment after the command's end.
            until(lambda: "last reload" in command("status", new)[1])
            for pid in (old, new):
                status, output, _ = command("status", "--json", pid)
                assert status == 0
                first, second = json.loads(output)["generations"]
                assert (first["pid"], first["phase"]) == (old, "draining")
                assert (second["pid"], second["phase"]) == (new, "serving")
                assert first["servers"][0]["active"] == 1
                assert first["successor"] == {"pid": new, "generation": 1}
                assert second["predecessors"] == [{"pid": old, "generation": 0}]
                assert second["last_reload"]["ok"] is True
                assert 0 < second["last_reload"]["seconds"] < TIMEOUT
            output = command("status", new)[1]
            lines = output.splitlines()
            assert lines[0].split() == [
                "GENERATION",
                "PID",
                "STATE",
                "SINCE",
                "UNTIL",
                "SERVER",
                "ACTIVE",
                "IDLE",
            ]
            assert lines[1].split()[:3] == ["0", str(old), "draining"]
            assert re.search(r"tcp 127.0.0.1:\d+ +0 +1$", lines[2])  # it has migrated
            assert re.match(r"last reload: .*, generation 1 served after \d+\.\d+ s$", lines[3])
        program.wait_alone(new)
        program.stop(new)


def test_a_process_in_a_container(folder):
    """It has another pid there. One that cannot be asked from here may be so from inside."""
    unshare = [tool("unshare", "util-linux"), "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*unshare, "--net", "true"], capture_output=True).returncode:
        pytest.skip("no namespace can be made here")
    shell = [*unshare, "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
    with Program(folder, command=[*shell, sys.executable, str(PROGRAMS / "steps.py")]) as program:
        assert program.wait_serving() == 1
        (outside,) = [pid for pid in program.pids() if pid != program.pid]
        status, output, _ = command("status", outside)
        assert (status, output.count("serving")) == (0, 1)
    with Program(command=[*unshare, "sh", "-c", "echo up; exec sleep 60"]) as program:
        program.wait("up")
        (outside,) = [pid for pid in program.pids() if pid != program.pid]
        status, _, errors = command("status", outside)
        assert status == 1
        assert f"process {outside} does not serve with endless_py" in errors
        assert "it seems to be in a container: ask inside that one" in errors


# -- start-or-reload ----------------------------------------------------------


@pytest.mark.slow
def test_start_or_reload(folder):
    pid_file, log = folder / "app.pid", folder / "app.pid.log"
    words = ["start-or-reload", pid_file, "--", sys.executable, PROGRAMS / "steps.py", folder]
    session = 0
    try:
        status, output, errors = command(*words)
        assert (status, errors) == (0, "")
        old = session = int(pid_file.read_text())
        assert output.startswith(f"started: pid {old} serves after ")
        assert output.endswith(f" s; its log is {log}\n")
        assert os.getsid(old) == old  # detached
        status, output, errors = command(*words)
        assert (status, errors) == (0, "")
        assert output.startswith("reloaded: generation 1 serves")
        until(lambda: int(pid_file.read_text()) != old)
        new = int(pid_file.read_text())
        (folder / "code").write_text("def")
        status, output, errors = command(*words)
        assert status == 1
        assert "SyntaxError" in errors
        assert command("stop", pid_file)[0] == 0
        assert session_pids(session) == []
        assert not pid_file.exists()
        assert "generation 1: serves" in log.read_text()
        pid_file.write_text(f"{new}\n")  # stale
        (folder / "code").write_text("sys.exit('no luck')")
        status, output, errors = command(*words)
        assert status == 1
        assert errors.splitlines()[0] == "    no luck"
        assert last_line(errors).endswith("the command exited with status 1 before it served")
    finally:
        for pid in session_pids(session) if session else []:
            os.kill(pid, signal.SIGKILL)


# -- what cannot be asked -----------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reload", "stop", "status"])
def test_a_target_that_is_none(name, sleeper, tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "stale").write_text(f"{dead.pid}\n")
    for target, complaint in {
        sleeper.pid: f"process {sleeper.pid} does not serve with endless_py",
        dead.pid: f"there is no process {dead.pid}",
        tmp_path / "stale": f"there is no process {dead.pid}",
        tmp_path / "missing": "there is no pid file",
        tmp_path / "empty": "the pid file is empty",
        tmp_path / "text": "what is there is not a pid file",
    }.items():
        status, output, errors = command(name, target)
        assert (status, output) == (1, "")
        assert len(errors.splitlines()) == 1
        assert complaint in errors
    assert sleeper.poll() is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status"], "serving"),
        (["reload"], "reloaded: generation 1 serves"),
        (["start-or-reload"], "reloaded: generation 1 serves"),
        (["stop"], "has ended"),
    ],
    ids=["status", "reload", "start-or-reload", "stop"],
)
def test_a_pid_file_that_changes_while_its_process_ends(words, said, tmp_path):
    """Who comes next has written it by the time that the one that was asked is gone."""
    path = tmp_path / "pid"
    more = ["--", "false"] if words == ["start-or-reload"] else []
    with Program("http_server.py", "ThreadingHTTPServer", 0) as one:
        first = one.wait_serving()
        path.write_text(f"{first}\n")
        with Program("http_server.py", "ThreadingHTTPServer", 0) as two:
            second = two.wait_serving()
            os.kill(first, signal.SIGSTOP)
            asking = start_command(*words, path, *more)
            until(lambda: conversations(first) >= 1)
            os.kill(first, signal.SIGKILL)
            (tmp_path / "new").write_text(f"{second}\n")
            (tmp_path / "new").rename(path)  # as pid files are written
            status, output, errors = finish(asking)
            assert (status, errors) == (0, "")
            assert said in output
            assert str(second) in output


def test_start_or_reload_of_what_cannot_be_started(tmp_path):
    status, _, errors = command("start-or-reload", tmp_path / "new", "--", "/no/such/command")
    assert status == 1
    assert "cannot start /no/such/command: No such file or directory" in errors


@pytest.mark.parametrize("words", [["reload"], ["stop", "--timeout", "0", "1"], ["status", "--x"]])
def test_wrong_arguments(words):
    status, _, errors = command(*words)
    assert status == 2
    assert "usage: python -m endless_py" in errors


AS_NOBODY = """
import os, socket, sys
from endless_py._control import client
from endless_py._control import commands as control_commands
from endless_py._handoff.channel import Channel
control_commands.parser()  # imports what nobody may not read, perhaps
pid = int(sys.argv[1])
address = client.addresses(pid)[0]
os.setgroups([]), os.setgid({id}), os.setuid({id})
for name in ("reload", "stop", "status"):
    print(control_commands.main([name, str(pid)]))
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout({timeout})
    try:
        sock.connect(address)
        Channel(sock).send({{"command": "stop"}})
        sock.settimeout({timeout})
        print(sock.recv(100))
    except OSError as error:
        print(b"")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_may_not_ask(folder):
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        script = AS_NOBODY.format(id=NOBODY, timeout=TIMEOUT)
        done = subprocess.run(
            [sys.executable, "-c", script, str(pid)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.stdout.split() == ["1", "1", "1", "b''"], done.stderr
        line = f"process {pid} belongs to another user; ask as that user or as root"
        assert [error.partition("error: ")[2] for error in done.stderr.splitlines()] == [line] * 3
        assert get(program.port) == "one end"
        program.stop(pid)
        assert "SIGHUP" not in program.text


def frame(data, count=0):
    return HEADER.pack(MAGIC, len(data), count) + data


PROTOCOL_ERRORS = {
    "no message": b"hello, whoever you are\n",
    "no JSON": frame(b"hello"),
    "no object": frame(b"[1]"),
    "an unknown command": frame(b'{"command": "fly"}'),
    "no command": frame(b"{}"),
    "deep": frame(b"[" * 1000),
    "too long": frame(b'{"command": "' + b"x" * MAX_REQUEST + b'"}'),
    "not text": frame(b"\xff\xfe"),
    "descriptors": frame(b'{"command": "status"}', 1),
    "nothing": b"",
}


def answers(sock):
    """Return what comes until the other end closes."""
    channel, found = Channel(sock), []
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    with contextlib.suppress(ChannelClosed):
        while True:
            assert poll.poll(TIMEOUT * 1000)
            found += [message.body for message in channel.receive()]
    return found


def test_protocol_errors_are_answered_and_forgotten(folder):
    with Program("steps.py", folder) as program:
        pid = program.wait_serving()
        (name,) = client.addresses(pid)
        for data in PROTOCOL_ERRORS.values():
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(TIMEOUT)
                sock.connect(name)
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                assert [answer["event"] for answer in answers(sock)] == ["error"] * bool(data)
        flood = []
        for _ in range(30):  # the rest waits, and takes nothing from anybody
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.connect(name)
            flood.append(sock)
        until(lambda: len(os.listdir(f"/proc/{pid}/fd")) >= 8)
        assert get(program.port) == "one end"
        for sock in flood:
            sock.close()
        assert command("status", pid)[0] == 0
        program.stop(pid)
