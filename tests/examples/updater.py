import sys
from http.server import SimpleHTTPRequestHandler

from endless_py import upgrade
from endless_py.http.server import ThreadingHTTPServer

upgrade.Updater(
    upgrade.HTTPSource("http://127.0.0.1:9000/app.pyz"),
    sys.argv[0],  # app.pyz itself
    checks=[upgrade.SHA256()],  # SHA256SUMS or app.pyz.sha256 beside it
    interval=300,
).start()

with ThreadingHTTPServer(("127.0.0.1", 8000), SimpleHTTPRequestHandler) as server:
    server.serve_forever()
