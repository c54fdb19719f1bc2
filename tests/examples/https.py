from http.server import SimpleHTTPRequestHandler

from endless_py.http.server import ThreadingHTTPSServer

with ThreadingHTTPSServer(
    ("127.0.0.1", 8000), SimpleHTTPRequestHandler, certfile="cert", keyfile="key"
) as server:
    server.serve_forever()
