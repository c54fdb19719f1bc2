"""The floor of a reload: HUP starts the same command again, which inherits the listener.

When that says that it serves, this one returns from serve_forever() and waits for its handlers.
Nothing is looked after that can go wrong, and no connection migrates.
"""

import os
import select
import signal
import socket
import sys

VARIABLE = "MINIMAL_RELOAD"
START = "import os, sys; os.fork() and os._exit(0); os.execv(sys.argv[1], sys.argv[1:])"


class Minimal:
    """Put to the left of a class of http.server."""

    daemon_threads = False
    apart = False  # the successor is nobody's child

    def server_bind(self):
        words = os.environ.pop(VARIABLE, "").split()
        self.say = int(words[1]) if words else -1
        if not words:
            super().server_bind()
            return
        self.socket.close()
        self.socket = socket.socket(fileno=int(words[0]))
        self.server_address = self.socket.getsockname()
        self.server_name = socket.getfqdn(self.server_address[0])
        self.server_port = self.server_address[1]

    def serve_forever(self):
        self.socket.setblocking(False)  # the other process may be the one that accepts
        called, calls = os.pipe()
        os.set_blocking(calls, False)
        signal.signal(signal.SIGHUP, lambda *_: None)
        signal.set_wakeup_fd(calls)
        poll = select.poll()
        for descriptor in (self.fileno(), called):
            poll.register(descriptor, select.POLLIN)
        if self.say >= 0:
            os.write(self.say, b"\n")
            os.close(self.say)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self.fileno():
                    self._handle_request_noblock()
                elif descriptor == called:
                    os.read(called, 100)
                    poll.register(self.start_successor(), select.POLLIN)
                else:
                    return

    def start_successor(self):
        heard, say = os.pipe()
        for descriptor in (self.fileno(), say):
            os.set_inheritable(descriptor, True)
        environment = {**os.environ, VARIABLE: f"{self.fileno()} {say}"}
        between = [sys.executable, "-S", "-c", START] if self.apart else []
        os.posix_spawn(sys.executable, [*between, sys.executable, *sys.argv], environment)
        os.close(say)
        return heard
