"""Signals, hooks, and programs of every shape around a server."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from custom_code import SERVE, custom, slow_request
from harness import PROGRAMS, TIMEOUT, Program, connect, first, get

from endless_py._reload import listener, listeners, settings
from endless_py._supervisor import detect

HUP, TERM, INT, USR2 = (getattr(signal, f"SIG{name}") for name in ("HUP", "TERM", "INT", "USR2"))


def test_hup_to_the_whole_group_with_forked_handlers(tmp_path):
    code = SERVE.replace("ThreadingHTTPServer", "ForkingHTTPServer")
    answers: list[str] = []
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        threads = [slow_request(tmp_path, program.port, answers) for _ in range(3)]
        os.killpg(pid, HUP)
        new = program.wait_serving(1)
        program.wait("finishing ")
        (tmp_path / "go").touch()
        for thread in threads:
            thread.join(TIMEOUT)
        assert [answer.split()[0] for answer in answers] == ["0"] * 3
        program.wait_alone(new)
        assert "generation 2" not in program.text
        program.stop(new)


OWN = {
    "TERM": "kill -HUP {pid} reloads, -INT stops",
    "HUP": "kill -TERM {pid} stops",
    "HUP TERM INT": "no signal of its own, endless_py.reload() reloads",
}


@pytest.mark.parametrize("names", OWN)
def test_only_signals_that_are_obeyed_are_promised(tmp_path, names):
    code = "".join(f"signal.signal(signal.SIG{name}, lambda *_: None)\n" for name in names.split())
    with custom(tmp_path, code + SERVE) as program:
        pid = program.wait_serving()
        assert program.wait(r"serves .*?; (.*)")[1] == OWN[names].format(pid=pid)
        os.kill(pid, USR2)
        program.wait_alone(None)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM"])
def test_a_signal_to_a_handler_that_is_just_being_forked_is_not_one_to_the_server(tmp_path, name):
    hook = f"lambda: os.kill(os.getpid(), signal.{name})"
    code = SERVE.replace("ThreadingHTTPServer", "ForkingHTTPServer")
    with custom(tmp_path, f"os.register_at_fork(after_in_child={hook}){code}") as program:
        pid = program.wait_serving()
        answers: list[str] = []
        thread = slow_request(tmp_path, program.port, answers)
        # A number in the server's pipe counts as a signal after 0.05 s without its handler.
        assert [get(program.port).split()[0] for _ in range(20)] == ["0"] * 20
        time.sleep(0.1)
        (tmp_path / "go").touch()
        thread.join(TIMEOUT)
        assert [answer.split()[0] for answer in answers] == ["0"]
        assert name not in program.text
        os.kill(pid, HUP)
        program.stop(program.wait_serving(1))


def test_ten_hups_at_once_leave_code_that_was_started_after_them(tmp_path):
    with custom(tmp_path, f"print('started', time.monotonic(), flush=True){SERVE}") as program:
        pid = program.wait_serving()
        for _ in range(10):
            os.kill(pid, HUP)
            time.sleep(0.005)
        last = time.monotonic()
        program.wait("started generation 1 ")
        # Each reload that was begun ends, and a HUP that came meanwhile begins one more.
        reloads = 0
        while "started generation" in program.text.partition(f"generation {reloads}: serves")[2]:
            reloads += 1
            final = program.wait_serving(reloads)
            program.wait(rf"generation {reloads}: generation .* has ended")
            if "another one follows" in program.text or "passed on" in program.text:
                final = program.wait_serving(2)
        program.wait_alone(final)
        starts = [float(line.split()[1]) for line in program.lines if line.startswith("started ")]
        assert starts[-1] > last
        assert len(starts) <= 4
        program.stop(final)


def test_nohup_reloads(tmp_path):
    (tmp_path / "code").write_text(SERVE)
    command = ["nohup", sys.executable, str(PROGRAMS / "custom.py")]
    with Program(tmp_path, command=command) as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            pid = program.reload(generation, pid)
        program.wait_alone(pid)
        program.stop(pid)


OWN_HUP = f"""
signal.signal(signal.SIGHUP, lambda *_: (print("own", flush=True), endless_py.reload())){SERVE}
"""


def test_a_hup_handler_of_the_programs_own_stays_and_can_reload(tmp_path):
    with custom(tmp_path, OWN_HUP) as program:
        pid = program.wait_serving()
        program.wait("the program has a SIGHUP handler of its own, which stays")
        new = program.reload(1, pid)
        program.wait("^own")
        program.wait_alone(new)
        program.stop(new)


def test_a_term_handler_of_the_programs_own_stays(tmp_path):
    code = f'signal.signal(signal.SIGTERM, lambda *_: sys.exit("own end")){SERVE}'
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        os.kill(pid, TERM)
        program.wait("own end")
        assert program.process.wait(TIMEOUT) == 1


def test_reload_and_stop_from_a_handler(tmp_path):
    code = f"""
class Handler(Handler):
    def do_POST(self):
        getattr(endless_py, self.path[1:])()
        self.do_GET()
{SERVE}"""
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        for path, generation in (("/reload", 0), ("/stop", 1)):
            client = connect(program.port)
            client.request("POST", path)
            assert client.getresponse().read().startswith(b"%d " % generation)
            client.close()
            if path == "/reload":
                new = program.wait_serving(1)
                program.wait_alone(new)
        program.wait_alone(None)
        assert pid != new


def test_hooks_run_before_the_successor_and_can_cancel(tmp_path):
    code = f"""
@endless_py.before_reload
def check():
    print("hook", flush=True)
    if (folder / "bad").exists():
        raise ValueError("not now")
{SERVE}"""
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        (tmp_path / "bad").touch()
        os.kill(pid, HUP)
        program.wait(r"reload cancelled by .*check.*ValueError\('not now'\); serving goes on")
        assert get(program.port).startswith("0 ")
        (tmp_path / "bad").unlink()
        new = program.reload(1, pid)
        lines = program.lines
        assert lines.index("hook") < next(i for i, x in enumerate(lines) if "started gen" in x)
        program.wait_alone(new)
        program.stop(new)


def test_term_before_any_server_serves_ends_as_without_us(tmp_path):
    code = """
server = HTTPServer(("127.0.0.1", 0), Handler)
print("made", flush=True)
while True:  # a signal just before a sleep would wait for its end
    time.sleep(0.05)
"""
    with custom(tmp_path, code) as program:
        program.wait("made")
        os.kill(program.pid, TERM)
        assert program.process.wait(TIMEOUT) == -TERM


IN_THREAD = """
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
thread = threading.Thread(target=server.serve_forever)
thread.start()
{}
server.server_close()
print("cleaned up", flush=True)
"""


@pytest.mark.parametrize("wait", ["thread.join()", "while thread.is_alive(): time.sleep(0.05)"])
def test_a_server_in_another_thread(wait, tmp_path):
    with custom(tmp_path, IN_THREAD.format(wait)) as program:
        pid = program.wait_serving()
        for generation in (1, 2):
            pid = program.reload(generation, pid)
            program.wait_alone(pid)
            assert get(program.port) == f"{generation} {pid} {pid} end"
        os.kill(pid, TERM)
        program.wait_alone(None)
        assert program.text.count("cleaned up") == 3


def test_a_main_thread_that_runs_no_handler_loses_no_signal(tmp_path):
    """Another thread gets the signal, and nothing wakes the main one, which alone runs handlers."""
    code = IN_THREAD.format(
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})\n"
        "print('blocked', flush=True)\nthread.join()"
    )
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        program.wait("blocked")
        new = program.reload(1, pid)
        program.wait_alone(new)
        os.kill(new, TERM)
        program.wait_alone(None)
        assert "generation 2" not in program.text
        assert program.text.count("SIGTERM; finishing") == 1


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_main_thread_that_sleeps_beside_a_daemon_server_ends_by_the_signal(number, tmp_path):
    code = """
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
while True: time.sleep(1000)
"""
    answers: list[str] = []
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        thread = slow_request(tmp_path, program.port, answers)
        os.kill(pid, number)
        program.wait("finishing ")
        (tmp_path / "go").touch()
        thread.join(TIMEOUT)
        assert answers == [f"0 {pid} {pid} end"]
        program.wait_alone(None)


@pytest.mark.slow
def test_what_keeps_a_drained_program_alive_is_named(tmp_path):
    code = SERVE + "\nthreading.Thread(target=time.sleep, args=(60,), name='the culprit').start()"
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        new = program.reload(1, pid)
        program.wait("finished 5 s ago, but the program has not ended; alive: .*the culprit")
        for process in (pid, new):  # the new one would linger too
            os.kill(process, signal.SIGKILL)
        program.wait_alone(None)


SUPERVISED = {
    "a thread of the program's": "threading.Thread(target=culprit, args=(3600,)).start()",
    "its main thread": "culprit(3600)",
    "a main thread that swallows its end": """
while True:
    try:
        culprit(3600)
    except BaseException:
        pass
""",
}


@pytest.mark.parametrize("what", first(SUPERVISED))
@pytest.mark.parametrize("how", ["reload", "stop"])
def test_a_drained_program_that_does_not_end_is_ended(what, how, tmp_path):
    grace = "def culprit(seconds): time.sleep(seconds)\nThreadingHTTPServer.exit_grace = 0.5\n"
    with custom(tmp_path, f"{grace}{SERVE}\n{SUPERVISED[what]}") as program:
        pid = program.wait_serving()
        if how == "reload":
            (tmp_path / "code").write_text(grace + SERVE)
            os.kill(pid, HUP)
            new = program.wait_serving(1)
        else:
            os.kill(pid, TERM)
        program.wait(r"does not end: thread .* culprit")
        program.wait(r"finished 0\.5 s ago, but the program has not ended; it is ended now")
        program.wait_alone(new if how == "reload" else None)
        if how == "reload":
            assert get(program.port).startswith("1 ")
            program.stop(new)


def test_only_a_program_that_is_supervised_is_ended_by_default(monkeypatch):
    monkeypatch.delenv("SUPERVISOR_ENABLED", raising=False)
    server = type("Server", (), {})()
    known = listeners.Listeners()
    known.add(listener.Listener(server))
    assert (known.exit_grace(True), known.exit_grace(False)) == (30, settings.NO_LIMIT)
    server.exit_grace = None
    assert known.exit_grace(True) == settings.NO_LIMIT
    server.exit_grace = 5
    assert (known.exit_grace(True), known.exit_grace(False)) == (5, 5)
    assert detect.is_watched(True)
    monkeypatch.setattr(detect, "_parent_name", lambda: "bash")
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    assert not detect.is_watched(False)
    monkeypatch.setenv("SUPERVISOR_ENABLED", "1")
    assert detect.is_watched(False)


STUBBORN = {
    "a sleeping thread": "ThreadingHTTPServer",
    "a busy plain server": "HTTPServer",
    "a forked handler": "ForkingHTTPServer",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STUBBORN)
def test_a_handler_that_ignores_the_cut_is_ended_and_named(name, tmp_path):
    code = f"""
class Handler(Handler):
    def do_GET(self):
        print("in handler", flush=True)
        if {name!r} != "a forked handler":
            signal.pthread_sigmask(signal.SIG_BLOCK, set())
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end = time.monotonic() + 50
        while time.monotonic() < end:
            time.sleep(50 if "sleeping" in {name!r} else 0.01)

class Server({STUBBORN[name]}):
    drain_timeout = 0.3

with Server(("127.0.0.1", 0), Handler) as server:
    server.serve_forever()
"""
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        client = connect(program.port)
        client.request("GET", "/")
        place = client.sock.getsockname()
        program.wait("in handler")
        new = program.reload(1, pid)
        program.wait(rf"drain time is over: cuts 127.0.0.1:{place[1]} on tcp .*, active for \d")
        program.wait_alone(new)
        client.close()
        program.stop(new)


DAEMON = """
def detach():
    if endless_py.generation() == 0 and os.fork():
        os._exit(0)
"""
BEFORE = DAEMON + "detach()\n"
AFTER = (
    DAEMON
    + """
serve_forever = Server.serve_forever
def serve_later(self):
    detach()
    serve_forever(self)
Server.serve_forever = serve_later
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("keep", first([False, True]))
@pytest.mark.parametrize(
    "code", first([BEFORE, AFTER]), ids=["before it binds", "after it has bound"]
)
def test_a_program_that_became_a_daemon_is_reloaded(code, keep, tmp_path):
    (tmp_path / "code").write_text(f"{code}\nServer.keep_pid = {keep}")
    with Program("hooked.py", tmp_path) as program:
        pid = program.wait_serving()
        assert pid != program.pid
        assert program.process.wait(TIMEOUT) == 0
        for generation in (1, 2):
            os.kill(pid, signal.SIGHUP)
            line = program.wait(rf"\[(\d+)\] generation {generation}: generation .* has ended")
            assert (int(line[1]) == pid) is keep
            pid = int(line[1])
            program.wait_alone(pid)
            assert get(program.port) == f"{generation} end"
        program.stop(pid)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True], ids=["a pid of its own", "the pid is kept"])
def test_signals_that_who_started_it_held_back_are_let_in(kept, tmp_path):
    code = SERVE.replace("with T", f"ThreadingHTTPServer.keep_pid = {kept}\nwith T")
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {HUP, TERM, INT, USR2})
    try:
        program = custom(tmp_path, code)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    with program:
        pid = program.wait_serving()
        for generation in (1, 2):
            os.kill(pid, HUP)
            program.wait(rf"\] generation {generation}: generation .* has ended")
            pid = program.wait_serving(generation)
        program.stop(pid)


WAITS = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
thread = threading.Thread(target=server.serve_forever)
thread.start()
print("waited for", signal.sigwait([signal.SIGTERM]).name, flush=True)
server.shutdown()
thread.join()
"""


def test_signals_that_the_program_holds_back_for_itself_stay_so(tmp_path):
    with custom(tmp_path, WAITS) as program:
        os.kill(program.wait_serving(), TERM)
        program.wait("waited for SIGTERM")
        program.wait_alone(None)


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGHUP", "SIGTERM"])
def test_a_signal_that_c_code_handles_stays_the_programs(name, tmp_path):
    code = f"import faulthandler; faulthandler.register(signal.{name}, file=sys.stdout)\n{SERVE}"
    with custom(tmp_path, code) as program:
        pid = program.wait_serving()
        os.kill(pid, getattr(signal, name))
        program.wait("most recent call first")
        assert get(program.port).startswith("0 ")
        assert ("has a SIGHUP handler of its own" in program.text) is (name == "SIGHUP")
        os.kill(pid, INT)
        program.wait_alone(None)


MAINS = {
    "works": """
while True:
    time.sleep(0.1)
    sum(range(1000))
    time.sleep(0.1)
""",
    "is busy in asyncio": """
import asyncio
async def main():
    try:
        while True:
            sum(range(1000))
            await asyncio.sleep(0.01)
    finally:
        await asyncio.sleep(0.01)
        print("cleaned up", flush=True)
asyncio.run(main())
""",
    "takes from a queue": """
import queue
work = queue.Queue()
while True:
    try:
        work.get(timeout=0.1)
    except queue.Empty:
        sum(range(1000))
""",
    "pauses": """
while True:
    signal.pause()
""",
    "is in a long call of C code": """
import hashlib
while True:
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)
""",
}
BESIDE = """
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", first(["TERM", "INT", "HUP"]))
@pytest.mark.parametrize("main", first(MAINS, 2))
def test_a_main_thread_that_does_something_else_is_ended_after_the_servers(main, order, tmp_path):
    """Without us the signal would have ended it on the spot, whatever it was doing."""
    with custom(tmp_path, BESIDE + MAINS[main]) as program:
        pid = program.wait_serving()
        os.kill(pid, getattr(signal, f"SIG{order}"))
        status = program.process.wait(TIMEOUT)
        assert status == (-INT if order == "INT" else 0)
        if order == "HUP":
            program.stop(program.wait_serving(1))
        if "asyncio" in main:
            assert program.text.count("cleaned up") == 1 + (order == "HUP")
        assert "is dropped" not in program.text


WAITS_FOR_IT = """
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
thread = threading.Thread(target=server.serve_forever)
thread.start()
WAIT
print("waited", flush=True)
for step in range(30):
    time.sleep(0.1)
print("cleaned up", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "wait", first(["thread.join()", "while thread.is_alive(): thread.join(0.1)"])
)
@pytest.mark.parametrize("order", first(["TERM", "HUP"]))
def test_a_main_thread_that_waits_for_the_servers_has_its_time_to_end(wait, order, tmp_path):
    with custom(tmp_path, WAITS_FOR_IT.replace("WAIT", wait)) as program:
        pid = program.wait_serving()
        os.kill(pid, getattr(signal, f"SIG{order}"))
        assert program.process.wait(TIMEOUT) == 0
        program.wait("cleaned up")
        if order == "HUP":
            program.stop(program.wait_serving(1))
