from http.server import BaseHTTPRequestHandler

from endless_py.http.server import ThreadingHTTPServer  # was: from http.server import ...


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"hello\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


with ThreadingHTTPServer(("127.0.0.1", 8000), Handler) as server:
    server.serve_forever()
