"""swapping.py KIND OUTCOME: upgrades that are killed by SIGKILL at one of their acts.

An act is anything that changes a name or makes a file in the target's folder; the
process dies before it is done. KIND is "file" or "link", OUTCOME what the reload says, "ok" or
a reason. For each line "STEP FOLDER" on standard input a process of its own does one upgrade
and is killed at its STEP-th act; then "STATUS ACTS" is printed, where ACTS is 0 if it was killed.
"""

import os
import signal
import sys
from pathlib import Path

from endless_py import upgrade

CHANGES = ("os.rename", "os.symlink", "os.link", "os.mkdir", "os.remove", "os.rmdir")
kind, outcome = sys.argv[1:]


def swap(folder, step):
    """Do one upgrade; return how many acts it took."""
    acts = 0

    def on_event(event, arguments):
        nonlocal acts
        changes = bool(arguments[2] & os.O_CREAT) if event == "open" else event in CHANGES
        paths = [os.fspath(word) for word in arguments[:2] if isinstance(word, (str, os.PathLike))]
        if changes and any(str(path).startswith(str(folder)) for path in paths):
            acts += 1
            if acts == step:
                os.kill(os.getpid(), signal.SIGKILL)

    target = folder / ("app.pyz" if kind == "file" else "current")
    name = "app-2.0.pyz" if kind == "file" else "app-2.0.tar.gz"
    updater = upgrade.Updater(
        upgrade.FileSource(folder.parent / "shelf" / name),
        target,
        dry_start=False,
        keep=1,
        reload=lambda: upgrade.Reloaded(outcome == "ok", outcome),
    )
    sys.addaudithook(on_event)
    updater.look()
    return acts


for line in sys.stdin:
    step, folder = line.rstrip("\n").split(" ", 1)
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, str(swap(Path(folder), int(step))).encode())
        os._exit(0)
    os.close(theirs)
    with open(ours) as file:
        acts = file.read() or "0"
    print(os.waitpid(pid, 0)[1], acts, flush=True)
