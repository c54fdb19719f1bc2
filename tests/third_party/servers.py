"""servers.py NAME PORT: a server from PyPI, made reloadable by swapping or mixing in one class.

Each answer begins with the generation and the pid and ends with "end"; /slow?SECONDS takes so long.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time

import endless_py
from endless_py import GracefulMixIn


def answer() -> str:
    return f"{endless_py.state()['generation']} {os.getpid()} end"


def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(float(environ["QUERY_STRING"]))
    body = answer().encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


def around(wrapped):
    """Return an application that answers as ours when the wrapped one has answered well."""

    def app(environ, start_response):
        statuses = []
        inside = {**environ, "PATH_INFO": "/", "QUERY_STRING": ""}
        found = wrapped(inside, lambda status, headers, *_: statuses.append(status))
        list(found)
        assert statuses == ["200 OK"], statuses
        return application(environ, start_response)

    return app


def werkzeug(address):
    from werkzeug.serving import ThreadedWSGIServer

    class Server(GracefulMixIn, ThreadedWSGIServer):
        pass

    Server(*address, application).serve_forever()


def django(address):
    import django.conf
    from django.core.servers import basehttp
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path

    def slow(request):
        time.sleep(float(request.META["QUERY_STRING"]))
        return HttpResponse(answer())

    sys.modules["urls"] = urls = type(sys)("urls")
    urls.urlpatterns = [path("", lambda request: HttpResponse(answer())), path("slow", slow)]
    django.conf.settings.configure(
        ROOT_URLCONF="urls", ALLOWED_HOSTS=["*"], SECRET_KEY="none", LOGGING_CONFIG=None
    )

    class Server(GracefulMixIn, basehttp.WSGIServer):
        pass

    # As runserver does, with its server_cls.
    basehttp.run(*address, get_wsgi_application(), threading=True, server_cls=Server)


def radicale(address):
    from radicale import Application, config, server

    class Server(GracefulMixIn, server.ParallelHTTPServer):
        pass

    configuration = config.load()
    folder = tempfile.mkdtemp()
    configuration.update(
        {
            "auth": {"type": "none"},
            "storage": {"filesystem_folder": folder},
            "logging": {"level": "error"},
        },
        "test",
    )
    found = Server(configuration, socket.AF_INET, address, server.RequestHandler)
    calendar = Application(configuration)

    def app(environ, start_response):
        list(calendar({**environ, "PATH_INFO": "/.web/"}, lambda *_: None))
        return application(environ, start_response)

    found.set_app(app)
    found.serve_forever()


def pypiserver(address):
    import pypiserver

    from endless_py.wsgiref.simple_server import ThreadingWSGIServer, make_server

    app = around(pypiserver.app(roots=[tempfile.mkdtemp()]))
    make_server(*address, app, server_class=ThreadingWSGIServer).serve_forever()


def bottle(address):
    import wsgiref.simple_server

    import bottle

    class Server(endless_py.ThreadingMixIn, GracefulMixIn, wsgiref.simple_server.WSGIServer):
        pass

    bottle.route("/")(answer)
    bottle.route("/slow")(lambda: time.sleep(float(bottle.request.query_string)) or answer())
    bottle.run(host=address[0], port=address[1], server_class=Server, quiet=True)


def prometheus(address):
    from prometheus_client import exposition, make_wsgi_app

    class Server(GracefulMixIn, exposition.ThreadingWSGIServer):
        pass

    exposition.make_server(*address, around(make_wsgi_app()), Server).serve_forever()


def paste(address):
    from paste import httpserver

    class Server(GracefulMixIn, httpserver.WSGIServer):
        pass

    Server(application, address, httpserver.WSGIHandler).serve_forever()


def ws4py(address):
    from wsgiref.simple_server import make_server

    from ws4py.server import wsgirefserver
    from ws4py.server.wsgiutils import WebSocketWSGIApplication
    from ws4py.websocket import WebSocket

    class Answering(WebSocket):
        def received_message(self, message):
            time.sleep(float(str(message)))
            self.send(answer())

    class Server(GracefulMixIn, wsgirefserver.WSGIServer):
        pass

    server = make_server(
        *address,
        WebSocketWSGIApplication(handler_cls=Answering),
        Server,
        wsgirefserver.WebSocketWSGIRequestHandler,
    )
    server.initialize_websockets_manager()
    server.serve_forever()
    server.server_close()


def dnslib(address):
    from dnslib import QTYPE, RR, TXT
    from dnslib import server as dns

    class Resolver(dns.BaseResolver):
        def resolve(self, request, handler):
            reply = request.reply()
            reply.add_answer(RR(request.q.qname, QTYPE.TXT, rdata=TXT(answer())))
            return reply

    class Server(GracefulMixIn, dns.UDPServer):
        pass

    quiet = dns.DNSLogger(log="-request,-reply,-truncated,-recv,-send,-data")
    dns.DNSServer(Resolver(), *address, server=Server, logger=quiet).start()


def robot(address):
    import robotremoteserver

    class Library:
        def answer(self, seconds):
            time.sleep(seconds)
            return answer()

    class Server(GracefulMixIn, robotremoteserver.StoppableXMLRPCServer):
        pass

    robotremoteserver.StoppableXMLRPCServer = Server
    remote = robotremoteserver.RobotRemoteServer(Library(), *address, serve=False)
    remote._server.serve()  # serve() of the other one would take the signals


def jsonrpc(address):
    from jsonrpclib.SimpleJSONRPCServer import SimpleJSONRPCServer

    class Server(endless_py.ThreadingMixIn, GracefulMixIn, SimpleJSONRPCServer):
        pass

    server = Server(address, logRequests=False)
    server.register_function(lambda seconds: time.sleep(seconds) or answer(), "answer")
    server.serve_forever()


def fakeredis(address):
    from fakeredis import TcpFakeServer

    class Server(GracefulMixIn, TcpFakeServer):
        drain_timeout = 2  # a client of Redis keeps its connection for as long as it lives

    server = Server(address)
    server.serve_forever()


if __name__ == "__main__":
    globals()[sys.argv[1]](("127.0.0.1", int(sys.argv[2])))
