"""What a program can ask of the process it runs in."""

from __future__ import annotations

import os
import signal
import socket

from endless_py._reload import process
from endless_py._reload.base import Order
from endless_py._reload.hooks import DRAINED, DRAINING, READY
from endless_py._reload.keeper import ListenerKeeper
from endless_py._reload.listener import ForeignListener
from endless_py._reload.machine import Event
from endless_py._reload.settings import MAX_DRAINING, from_environment, nearest
from endless_py._reload.settings import check as check_settings
from endless_py._reload.signals import CALL, FORCE, RELOAD, STOP
from endless_py._sockets.shared import ListenerSocket
from endless_py._supervisor import detect
from endless_py._support import platform
from endless_py._support.reserve import no_room

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Optional, TypeVar, Union

    from endless_py._reload.hooks import Hook

    Address = Union[tuple[Any, ...], str, bytes, "os.PathLike[str]"]
    _Hook = TypeVar("_Hook", bound=Callable[[], object])
    _WorkerHook = TypeVar("_WorkerHook", bound=Callable[[int], object])


def reload() -> None:
    """Start a successor, as SIGHUP does. Returns at once; safe in any thread and handler."""
    process.current.post(Order(Event.RELOAD, "reload()"))


def stop() -> None:
    """Drain and stop, as SIGTERM does. Returns at once; a second call ends what is active.

    With a `stop_delay` the second call ends that, and a third one what is active.
    """
    process.current.post(Order(Event.STOP, "stop()"))


def ready() -> None:
    """Say ready for the servers with `ready_on_serve = False`, and for what `listen()` gave.

    Until then they accept nothing, and the predecessor serves; a successor that never
    calls it is killed after `ready_timeout`. Runs what `check()` has collected and raises
    what that raises. Safe in any thread.
    """
    process.current.loops.ready()


def generation() -> int:
    """Return this process's number: 0 for the first, one more with each reload."""
    return process.current.generation


def is_reloaded() -> bool:
    """Whether a reload has started this process, rather than an operator or a manager."""
    return process.current.generation > 0


def is_draining() -> bool:
    """Whether this process accepts no more and finishes what is active; safe in any thread."""
    return process.current.machine.drains


def wait_for_predecessor(timeout: Optional[float] = None) -> bool:
    """Wait until no older generation drains any more; whether that is so.

    timeout is in seconds, None (the default) waits for ever. An incumbent drains only when this
    process is ready, so call it after that, or in a thread of its own.
    """
    process.current.wake()
    return process.current.predecessors.none_lives.wait(timeout)


def set_signals(
    reload: Iterable[int] = (), stop: Iterable[int] = (), hammer: Iterable[int] = ()
) -> None:
    """Change which signals do what; those that are not named do what they do without this package.

    The default is reload=[SIGHUP], stop=[SIGTERM, SIGINT], hammer=[SIGUSR2]. Call it in the main
    thread, before the servers are made. Raises ValueError for a signal that cannot be
    handled, or that is to do two things.
    """
    roles: dict[int, str] = {}
    for role, numbers in ((RELOAD, reload), (STOP, stop), (FORCE, hammer)):
        for number in numbers:
            if roles.setdefault(_check_signal(number), role) != role:
                name = signal.Signals(number).name
                raise ValueError(f"{name} cannot {roles[int(number)]} and {role} at the same time")
    process.current.signals.set_roles(roles)


def before_signal(number: int) -> Callable[[_Hook], _Hook]:
    """Have a function called, without arguments, before a signal is acted upon; a decorator.

    It runs in a serving loop, not in a signal handler, so it may do what it likes, quickly.
    One that raises is logged. For a signal that does nothing otherwise (USR1, TSTP, ...)
    the hooks replace what it would do to the process.
    """
    return _signal_hook(number, process.current.hooks.before_signal)


def after_signal(number: int) -> Callable[[_Hook], _Hook]:
    """As `before_signal()`; called when what the signal asks for has begun."""
    return _signal_hook(number, process.current.hooks.after_signal)


def _signal_hook(number: int, hooks: dict[int, list[Hook]]) -> Callable[[_Hook], _Hook]:
    number = _check_signal(number)

    def add(hook: _Hook) -> _Hook:
        hooks.setdefault(number, []).append(hook)
        process.current.signals.hook(number)
        return hook

    return add


def _check_signal(number: int) -> int:
    name = signal.Signals(number).name  # ValueError for what is no signal
    if name in ("SIGKILL", "SIGSTOP", "SIGCHLD", CALL):
        raise ValueError(f"{name} cannot be used: it is not for programs to handle")
    return int(number)


def listen(
    address: Address,
    *,
    family: Optional[int] = None,
    type: int = socket.SOCK_STREAM,
    backlog: int = 128,
    on_drain: Optional[Callable[[], Any]] = None,
    on_resume: Optional[Callable[[], Any]] = None,
    **settings: Any,
) -> ForeignSocket:
    """Return a non-blocking listener for an address: the predecessor's, or a fresh one.

    For servers that are not socketserver's, such as `asyncio.start_server(..., sock=listen(...))`.
    Call `ready()` once they serve. In a drain on_drain() is called, in another thread: stop
    accepting, finish what is active, and end the program (or call `drained()` of what this function
    returned, when something else keeps the program alive). Should the successor die meanwhile,
    on_resume() is called: accept again on a new `listen()`; without one, a new successor is
    started at once.

    address is a tuple for IPv4 and IPv6, text or a path for a Unix socket; family follows from
    it unless it is given. backlog is that of a stream's accept queue. drain_timeout,
    ready_timeout (seconds, 60 each), stop_delay (seconds, 0), max_draining (8), keep_pid and
    pid_file mean what they do for the classes. Raises OSError, PidFileError, ValueError.
    """
    platform.require()
    if family is None:
        family = _family(address)
    owner = _Owner(backlog, settings)
    record = ForeignListener(owner, on_drain, on_resume)
    keeper = ListenerKeeper(process.current, record, lambda: None)
    listener = owner.socket = ListenerSocket.wrap(socket.socket(family, type), keeper)
    try:
        if listener.family != getattr(socket, "AF_UNIX", None):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        if type == socket.SOCK_STREAM:
            listener.listen(backlog)
        listener.setblocking(False)
    except BaseException:
        process.current.remove(record)
        listener.close()
        raise
    return ForeignSocket.of(listener, record)


class ForeignSocket(ListenerSocket):
    """What `listen()` gives: a listener, which can say for itself that it has drained."""

    _record: ForeignListener

    @classmethod
    def of(cls, listener: ListenerSocket, record: ForeignListener) -> ForeignSocket:
        given: ForeignSocket = listener.dup(cls)
        given._record = record
        return given

    def accept(self) -> tuple[socket.socket, Any]:
        """As a socket's; EMFILE also when only what reloads and commands need is left."""
        if process.current.runs_main and process.current.worker and not self._record.ready:
            raise BlockingIOError  # its generation does not serve yet
        if process.current.reserve.asks and not process.current.reserve.has_room():
            raise no_room()
        return super().accept()

    def drained(self) -> None:
        """Say that what was accepted on this listener has finished, where the program does not end.

        Called in or after its on_drain(). Safe in any thread.
        """
        self._record.done = True
        process.current.wake()


class _Owner:
    """Stands where a server would: it has the listener and the settings."""

    drain_timeout: Optional[float] = 60.0
    ready_timeout: Optional[float] = 60.0
    keepalive_grace: Optional[float] = 5.0  # for `serve_asyncio()`
    stop_delay = 0.0
    max_draining: Optional[int] = MAX_DRAINING
    keep_pid: detect.Setting = "auto"
    pid_file: Any = None
    socket: ListenerSocket

    def __init__(self, backlog: int, settings: dict[str, Any]) -> None:
        self.request_queue_size = backlog
        for name, value in from_environment().items():
            if hasattr(_Owner, name):
                setattr(self, name, value)
        for name, value in settings.items():
            if not hasattr(_Owner, name):
                meant = nearest(name, frozenset(vars(_Owner)))
                hint = f"; {meant} is one" if meant else ""
                raise TypeError(f"listen() has no argument {name}{hint}")
            setattr(self, name, value)
        check_settings(self, _Owner)

    def fileno(self) -> int:
        return self.socket.fileno()


def _family(address: Address) -> int:
    if not isinstance(address, tuple):
        return int(socket.AF_UNIX)
    return int(socket.AF_INET6 if ":" in str(address[0]) else socket.AF_INET)


def drained() -> None:
    """Say that the servers on all that `listen()` gave have drained, where no end says so.

    A program that ends says so too; each listener has a `drained()` that speaks for it alone.
    Safe in any thread.
    """
    process.current.drained()


def pass_file(name: str, file: Any) -> None:
    """Hand an open file on to every generation to come, under a name of the program's own.

    file is a descriptor or an object with a fileno(), of which a duplicate is kept: a log pipe, a
    lock file, a socket. None: no longer. Raises ValueError for a wrong name, OSError for
    a closed file.
    """
    if not 0 < len(name) <= 200 or name.startswith("endless_py:"):
        raise ValueError(f"{name[:40]!r} cannot be a file's name: 1 to 200 characters, of your own")
    descriptor = file if isinstance(file, int) or file is None else file.fileno()
    process.current.pass_file(name, descriptor)


def passed_file(name: str) -> Optional[int]:
    """Return a descriptor of the file that was passed on under this name, None if none was.

    It is a new one each time, the caller's own, and not inherited by child processes. The file
    goes on to further generations unless `pass_file(name, None)` says otherwise.
    """
    return process.current.passed_file(name)


def before_reload(hook: _Hook) -> _Hook:
    """Have `hook()` called before a successor is started; usable as a decorator.

    A hook that raises cancels the reload; serving goes on and the log says why.
    """
    process.current.hooks.before_reload.append(hook)
    return hook


def check(hook: _Hook) -> _Hook:
    """Have `hook()` called before this process says ready for the first time; a decorator.

    What it raises comes out of `serve_forever()` (or `ready()`), so that the program fails as
    if it could not start, and the predecessor goes on.
    """
    process.current.hooks.checks.append(hook)
    return hook


def on_ready(hook: _Hook) -> _Hook:
    """Have `hook()` called once every server of this process serves; usable as a decorator."""
    process.current.hooks.steps[READY].append(hook)
    return hook


def on_draining(hook: _Hook) -> _Hook:
    """Have `hook()` called when this process accepts no more; usable as a decorator.

    It is called again at the next drain when the successor dies in between.
    """
    process.current.hooks.steps[DRAINING].append(hook)
    return hook


def on_drained(hook: _Hook) -> _Hook:
    """Have `hook()` called when nothing is active any more; usable as a decorator."""
    process.current.hooks.steps[DRAINED].append(hook)
    return hook


def on_worker_start(hook: _WorkerHook) -> _WorkerHook:
    """Have `hook(number)` called once in each process that is to serve; a decorator.

    It is called before the process's first server serves, and may start others, in threads. Here
    connections to databases, threads and random seeds belong, which a fork must not share. number
    is the worker's, 0 is that of the leader and of a server without workers. What it raises ends
    that process: `serve_forever()` fails, or a reload does.
    """
    process.current.hooks.worker_start.append(hook)
    return hook


def on_worker_exit(hook: _WorkerHook) -> _WorkerHook:
    """Have `hook(number)` called once in each process that has served, at its end; a decorator.

    In a worker nothing else of the program's runs after `serve_forever()`: neither what follows it
    nor what `atexit` had before.
    """
    process.current.hooks.worker_exit.append(hook)
    return hook


def state() -> dict[str, Any]:
    """Return what this process is doing, in plain types that json can write.

    Keys: pid, generation, phase, since (when the phase began, in seconds since the epoch), until
    (when a drain, or the wait for the new code, is over at the latest; None: nothing says so),
    bridge, servers (address, accepting, active: how many handlers are at work, idle: how many wait
    for their client's next message), successor and predecessors (pid and generation; None and
    empty when there are none), last_reload (None, or at, ok, generation, and seconds or
    reason), workers (empty where this is the only process of its generation; else number, pid,
    since, active, idle, served: how many connections and datagrams, those of dead ones with that
    number included, and memory: the bytes it uses, what it shares counted in parts), counters
    (requests, connections_accepted, connections_migrated_in, connections_migrated_out,
    connections_cut, reloads_done, reloads_failed: since the first generation's start; with
    workers, of this one), upgrade (None without an `endless_py.upgrade.Updater`, else what
    `endless_py.upgrade.status()` returns).
    """
    return process.current.answers.state()
