import os

from endless_py import socketserver


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"%d: %b" % (os.getpid(), line))


with socketserver.ForkingTCPServer(("127.0.0.1", 8000), Handler) as server:
    server.serve_forever()
