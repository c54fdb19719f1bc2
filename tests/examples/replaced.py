from http.server import SimpleHTTPRequestHandler

from endless_py.http.server import ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    workers = 4
    max_requests = 10000
    max_requests_jitter = 1000
    max_rss = 500


with Server(("127.0.0.1", 8000), SimpleHTTPRequestHandler) as server:
    server.serve_forever()
