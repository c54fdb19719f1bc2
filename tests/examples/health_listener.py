from http.server import SimpleHTTPRequestHandler

from endless_py.http.server import ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    health = ("127.0.0.1", 9100)
    stop_delay = 5


Server(("127.0.0.1", 8000), SimpleHTTPRequestHandler).serve_forever()
