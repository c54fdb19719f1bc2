"""Starting a command as nobody's child, so that its end is told all the same.

A program that ends its children when it ends must not find the process that has just taken over
among them. So a small interpreter is started, which forks twice and ends: nothing is left that is
a child of this process. The one in the middle, the watcher, waits for the end of the new process
and tells how that ended, for as long as this process keeps its end of a socket pair open. The
watcher of a bridge stays as long as that: the process that started it becomes another one.

That interpreter imports only what is built in, so nothing on the disk can break it. It makes the
start as fresh as the first one was (see `started`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Collection
from contextlib import suppress
from importlib import import_module

from endless_py._handoff.child import Child
from endless_py._support import sigmask

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

    from endless_py._handoff.command_line import CommandLine
    from endless_py._handoff.started import Started

_CODE = """
import _signal, _thread, posix, sys
tell, top, stays, numbers, default, ignored, mask, nice, coerced = eval(sys.argv[1])
program, arguments = sys.argv[2], sys.argv[3:]

def leave_with_the_one_that_asked():
    posix.read(tell, 1)
    posix._exit(0)

_signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # ignored, it would hide how children end
if posix.fork():
    posix._exit(0)
pid = posix.fork()
if pid:
    try:
        posix.closerange(0, tell)
        posix.closerange(tell + 1, top)
        posix.write(tell, b"%10d %10d\\n" % (posix.getpid(), pid))
        if not stays:
            _thread.start_new_thread(leave_with_the_one_that_asked, ())
        posix.write(tell, b"%d\\n" % posix.waitpid(pid, 0)[1])
    finally:
        posix._exit(0)
try:
    posix.close(tell)
    if numbers:
        null = posix.open("/dev/null", posix.O_RDWR)
        for number in numbers:
            posix.dup2(null, number)
        if null not in numbers:
            posix.close(null)
    for number in default:
        _signal.signal(number, _signal.SIG_DFL)
    for number in ignored:
        _signal.signal(number, _signal.SIG_IGN)
    try:
        posix.setpriority(posix.PRIO_PROCESS, 0, nice)
    except OSError:
        pass
    if coerced:
        posix.environ.pop(b"LC_CTYPE", None)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
    posix.execve(program, arguments, posix.environ)
except BaseException as error:
    posix.write(2, ("cannot start %s: %s\\n" % (program, error)).encode(errors="replace"))
    posix._exit(127)
"""


def import_in_time(command: CommandLine) -> None:
    """Import what only a reload needs: the files of this interpreter may be gone by then."""
    names = ["json", "subprocess", "fcntl"]
    if command.arguments and os.sep not in command.arguments[0]:
        names.append("shutil")
    for name in names:
        with suppress(ImportError):  # not every system has each
            import_module(name)


def start(
    command: CommandLine,
    environment: dict[str, str],
    channel: int,
    started: Started,
    hold: Collection[int] = (),
    bridge: bool = False,
    stderr: Optional[int] = None,
) -> Child:
    """Start `command` again as `started` says, with `channel` and signals that wait.

    stderr is a descriptor that is to be its standard error, None for this process's. Raises
    OSError when it cannot be started. The spawn is vfork-style from 3.10 on, and nobody waits for
    the small interpreter here: see `Child.begun()`.
    """
    import subprocess  # late, as only a reload needs it

    executable, directory, words = command.locate(environment)
    same, closed = started.descriptors()
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, its:
        tell = keep_off(its.detach(), closed)
        kept = (channel, tell, *same)
        default, ignored = started.changed_signals(hold)
        settings = (
            tell,
            max(*kept, *closed, 2) + 1,
            bridge,
            sorted(closed),
            sorted(default),
            sorted(ignored),
            sorted(started.blocked.union(hold)),
            started.nice,
            "LC_CTYPE" not in environment,
        )
        flags = ["-E", "-S"] if sys.flags.ignore_environment else ["-S"]
        frozen = getattr(sys, "frozen", False)  # then the program itself is no interpreter
        if not frozen:
            words = [executable, *flags, "-c", _CODE, repr(settings), executable, *words]
        # What comes to the interpreter that only starts another one is not meant for it.
        mask = sigmask.block(hold if frozen else signal.valid_signals())
        try:
            process = subprocess.Popen(
                words,
                env=environment,
                cwd=directory,
                pass_fds=(channel, *same) if frozen else kept,
                stderr=stderr,
                umask=started.umask,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(tell)
        process.returncode = 0  # subprocess is not to wait for it
        ours.setblocking(False)
        return Child(process.pid, report=ours.detach())


def keep_off(descriptor: int, numbers: set[int]) -> int:
    """Return the descriptor, or one like it that has none of these numbers, in its place."""
    wrong = []
    try:
        while descriptor in numbers:
            wrong.append(descriptor)
            descriptor = os.dup(descriptor)
    finally:
        for number in wrong:
            os.close(number)
    return descriptor
