"""python -m endless_py reload, stop, status and start-or-reload: the asking side of `remote`.

Exit status: 0 done, 1 failed, 2 wrong arguments, 3 not done within --timeout.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Callable, Optional, Sequence

from endless_py.exceptions import EndlessError, PidFileError
from endless_py.pidfile import PID_FILE_VARIABLE, read_pid
from endless_py.remote import PREFIX, peer, private_folder

OK, FAILED, TIMED_OUT = 0, 1, 3
_NUDGE_AFTER = 0.2  # seconds without an answer after which a busy process is woken
_RETRY = 0.02
_SHOWN = 20  # lines of a log that is shown


class _Failed(EndlessError):
    """What was asked for cannot be done; the message is for the operator."""


class _TimedOut(EndlessError):
    pass


class _Deadline:
    def __init__(self, seconds: Optional[float]) -> None:
        self._ends = None if seconds is None else time.monotonic() + seconds

    def remaining(self) -> Optional[float]:
        """Return the seconds left, None for no limit; raises _TimedOut when there are none."""
        if self._ends is None:
            return None
        left = self._ends - time.monotonic()
        if left <= 0:
            raise _TimedOut
        return left

    def pause(self) -> None:
        left = self.remaining()
        time.sleep(_RETRY if left is None else min(_RETRY, left))


class _Talk:
    """A conversation with one process."""

    def __init__(self, pid: int, sock: socket.socket, deadline: _Deadline) -> None:
        self.pid = pid
        self._socket = sock
        self._deadline = deadline
        self._incoming = b""

    def ask(self, command: str, **more: Any) -> None:
        with suppress(OSError):  # its end is noticed by next()
            self._socket.sendall(json.dumps({"command": command, **more}).encode() + b"\n")

    def next(self) -> Optional[dict[str, Any]]:
        """Return the next answer, None when the process has ended (or has nothing to add)."""
        nudged = False
        while b"\n" not in self._incoming:
            left = self._deadline.remaining()
            wait = left if nudged else min(_NUDGE_AFTER, _NUDGE_AFTER if left is None else left)
            if not select.select([self._socket], [], [], wait)[0]:
                if not nudged:
                    nudged = True
                    with suppress(OSError):
                        os.kill(self.pid, signal.SIGURG)
                continue
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                return None
            self._incoming += data
        line, _, self._incoming = self._incoming.partition(b"\n")
        answer: dict[str, Any] = json.loads(line.decode())
        if answer.get("event") == "error":
            raise _Failed(f"process {self.pid}: {answer.get('reason')}")
        return answer

    def wait_end(self) -> None:
        """Wait until the process has ended."""
        while self.next() is not None:
            pass

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> _Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _addresses(pid: int) -> list[str]:
    """Return where the process may listen."""
    if sys.platform.startswith("linux"):
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
            found = re.findall(rf" @({PREFIX}{pid}/[0-9a-f]+)$", file.read(), re.M)
        return sorted({f"\0{name}" for name in found})
    uids = [os.geteuid()]
    if not uids[0]:  # root may ask everybody's
        with suppress(OSError):
            folder = os.path.dirname(private_folder(0, make=True))
            names = (re.fullmatch(r"endless_py-(\d+)", name) for name in os.listdir(folder))
            uids = [int(name[1]) for name in names if name]
    addresses = []
    for uid in uids:
        with suppress(OSError):
            addresses.append(os.path.join(private_folder(uid), f"{pid}.sock"))
    return addresses


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError as error:
        raise _Failed(
            f"process {pid} belongs to another user; ask as that user or as root"
        ) from error
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


def _try_connect(pid: int, deadline: _Deadline) -> Optional[_Talk]:
    for address in _addresses(pid):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            left = deadline.remaining()
            sock.settimeout(5.0 if left is None else min(5.0, left))
            sock.connect(address)
            found = peer(sock)
            if found is None or found[0] == pid:  # else another process took its name
                return _Talk(pid, sock, deadline)
        except OSError:
            pass
        sock.close()
    return None


def _connect(pid: int, deadline: _Deadline) -> _Talk:
    """Raises _Failed with one clear line when the process cannot be asked."""
    if not _is_alive(pid):
        raise _Failed(f"there is no process {pid}")
    talk = _try_connect(pid, deadline)
    if talk is None:
        raise _Failed(f"process {pid} does not serve with endless_py (or does not serve yet)")
    return talk


def _follow(pid: int, deadline: _Deadline) -> _Talk:
    """Connect to a process that may not serve yet."""
    while True:
        try:
            return _connect(pid, deadline)
        except _Failed:
            if not _is_alive(pid):
                raise
        deadline.pause()


def _target(word: str) -> int:
    """Return the pid that TARGET says, or that the file it names has."""
    return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else read_pid(word)


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(text: str) -> None:
    print(f"python -m endless_py: error: {text}", file=sys.stderr, flush=True)


# -- reload -------------------------------------------------------------------


def _reload(pid: int, deadline: _Deadline, wait_drained: bool) -> int:
    talk = _connect(pid, deadline)
    try:
        talk.ask("reload")
        ready: Optional[dict[str, Any]] = None
        while True:
            answer = talk.next()
            event = answer["event"] if answer is not None else "end"
            if event == "moved" and answer is not None:
                talk.close()
                talk = _follow(int(answer["pid"]), deadline)
                talk.ask("reload")
            elif event == "failed" and answer is not None:
                _say_failed(answer)
                return FAILED
            elif event == "ready" and answer is not None:
                ready = answer
                _say_ready(talk.pid, ready)
                if not wait_drained:
                    return OK
            elif event == "end" and ready is None:
                raise _Failed(f"process {talk.pid} ended before it could say how the reload went")
            elif event == "end" and ready is not None:
                return _drained(talk.pid, ready, deadline)
    finally:
        talk.close()


def _say_failed(answer: dict[str, Any]) -> None:
    for line in answer["output"]:
        print(f"    {line}", file=sys.stderr)
    _complain(str(answer["reason"]))


def _say_ready(pid: int, ready: dict[str, Any]) -> None:
    generation, seconds = ready["generation"], ready["seconds"]
    if ready["bridge"]:
        how = f"pid {pid} is kept, {ready['pid']} is the bridge until it has drained"
    else:
        how = f"pid {pid} drains, pid {ready['pid']} serves"
    _say(f"reloaded: generation {generation} serves after {seconds:.3f} s; {how}")


def _drained(pid: int, ready: dict[str, Any], deadline: _Deadline) -> int:
    if not ready["bridge"]:
        _say(f"drained: pid {pid} has ended")
        return OK
    # The same pid now runs the new code, or will in a moment.
    while True:
        with _follow(pid, deadline) as talk:
            talk.ask("status")
            answer = talk.next()
        if answer is not None and answer["generation"] >= ready["generation"]:
            _say(f"drained: pid {pid} serves as generation {answer['generation']}")
            return OK
        deadline.pause()


# -- stop ---------------------------------------------------------------------


def _stop(pid: int, deadline: _Deadline) -> int:
    watched: dict[int, _Talk] = {}
    try:
        with _connect(pid, deadline) as talk:
            with suppress(_Failed):  # it may end by itself meanwhile
                for state in _chain(pid, deadline):
                    watched[state["pid"]] = _connect(state["pid"], deadline)
                    watched[state["pid"]].ask("watch")
            talk.ask("stop")
            talk.wait_end()
        for other in watched.values():
            other.wait_end()
    finally:
        for other in watched.values():
            other.close()
    while any(_is_alive(number) for number in [pid, *watched]):
        deadline.pause()  # the kernel takes the conversations down a moment earlier
    _say(f"stopped: pid {', '.join(map(str, sorted({pid, *watched})))} has ended")
    return OK


# -- status -------------------------------------------------------------------


def _state(pid: int, deadline: _Deadline) -> dict[str, Any]:
    with _connect(pid, deadline) as talk:
        talk.ask("status")
        answer = talk.next()
    if answer is None:
        raise _Failed(f"process {pid} ended before it answered")
    del answer["event"]
    return answer


def _chain(pid: int, deadline: _Deadline) -> list[dict[str, Any]]:
    """Return the states of this process and of every generation it is linked to, oldest first."""
    found = {pid: _state(pid, deadline)}
    ask = [pid]
    while ask:
        state = found[ask.pop()]
        for neighbour in [*state["predecessors"], state["successor"]]:
            if neighbour is not None and neighbour["pid"] not in found:
                with suppress(EndlessError):  # one that starts, or has just ended
                    found[neighbour["pid"]] = _state(neighbour["pid"], deadline)
                    ask.append(neighbour["pid"])
    return sorted(found.values(), key=lambda state: (state["generation"], state["bridge"]))


def _status(pid: int, deadline: _Deadline, as_json: bool) -> int:
    states = _chain(pid, deadline)
    if as_json:
        _say(json.dumps({"generations": states}, indent=2))
        return OK
    rows = [("GENERATION", "PID", "STATE", "SINCE", "SERVER", "ACTIVE", "IDLE")]
    for state in states:
        name = f"{state['generation']}{' (bridge)' * state['bridge']}"
        first = (name, str(state["pid"]), state["phase"], _when(state["since"]))
        for server in state["servers"] or [{"address": "-", "active": "-", "idle": "-"}]:
            numbers = (str(server["active"]), str(server["idle"]))
            rows.append((*first, server["address"], *numbers))
            first = ("", "", "", "")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        _say("  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip())
    last = max(
        (state["last_reload"] for state in states if state["last_reload"]),
        key=lambda report: float(report["at"]),
        default=None,
    )
    _say(f"last reload: {_outcome(last)}")
    for upgrade in [state["upgrade"] for state in states if state.get("upgrade")][-1:]:
        _show_upgrade(upgrade)
    return OK


def _show_upgrade(upgrade: dict[str, Any]) -> None:
    if "error" in upgrade:
        _say(f"upgrade: {upgrade['error']}")
        return
    look = upgrade["last_look"]
    _say(f"upgrade: version {upgrade['version']}, from {upgrade['source']}")
    _say(f"last look: {_when(look['at']) + ', ' + look['text'] if look else 'none'}")


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _outcome(report: Optional[dict[str, Any]]) -> str:
    if report is None:
        return "none"
    if report["ok"]:
        what = f"generation {report['generation']} served after {report['seconds']:.3f} s"
    else:
        what = f"generation {report['generation']} failed: {report['reason']}"
    return f"{_when(report['at'])}, {what}"


# -- upgrade ------------------------------------------------------------------


def _upgrade(pid: int, deadline: _Deadline, check_only: bool) -> int:
    with _connect(pid, deadline) as talk:
        talk.ask("upgrade", check_only=check_only)
        answer = talk.next()
    if answer is None:
        raise _Failed(f"process {pid} ended before it could say what became of the upgrade")
    if answer["result"] not in ("unchanged", "available", "upgraded"):
        raise _Failed(f"{answer['result']}: {answer['text']}")
    _say(f"{answer['result']}: {answer['text']}")
    return OK


# -- start-or-reload ----------------------------------------------------------


def _start_or_reload(
    path: str, command: list[str], log_path: Optional[str], deadline: _Deadline
) -> int:
    try:
        pid: Optional[int] = _target(path)
    except PidFileError:
        if os.path.lexists(path) and not _is_empty(path):
            raise
        pid = None
    if pid is not None and _is_alive(pid):
        return _reload(pid, deadline, wait_drained=False)
    if path.isdigit():
        raise _Failed(f"there is no process {path}; give a pid file to start one")
    return _start(path, command, log_path or f"{path}.log", deadline)


def _is_empty(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) == 0


def _start(path: str, command: list[str], log_path: str, deadline: _Deadline) -> int:
    try:
        log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _Failed(f"cannot write the log {log_path}: {error.strerror}") from error
    begins = os.fstat(log).st_size
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, PID_FILE_VARIABLE: os.path.abspath(path)},
            start_new_session=True,
        )
    except OSError as error:
        raise _Failed(f"cannot start {command[0]}: {error.strerror}") from error
    finally:
        os.close(log)
    began = time.monotonic()
    try:
        while True:
            pid = _serving(path, deadline)
            if pid is not None:
                break
            status = child.poll()
            if status:  # a command that makes a daemon ends with 0
                _show_tail(log_path, begins)
                raise _Failed(f"the command exited with status {status} before it served")
            deadline.pause()
    except _TimedOut:
        raise _TimedOut(
            f"pid {child.pid} runs, but does not serve; its log is {log_path}"
        ) from None
    seconds = time.monotonic() - began
    child.returncode = 0  # it is not ours to wait for
    _say(f"started: pid {pid} serves after {seconds:.3f} s; its log is {log_path}")
    return OK


def _serving(path: str, deadline: _Deadline) -> Optional[int]:
    """Return the pid of the process that serves and owns this pid file, if there is one."""
    try:
        pid = read_pid(path)
        return pid if _state(pid, deadline)["phase"] == "serving" else None
    except (_Failed, PidFileError):
        return None


def _show_tail(path: str, begins: int) -> None:
    with open(path, "rb") as file:
        file.seek(begins)
        lines = file.read().decode(errors="replace").splitlines()
    for line in lines[-_SHOWN:]:
        print(f"    {line}", file=sys.stderr)


# -- the command line ---------------------------------------------------------


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{word!r} is not a positive number of seconds")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m endless_py")
    kinds = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str, timeout: float) -> argparse.ArgumentParser:
        kind = kinds.add_parser(name, help=text, description=text)
        help_text = f"wait at most so long, then exit with status 3; default: {timeout:g}"
        kind.add_argument(
            "--timeout", type=_seconds, default=timeout, metavar="SECONDS", help=help_text
        )
        kind.add_argument("target", metavar="TARGET", help="a pid or a pid file")
        return kind

    kind = add("reload", "Reload a server and say how it went.", 120.0)
    kind.add_argument(
        "--wait-drained", action="store_true", help="wait until the old generation has ended, too"
    )
    add("stop", "Stop a server; wait until it has drained and ended.", 120.0)
    kind = add("status", "Show the generations of a server.", 10.0)
    kind.add_argument("--json", action="store_true", help="as JSON")
    kind = add("upgrade", "Have a server look for a new version of itself now.", 600.0)
    kind.add_argument(
        "--check-only", action="store_true", help="say whether there is one that passes, no more"
    )
    kind = add(
        "start-or-reload",
        "Reload the server whose pid TARGET, a pid file, has; start it if there is none.",
        120.0,
    )
    kind.add_argument(
        "--log", metavar="PATH", help="where the started server writes; default: TARGET.log"
    )
    kind.add_argument("words", nargs="+", metavar="-- COMMAND", help="what to start")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands; returns the exit status."""
    options = _parser().parse_args(arguments)
    deadline = _Deadline(options.timeout)
    run: dict[str, Callable[[], int]] = {
        "reload": lambda: _reload(_target(options.target), deadline, options.wait_drained),
        "stop": lambda: _stop(_target(options.target), deadline),
        "status": lambda: _status(_target(options.target), deadline, options.json),
        "upgrade": lambda: _upgrade(_target(options.target), deadline, options.check_only),
        "start-or-reload": lambda: _start_or_reload(
            options.target, options.words, options.log, deadline
        ),
    }
    try:
        return run[options.command]()
    except _TimedOut as error:
        what = f": {error}" if str(error) else "; nothing was undone"
        _complain(f"{options.command} is not done after {options.timeout:g} s{what}")
        return TIMED_OUT
    except (EndlessError, OSError, ValueError) as error:
        _complain(str(error))
        return FAILED
