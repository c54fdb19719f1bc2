from endless_py.socketserver import ThreadingMixIn
from endless_py.xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer


class Handler(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections; HTTP/1.0 is the default


class Server(ThreadingMixIn, SimpleXMLRPCServer):
    pass


with Server(("127.0.0.1", 8000), Handler, logRequests=False) as server:
    server.register_function(pow)
    server.serve_forever()
