"""two_listeners.py FOLDER: two `listen()`s, each of which has drained when FOLDER/NAME says how.

NAME is first or second. "itself": its own drained() is called; "closed": its socket is closed
before; "all": the module's drained() is called. The program ends when FOLDER/out exists.
"""

import os
import pathlib
import socket
import sys
import threading
import time

import endless_py

folder = pathlib.Path(sys.argv[1])
drains = {"first": threading.Event(), "second": threading.Event()}


def say(*words):
    os.write(1, (" ".join(map(str, [endless_py.generation(), *words])) + "\n").encode())


def finish(name, listener):
    drains[name].wait()
    say("drains", name)
    while not (folder / name).exists():
        time.sleep(0.01)
    how = (folder / name).read_text()
    if how == "closed":
        listener.close()
    (endless_py if how == "all" else listener).drained()
    time.sleep(0.3)  # long enough for the process to draw a wrong conclusion
    say("said", name, endless_py.state()["phase"])


endless_py.on_drained(lambda: say("on_drained"))
for name, event in drains.items():
    sock = endless_py.listen(
        str(folder / f"{name} socket"), on_drain=event.set, drain_timeout=20, keep_pid=False
    )
    say("a socket", isinstance(sock, socket.socket))
    threading.Thread(target=finish, args=(name, sock)).start()
endless_py.ready()
while not (folder / "out").exists():
    time.sleep(0.01)
os._exit(0)
