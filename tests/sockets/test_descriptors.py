"""What is opened for the package has no standard stream's number."""

from __future__ import annotations

import json
import subprocess
import sys

from harness import TIMEOUT, environment

CODE = """
import json, os, socket
from endless_py._sockets.poller import SelfPipe
from endless_py._support import descriptors
from endless_py._supervisor.notify import Notifier
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
name = os.urandom(8).hex()
manager.bind("\\0" + name)
spare = os.dup(1)
for number in (0, 1, 2):
    os.close(number)
found = []
self_pipe = SelfPipe()
found += [self_pipe.fileno(), self_pipe.sender()]
self_pipe.write()
assert self_pipe.clear() == b"\\0"
found += descriptors.pipe()
found.append(descriptors.keep_off_standard_streams(os.open(os.devnull, os.O_RDONLY)))
notifier = Notifier({"NOTIFY_SOCKET": "@" + name})
notifier.send(READY=1)
found.append(notifier._socket.fileno())
assert manager.recv(100) == b"READY=1"
left = []
for number in (0, 1, 2):
    try:
        os.fstat(number)
        left.append(number)
    except OSError:
        pass
assert not any(map(os.get_inheritable, found))
os.write(spare, json.dumps([found, left]).encode())
"""


def test_without_standard_streams(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
        timeout=TIMEOUT,
    )
    assert done.returncode == 0
    found, left = json.loads(done.stdout)
    assert min(found) > 2
    assert left == []  # nothing of what was moved is still there under its first number
