from endless_py.wsgiref.simple_server import ThreadingWSGIServer, WSGIRequestHandler, make_server


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections; HTTP/1.0 is wsgiref's default


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"hello\n"]


with make_server("127.0.0.1", 8000, app, ThreadingWSGIServer, Handler) as server:
    server.serve_forever()
