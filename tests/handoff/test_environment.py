"""What comes from the environment, what goes into it, and systems that lack something."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
from custom_code import custom
from harness import PROGRAMS, ROOT, Load, Program, environment, first, get, slow

from endless_py._handoff.channel import HEADER, MAGIC

FACTS = """
import os, sys
number = int(os.environ["LOOK_AT"])
def look():
    try:
        status = os.fstat(number)
        return status.st_mode, status.st_ino, os.get_inheritable(number)
    except OSError as error:
        return error.errno
before = look()
import endless_py
assert look() == before, (look(), before)
assert "ENDLESS_PY_CHANNEL" not in os.environ
print("untouched", flush=True)
"""
GREETING = {
    "type": "listeners",
    "generation": 1,
    "bridge": False,
    "pid": 1,
    "own": 0,
    "kept": False,
    "ancestor": False,
    "listeners": [],
    "more": False,
}


def frame(body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HEADER.pack(MAGIC, len(data), 0) + data


def refused(word, reason, folder, descriptor=77, pass_fds=()):
    """Start a server with that handoff variable: one line, nothing touched, a fresh start."""
    (folder / "first").write_text(FACTS)
    env = environment(ENDLESS_PY_CHANNEL=word, LOOK_AT=str(descriptor))
    program = PROGRAMS / "bare.py"
    done = subprocess.Popen(
        [sys.executable, str(program), str(folder)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=pass_fds,
        text=True,
    )
    with done:
        lines = []
        for line in done.stdout:
            lines.append(line.rstrip())
            if "serves tcp" in line:
                break
        done.terminate()
        rest = done.stdout.read()
    warnings = [line for line in lines if "ENDLESS_PY_CHANNEL" in line]
    assert len(warnings) == 1, lines
    assert f"is ignored and removed: {reason}" in warnings[0]
    assert "this process starts fresh" in warnings[0]
    assert "untouched" in lines
    assert "generation 0: serves tcp" in lines[-1]
    assert "Traceback" not in "".join(lines) + rest


@pytest.mark.parametrize(
    "word",
    ["", "words", *map(slow, ["-1", "3.5", "٣", "1e3", "9" * 20, "5:", "5:x", "5:1:x", "5 "])],
)
def test_a_variable_that_is_no_number(word, tmp_path):
    refused(word, f"{word[:40]!r} is not a descriptor's number", tmp_path)


def test_a_standard_stream(tmp_path):
    refused("2", "descriptor 2 is a standard stream", tmp_path, 2)


def test_a_closed_descriptor(tmp_path):
    refused("77", "descriptor 77 is not open", tmp_path)


def test_a_file(tmp_path):
    with open(tmp_path / "file", "w") as file:
        number = file.fileno()
        refused(str(number), f"descriptor {number} is not a socket", tmp_path, number, [number])


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, slow(socket.SOCK_DGRAM)], ids=["tcp", "udp"])
def test_a_socket_of_another_family(kind, tmp_path):
    with socket.socket(socket.AF_INET, kind) as sock:
        number = sock.fileno()
        refused(
            str(number), f"descriptor {number} is not a Unix stream", tmp_path, number, [number]
        )


def test_a_datagram_pair(tmp_path):
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with pair[0], pair[1]:
        number = pair[0].fileno()
        refused(
            str(number), f"descriptor {number} is not a Unix stream", tmp_path, number, [number]
        )


@pytest.mark.parametrize("data", [b"", b"nonsense"])
def test_a_pair_that_is_no_channel(data, tmp_path):
    pair = socket.socketpair()
    with pair[0], pair[1]:
        pair[1].sendall(data)
        number = pair[0].fileno()
        refused(str(number), f"descriptor {number} is not a channel of", tmp_path, number, [number])


def test_a_channel_whose_other_end_is_not_the_parent(tmp_path):
    """A helper process makes the pair, so the kernel names that one as the peer."""
    ours, its = socket.socketpair()
    helper = os.fork()
    if helper == 0:
        with contextlib.suppress(BaseException):
            a, b = socket.socketpair()
            a.sendall(frame(GREETING))
            socket.send_fds(its, [b"x"], [b.fileno()])
            its.recv(1)
        os._exit(0)
    with ours, its:
        number = socket.recv_fds(ours, 1, 1)[1][0]
        reason = f"the other end of descriptor {number} is not the parent"
        refused(str(number), reason, tmp_path, number, [number])
        refused(f"{number}:{os.getpid()}:", reason, tmp_path, number, [number])
        os.close(number)
        ours.send(b"x")
        os.waitpid(helper, 0)


GREETINGS = {
    "empty object": ({}, "it does not begin with the listeners"),
    "another word": ({"type": "ready"}, "it does not begin with the listeners"),
    "a list": (b"[]", "a message that is not an object"),
    "not json": (b"{", "a message that is not JSON"),
    "no pid": ({k: v for k, v in GREETING.items() if k != "pid"}, "the greeting is not complete"),
    "no number": ({**GREETING, "generation": "x"}, "the greeting is not complete"),
    "missing descriptor": ({**GREETING, "listeners": [{}]}, "the greeting is not complete"),
}


@pytest.mark.parametrize("name", first(GREETINGS, 3))
def test_a_greeting_from_the_parent_that_is_wrong(name, tmp_path):
    body, reason = GREETINGS[name]
    pair = socket.socketpair()
    with pair[0], pair[1]:
        pair[1].sendall(frame(body))
        # A channel of ours is closed once it was opened, so it is not what is looked at.
        refused(str(pair[0].fileno()), reason, tmp_path, 77, [pair[0].fileno()])


LACKING = ["os.fork", "signal.SIGHUP", "socket.AF_UNIX", "select.poll", "signal.pthread_sigmask"]
WINDOWS = [*LACKING, "os.register_at_fork", "os.set_blocking", "os.geteuid", "socket.socketpair"]
IMPORTS = """
import os, select, signal, socket, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
for name in {names}:
    module, _, attribute = name.partition(".")
    delattr(sys.modules[module], attribute)
import endless_py, endless_py.socketserver, endless_py.http.server, endless_py.__main__
for cls in (endless_py.TCPServer, endless_py.ThreadingHTTPServer):
    try:
        cls(("127.0.0.1", 0), endless_py.BaseHTTPRequestHandler)
    except endless_py.UnsupportedPlatform as error:
        print(error)
    else:
        raise SystemExit("no error")
"""


@pytest.mark.parametrize("names", [*(slow([n]) for n in LACKING), WINDOWS], ids=[*LACKING, "all"])
def test_import_works_where_something_is_missing(names):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTS.format(names=names)],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    for line in done.stdout.splitlines():
        assert "cannot serve on this platform: it has no" in line
        assert names[0] in line
        assert "use the standard library's class here" in line


def test_a_bare_copy_runs_isolated_from_installed_packages(tmp_path):
    shutil.copytree(ROOT / "endless_py", tmp_path / "bare" / "endless_py")
    program = (PROGRAMS / "bare.py").read_text()
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'bare')!r})\n" + program
    check = "\nassert not [n for n in sys.modules if n in ('typing_extensions', 'site')]"
    (tmp_path / "first").write_text("")
    command = [sys.executable, "-S", "-I", "-W", "error", "-c"]
    code = code.replace("\nwith kind", check + "\nwith kind")
    with Program(code, tmp_path, command=command, cwd=tmp_path) as program:
        pid = program.wait_serving()
        new = program.reload(1, pid)
        program.wait_alone(new)
        assert get(program.port) == str(new)
        program.stop(new)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["THREADS", "FORKS"])
def test_nothing_of_ours_reaches_a_handlers_child(kind, tmp_path):
    with Program("bare.py", tmp_path, kind) as program:
        old = program.wait_serving()

        def look():
            variables, descriptors, own = json.loads(get(program.port, "/environment"))
            assert set(variables) <= {"ENDLESS_PY_LOG_LEVEL"}  # which is for them as well
            # With close_fds=False a child has what is inheritable, and nothing is.
            assert [d for d in descriptors if d != own] == []

        look()
        slow = socket.create_connection(("127.0.0.1", program.port))
        slow.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        while not (tmp_path / "slow").exists():
            pass
        new = program.reload(1, old)
        program.wait("finishing ")
        look()
        (tmp_path / "go").touch()
        program.wait_alone(new)
        look()
        slow.close()
        program.stop(new)


LATE = """
def ours():
    return {name for name in sys.modules if name.startswith("endless_py")}

with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    before = ours()
    server.serve_forever()
    print("imported late:", sorted(ours() - before), flush=True)
"""


def test_no_module_of_the_package_is_imported_once_the_server_is_made(tmp_path):
    """The package may have been replaced in place by then."""
    with custom(tmp_path, LATE) as program:
        old = program.wait_serving()
        with Load(program.port) as load:
            load.wait_answer("0 ")
            new = program.reload(1, old)
            load.wait_answer("1 ")
        assert load.lost == []
        program.wait_alone(new)
        program.wait(r"imported late: \[\]")
        program.stop(new)
        assert program.text.count("imported late: []") == 2
