"""servers.py LIBRARY CLASS [PORT [COUNT]]: the server that is measured.

The program is the same for each LIBRARY but for its import:

standard    the standard library's class
endless_py  ours
reusing     ours, with reuse_threads
nodelay     the standard one, with TCP_NODELAY
waiting     the standard one, with TCP_NODELAY; it waits for its client and for the end of a pipe
            at once, as a connection must that may have to migrate
pooled      the standard one, with TCP_NODELAY, and sixteen threads that take what is accepted from
            a queue, one connection after the other
counting    the standard one, with the least that tells which handlers are active, until when,
            without polling: an entry in a dict for each; each forked one has a socket pair, over
            which it could send its connection home, and no descriptor that is only the server's
minimal     the standard one, with TCP_NODELAY and the least that reloads at HUP
apart       the same, and a small interpreter starts its successor and ends, so that it is nobody's
            child
imported    the standard one, in a program that has imported ours as well

It writes `port N` once it listens. COUNT servers (default 1) are served, each but the last by a
thread of its own; the last one on PORT (default 0, any). With COUNT 0 the program ends when its
first connection has ended.

An HTTP server answers GET with its pid; GET /use?N also keeps N MB of memory in use, GET /burn?N
computes for N turns of a loop, POST waits for its body. The others echo a line or a datagram.
"""

import os
import queue
import select
import signal
import socket
import socketserver as std_socketserver
import sys
import threading
import time

from burn import burn

library, name = sys.argv[1:3]
port = int(sys.argv[3]) if len(sys.argv) > 3 else 0
count = int(sys.argv[4]) if len(sys.argv) > 4 else 1
HTTP = name.endswith("HTTPServer")
if library not in ("endless_py", "reusing"):
    if HTTP:
        import http.server as module
    else:
        import socketserver as module
elif HTTP:
    from endless_py import socketserver
    from endless_py.http import server as module
else:
    from endless_py import socketserver as module

if library == "imported":
    import endless_py.socketserver

    if HTTP:
        import endless_py.http.server  # noqa: F401

kept = []

if HTTP:

    class Handler(module.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path.startswith("/use?"):
                kept.append(b"x" * (int(self.path[5:]) << 20))
            elif self.path.startswith("/burn?"):
                burn(int(self.path[6:]))
            self.answer()

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer()

        def answer(self):
            body = b"%d\n" % os.getpid()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

elif "UDP" in name:

    class Handler(module.BaseRequestHandler):
        def handle(self):
            data, sock = self.request
            sock.sendto(data, self.client_address)

else:

    class Handler(module.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())


class Counting:
    """The floor of echoes."""

    def __init__(self, *arguments):
        self.handlers, self.ways = {}, {}
        super().__init__(*arguments)

    def serve_forever(self):
        self.poll = select.poll()
        self.poll.register(self, select.POLLIN)
        if hasattr(self, "active_children"):
            self.watch_forks()
        while True:
            for descriptor, _ in self.poll.poll():
                if descriptor == self.fileno():
                    self._handle_request_noblock()
                else:
                    self.poll.unregister(descriptor)
                    pid, ours = self.ways.pop(descriptor)
                    ours.close()
                    os.waitpid(pid, 0)

    def watch_forks(self):
        # The drain, the signals' pipe, commands; the child neither serves nor hears of them.
        own = [end for _ in range(3) for end in os.pipe()]
        caught, held = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT}, []

        def before():
            held.append(signal.pthread_sigmask(signal.SIG_BLOCK, caught))

        def after():
            signal.pthread_sigmask(signal.SIG_SETMASK, held.pop())

        def after_in_child():
            for descriptor in own:
                os.close(descriptor)
            if self.socket.type == socket.SOCK_STREAM:
                self.socket.close()
            after()

        os.register_at_fork(before=before, after_in_parent=after, after_in_child=after_in_child)

    def process_request(self, request, client_address):
        if hasattr(self, "active_children"):
            ours, its = socket.socketpair()
            super().process_request(request, client_address)
            its.close()
            self.ways[ours.fileno()] = self.active_children.pop(), ours
            self.poll.register(ours, select.POLLIN)
        else:
            self.handlers[id(request)] = client_address, time.monotonic()
            super().process_request(request, client_address)

    def close_request(self, request):
        super().close_request(request)
        self.handlers.pop(id(request), None)


class Pooled:
    """The floor of reuse_threads."""

    def serve_forever(self):
        self.accepted = queue.SimpleQueue()
        for _ in range(16):
            threading.Thread(target=self.work, daemon=True).start()
        super().serve_forever()

    def work(self):
        while True:
            self.process_request_thread(*self.accepted.get())

    def process_request(self, *request):
        self.accepted.put(request)


if library == "waiting":
    drain, _ = os.pipe()
    Answering = Handler

    class Handler(Answering):
        def setup(self):
            super().setup()
            self.poll = select.poll()
            for descriptor in (self.connection, drain):
                self.poll.register(descriptor, select.POLLIN)

        def handle_one_request(self):
            self.poll.poll()
            super().handle_one_request()


if name == "ForkingHTTPServer":  # the standard module has none
    sockets = socketserver if library in ("endless_py", "reusing") else std_socketserver
    Class = type(name, (sockets.ForkingMixIn, module.HTTPServer), {})
else:
    Class = getattr(module, name)
if library == "counting":
    Class = type(name, (Counting, Class), {})
elif library == "pooled":
    Class = type(name, (Pooled, Class), {})
elif library in ("minimal", "apart"):
    from minimal import Minimal

    Minimal.apart = library == "apart"

    Class = type(name, (Minimal, Class), {})
elif library == "reusing":
    Class.reuse_threads = True
servers = [Class(("127.0.0.1", 0), Handler) for _ in range(count - 1)]
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
with Class(("127.0.0.1", port), Handler) as server:
    if library in ("nodelay", "waiting", "pooled", "minimal", "apart"):
        server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    os.write(1, b"port %d\n" % server.server_address[1])  # in one piece, among the log's lines
    if count:
        server.serve_forever()
    else:
        server.daemon_threads = False  # server_close() waits for the handler
        server.handle_request()
