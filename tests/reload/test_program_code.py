"""The program's own code, called by us: it may call everything public, and wait for it.

And what a program and its operator are promised of a drain: an order to stop is not forgotten,
and a `listen()` that has drained speaks for itself alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from harness import ROOT, Program, connect, first, get, slow

SOON = 8.0  # seconds in which a process that is not stuck has done what it was told
HOOKS = [
    "before_signal HUP",
    "before_signal USR1",
    "after_signal HUP",
    "after_signal USR1",
    "before_reload",
    "check",
    "on_ready",
    "on_draining",
    "on_drained",
    "on_drain",
    "on_resume",
]
QUICK = ("before_signal HUP", "before_reload", "check")


def start(folder, code):
    (folder / "code").write_text(code)
    return Program("calling.py", folder)


def wait_serving(program, generation=0):
    """Wait until this generation serves both of its listeners; return its pid."""
    return program.wait_serving(generation, 2)


def port(program):
    return int(program.wait(r"generation 0: serves tcp .*:(\d+); ", timeout=SOON)[1])


def status(pid):
    """Return the exit status of the command, and what it printed."""
    words = [sys.executable, "-m", "endless_py", "status", "--timeout", str(SOON), str(pid)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=4 * SOON)
    return done.returncode, done.stdout + done.stderr


def until(true, program):
    """Wait until that is so."""
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline, program.text
        time.sleep(0.01)


def one_is_left(program):
    program.process.poll()  # reaps it
    return len(program.pids()) == 1


class Slow:
    """A request that is answered when FOLDER/go exists."""

    def __init__(self, folder, number):
        self.folder = folder
        self.answer = None
        self.error = None
        self._thread = threading.Thread(target=self._ask, args=(number,))
        self._thread.start()
        deadline = time.monotonic() + SOON
        while not (folder / "slow").exists():
            assert time.monotonic() < deadline, self.error
            time.sleep(0.01)

    def _ask(self, number):
        connection = connect(number)
        try:
            connection.request("GET", "/slow")
            self.answer = connection.getresponse().read().decode()
        except Exception as error:
            self.error = error
        finally:
            connection.close()

    def over(self):
        (self.folder / "go").touch()
        self._thread.join(SOON)

    def ends(self):
        """Have it answered; return the answer."""
        self.over()
        assert self.error is None
        return self.answer


def provoke(program, folder, hook):
    """Have this hook called in generation 0, after all that come before it."""
    if hook == "check":
        return
    pid = wait_serving(program)
    slow = Slow(folder, port(program)) if hook == "on_resume" else None
    if hook != "on_ready":
        os.kill(pid, signal.SIGUSR1 if hook.endswith("USR1") else signal.SIGHUP)
    if slow is not None:
        new = wait_serving(program, 1)
        program.wait("^0 on_drain$", timeout=SOON)
        os.kill(new, signal.SIGKILL)
        program.wait("^0 on_resume$", timeout=SOON)
        slow.over()


def stops(program):
    """Stop who serves, with one signal; nothing may be left."""
    pid = int(get(port(program)).split()[1])
    os.kill(pid, signal.SIGTERM)
    program.wait_alone(None, SOON)


# -- everything public, in every hook ------------------------------------------

FUNCTIONS = """
from endless_py.socketserver import TCPServer

MINE = {hook!r}
THREAD = {thread!r}
file = os.open(os.devnull, os.O_RDONLY)

def listening():
    endless_py.listen(str(folder / f"{{endless_py.generation()}} {{time.monotonic()}}")).close()

def another_hook():
    for add in (endless_py.on_ready, endless_py.on_drained, endless_py.before_reload):
        add(lambda: None)
    endless_py.before_signal(signal.SIGUSR1)(lambda: None)

def bound():
    TCPServer(("127.0.0.1", 0), Handler).server_close()

FUNCTIONS = {{
    "state": endless_py.state,
    "generation": endless_py.generation,
    "is_reloaded": endless_py.is_reloaded,
    "pass_file": lambda: endless_py.pass_file("file", file),
    "passed_file": lambda: os.close(endless_py.passed_file("file")),
    "wait_for_predecessor": lambda: endless_py.wait_for_predecessor(timeout=0.05),
    "hooks": another_hook,
    "a server": bound,
    "listen": listening,
    "ready": endless_py.ready,
    "drained": endless_py.drained,
}}
# What waits for the checks cannot be waited for by a check; nor speak of a drain too early.
LEFT_OUT = {{"check": {{"drained"}}}}.get(MINE, set())

def call(name):
    try:
        FUNCTIONS[name]()
    except Exception as error:
        say("raised", name, repr(error))
    else:
        say("called", name)

def calls(hook):
    if hook == MINE and endless_py.generation() == 0:
        for name in FUNCTIONS:
            if name in LEFT_OUT:
                continue
            if THREAD:
                thread = threading.Thread(target=call, args=(name,))
                thread.start()
                if (hook, name) != ("check", "ready"):
                    thread.join()
            else:
                call(name)
    say(hook)
"""
FUNCTIONS_CALLED = re.findall(r'^    "(.+)": ', FUNCTIONS, re.M)


@pytest.mark.slow
@pytest.mark.parametrize("thread", first([False, True]), ids=["itself", "in a thread"])
@pytest.mark.parametrize("hook", [hook if hook in QUICK else slow(hook) for hook in HOOKS])
def test_a_hook_may_call_everything_public(hook, thread, tmp_path):
    with start(tmp_path, FUNCTIONS.format(hook=hook, thread=thread)) as program:
        provoke(program, tmp_path, hook)
        program.wait(f"^0 {hook}$", timeout=SOON)
        for name in FUNCTIONS_CALLED:
            if (hook, name) != ("check", "drained"):
                program.wait(f"^0 called {name}$", timeout=SOON)
        assert "0 raised" not in program.text
        if hook not in ("check", "on_ready", "on_resume") and not hook.endswith("USR1"):
            wait_serving(program, 1)
            until(lambda: one_is_left(program), program)
        generation, pid, _ = get(port(program)).split()
        os.kill(int(pid), signal.SIGHUP)
        until(lambda: get(port(program)).startswith(f"{int(generation) + 1} "), program)
        until(lambda: one_is_left(program), program)
        stops(program)


RELOADS = """
def calls(hook):
    if endless_py.generation() == 0:
        endless_py.reload()
    say(hook)
"""


@pytest.mark.slow
def test_every_hook_may_ask_for_a_reload(tmp_path):
    with start(tmp_path, RELOADS) as program:
        wait_serving(program, 1)  # its own check has asked for it
        program.wait("^0 on_drained$", timeout=SOON)
        wait_serving(program, 2)  # its later hooks have asked again
        until(lambda: one_is_left(program), program)
        assert int(get(port(program)).split()[0]) > 1
        stops(program)


STOPS = """
def calls(hook):
    say(hook)
    if hook == {hook!r} and endless_py.generation() == 0:
        {call}
        say("called")
"""


@pytest.mark.parametrize("hook", first(HOOKS, 4))
def test_a_hook_may_stop_the_process(hook, tmp_path):
    with start(tmp_path, STOPS.format(hook=hook, call="endless_py.stop()")) as program:
        provoke(program, tmp_path, hook)
        program.wait("^0 called$", timeout=SOON)
        program.wait_alone(None, SOON)
        assert program.process.wait(SOON) == 0


@pytest.mark.parametrize("call", first(["server.shutdown()", "in_a_thread(server.shutdown)"]))
@pytest.mark.parametrize("hook", first([h for h in HOOKS if h != "check"], 4))
def test_a_hook_may_shut_a_server_down(hook, call, tmp_path):
    code = STOPS.format(hook=hook, call=call)
    code += """
def in_a_thread(function):
    threading.Thread(target=function).start()
"""
    with start(tmp_path, code) as program:
        provoke(program, tmp_path, hook)
        program.wait("^0 called$", timeout=SOON)
        until(lambda: program.process.poll() is not None, program)  # serve_forever() returns
        assert program.process.returncode == 0


# -- calls that wait for us ----------------------------------------------------

WAITS = """
from endless_py import upgrade

def calls(hook):
    if hook == {hook!r} and endless_py.generation() == 0:
        say("reloaded", upgrade.reload_and_wait().ok)
"""


@pytest.mark.parametrize("name", ["HUP", "USR1"])
def test_a_hook_of_a_signal_may_wait_for_a_reload(name, tmp_path):
    with start(tmp_path, WAITS.format(hook=f"before_signal {name}")) as program:
        pid = wait_serving(program)
        os.kill(pid, getattr(signal, f"SIG{name}"))
        program.wait("^0 reloaded True$", timeout=SOON)
        new = wait_serving(program, 2 if name == "HUP" else 1)  # HUP itself is passed on
        program.wait_alone(new, SOON)
        stops(program)


FOR_THE_PREDECESSOR = """
def calls(hook):
    if hook == {hook!r} and endless_py.generation() == 1:
        say("waits")
        say("waited", endless_py.wait_for_predecessor(timeout=15))
"""


@pytest.mark.parametrize("hook", ["before_signal HUP", "before_signal USR1", "on_ready"])
def test_a_hook_may_wait_for_the_end_of_the_predecessor(hook, tmp_path):
    with start(tmp_path, FOR_THE_PREDECESSOR.format(hook=hook)) as program:
        pid = wait_serving(program)
        slow = Slow(tmp_path, port(program))
        new = program.reload(1, pid, 2)
        if hook != "on_ready":
            os.kill(new, getattr(signal, f"SIG{hook[-4:].strip()}"))
        program.wait("^1 waits$", timeout=SOON)
        assert slow.ends().startswith("0 ")
        program.wait("^1 waited True$", timeout=SOON)
        if hook.endswith("HUP"):
            new = wait_serving(program, 2)
        program.wait_alone(new, SOON)
        stops(program)


BLOCKS = """
def calls(hook):
    if hook == {hook!r} and endless_py.generation() == 0:
        say("blocks")
        while not (folder / "unblocked").exists():
            time.sleep(0.01)
        say("goes on")
"""
BLOCKING = ["before_signal USR1", "after_signal USR1", "on_ready"]


def block(program, hook):
    """Have the hook called; return the pid of the process that it blocks."""
    pid = wait_serving(program)
    if hook.endswith("USR1"):
        os.kill(pid, signal.SIGUSR1)
    program.wait("^0 blocks$", timeout=SOON)
    return pid


@pytest.mark.parametrize("hook", BLOCKING)
def test_while_a_hook_blocks_the_process_can_be_asked_and_stopped(hook, tmp_path):
    with start(tmp_path, BLOCKS.format(hook=hook)) as program:
        pid = block(program, hook)
        code, text = status(pid)
        assert (code, str(pid) in text) == (0, True), text
        os.kill(pid, signal.SIGTERM)
        program.wait("SIGTERM; finishing ", timeout=SOON)
        assert "0 goes on" not in program.lines
        (tmp_path / "unblocked").touch()
        program.wait_alone(None, SOON)


@pytest.mark.parametrize("hook", BLOCKING)
def test_while_a_hook_blocks_the_process_can_be_reloaded(hook, tmp_path):
    with start(tmp_path, BLOCKS.format(hook=hook)) as program:
        pid = block(program, hook)
        os.kill(pid, signal.SIGHUP)
        new = wait_serving(program, 1)
        program.wait(r"\] generation 0: .*generation 1 .* is ready after", timeout=SOON)
        assert "0 goes on" not in program.lines
        assert get(port(program)).startswith("1 ")
        (tmp_path / "unblocked").touch()
        program.wait_alone(new, SOON)
        stops(program)


@pytest.mark.parametrize(
    "hook", first(["on_draining", "on_drain", "on_drained", "after_signal HUP"])
)
def test_a_hook_that_blocks_the_drain_keeps_nobody_from_stopping(hook, tmp_path):
    with start(tmp_path, BLOCKS.format(hook=hook)) as program:
        pid = wait_serving(program)
        os.kill(pid, signal.SIGHUP)
        new = wait_serving(program, 1)
        program.wait("^0 blocks$", timeout=SOON)
        os.kill(pid, signal.SIGTERM)  # passed on
        until(lambda: new not in program.pids(), program)
        (tmp_path / "unblocked").touch()
        program.wait_alone(None, SOON)


# -- an order to stop is not forgotten ------------------------------------------


@pytest.mark.parametrize("keep", first([False, True]), ids=["new pid", "kept pid"])
@pytest.mark.parametrize("order", ["stopped", "alive", "dead"])
def test_a_stop_is_kept_when_the_successor_that_was_to_hear_it_dies(order, keep, tmp_path):
    with start(tmp_path, f"Server.keep_pid = {keep}") as program:
        pid = wait_serving(program)
        slow = Slow(tmp_path, port(program))
        os.kill(pid, signal.SIGHUP)
        found = program.wait(r"\[(\d+)\] generation 1.*: serves tcp", timeout=SOON)
        new = int(found[1])
        program.wait("^0 hook on_drain$", timeout=SOON)
        if order == "stopped":  # so that it hears nothing of the stop
            os.kill(new, signal.SIGSTOP)
        if order == "dead":
            os.kill(new, signal.SIGKILL)
            program.wait("0 hook on_resume", timeout=SOON)
        after = len(program.lines)
        os.kill(pid, signal.SIGTERM)
        program.wait("SIGTERM", after, timeout=SOON)
        with contextlib.suppress(ProcessLookupError):  # it may have heard of the stop
            os.kill(new, signal.SIGKILL)
        time.sleep(0.5)  # in which it could be cut
        assert slow.error is None
        assert pid in program.pids()
        assert slow.ends() == f"0 {pid} end"
        program.wait_alone(None, SOON)


# -- a listener that speaks for itself --------------------------------------------


@pytest.mark.parametrize("how", ["itself", "closed", "all"])
@pytest.mark.parametrize("name", ["HUP", "TERM"])
def test_the_drain_ends_when_both_listeners_have_drained(name, how, tmp_path):
    with Program("two_listeners.py", tmp_path) as program:
        pid = wait_serving(program)
        assert program.lines.count("0 a socket True") == 2
        os.kill(pid, getattr(signal, f"SIG{name}"))
        for listener in ("first", "second"):
            program.wait(f"^0 drains {listener}$", timeout=SOON)
        (tmp_path / "part").write_text(how)
        (tmp_path / "part").rename(tmp_path / "second")
        phase = "draining" if name == "HUP" else "stopping"
        if how == "all":
            program.wait("^0 said second drained$", timeout=SOON)
        else:
            program.wait(f"^0 said second {phase}$", timeout=SOON)
            assert "0 on_drained" not in program.lines
            (tmp_path / "part").write_text("itself")
            (tmp_path / "part").rename(tmp_path / "first")
            program.wait("^0 said first drained$", timeout=SOON)
        assert program.lines.count("0 on_drained") == 1
        (tmp_path / "out").touch()
