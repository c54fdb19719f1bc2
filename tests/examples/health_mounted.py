from endless_py import health
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if health.answer(self):  # it was /livez, /readyz or /metrics
            return
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"hello\n")

    do_HEAD = do_GET


ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
