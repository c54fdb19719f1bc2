import wsgiref.simple_server

import bottle

from endless_py import GracefulMixIn


class Server(GracefulMixIn, wsgiref.simple_server.WSGIServer):
    drain_timeout = 30


@bottle.get("/")
def hello():
    return "hello\n"


bottle.run(host="127.0.0.1", port=8000, server_class=Server)
