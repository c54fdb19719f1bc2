"""standard.py KIND PORT: servers as somebody writes them who has never heard of this package.

Each answer begins with the generation, which is asked of the package if it is there.
"""

import os
import socketserver
import ssl
import sys
import threading
import time
import xmlrpc.server
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from wsgiref import simple_server

ADDRESS = "127.0.0.1", int(sys.argv[2])


def answer():
    package = sys.modules.get("endless_py")
    return f"{package.generation() if package else 0} {os.getpid()} end".encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/slow"):
            time.sleep(float(self.path.partition("?")[2]))
        body = answer()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class OneRequest(Handler):
    protocol_version = "HTTP/1.0"


def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(float(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer()]


class QuietWSGI(simple_server.WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


class Forking(socketserver.ForkingMixIn, HTTPServer):
    pass


class ThreadingWSGI(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


class TLS(ThreadingHTTPServer):
    """Encrypts the listener, as its author has read it somewhere."""

    def server_bind(self):
        super().server_bind()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain("cert", "key")
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )


class Counting(type(HTTPServer)):
    made = 0

    def __call__(cls, *arguments, **keywords):
        Counting.made += 1
        return super().__call__(*arguments, **keywords)


class Odd(HTTPServer, metaclass=Counting):
    """Has attributes whose names look like settings, and a loop of its own."""

    pid_file = 17
    drain_timout = "a misspelt one, or another thing"
    subclasses = []  # noqa: RUF012
    started = False

    def __init_subclass__(cls, *, name, **arguments):
        super().__init_subclass__(**arguments)
        Odd.subclasses.append(name)

    def __init__(self, *arguments, server_class=HTTPServer):
        assert isinstance(self, server_class)
        super().__init__(*arguments)
        self.__class__.started = True
        self.keep_pid = "never"

    def server_bind(self):
        HTTPServer.server_bind(self)

    def serve_forever(self):
        assert type(self).started
        assert Odd.started
        assert self.__class__ is Odd
        assert Odd.subclasses == []
        assert Counting.made == 1
        while True:
            self.handle_request()


def make():
    kind = sys.argv[1]
    if kind == "threading":
        return ThreadingHTTPServer(ADDRESS, Handler)
    if kind == "plain":
        return HTTPServer(ADDRESS, OneRequest)
    if kind == "forking":
        return Forking(ADDRESS, Handler)
    if kind == "tls":
        return TLS(ADDRESS, Handler)
    if kind == "odd":
        return Odd(ADDRESS, OneRequest)
    if kind == "wsgiref":
        return simple_server.make_server(*ADDRESS, application, ThreadingWSGI, QuietWSGI)
    if kind == "xmlrpc":
        server = xmlrpc.server.SimpleXMLRPCServer(ADDRESS, logRequests=False)
        server.register_function(lambda: answer().decode(), "answer")
        return server
    raise SystemExit(f"there is no {kind}")


def main():
    if sys.argv[1] == "sleeping":
        server = ThreadingHTTPServer(ADDRESS, Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while True:
            time.sleep(1)
    with make() as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
