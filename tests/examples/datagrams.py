from endless_py import socketserver


class Echo(socketserver.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.read())


with socketserver.ThreadingUDPServer(("127.0.0.1", 8000), Echo) as server:
    server.serve_forever()
