"""Versions of a program as zipapps and archives, and an Updater for tests."""

from __future__ import annotations

import io
import tarfile
import zipfile

MAIN = """
import os, sys
{code}
from endless_py._reload import process
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"{version} end"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    keep_pid = bool(os.environ.get("KEEP_PID"))
    ready_timeout = float(os.environ.get("READY_TIMEOUT", "20"))

with Server(("127.0.0.1", int(os.environ.get("PORT", "0"))), Handler) as server:
    {before}
    server.serve_forever()
{after}
"""


def main(version, code="", before="pass", after=""):
    return MAIN.format(version=version, code=code, before=before, after=after)


def zipapp(version, code="", before="pass", after=""):
    """The bytes of an app.pyz."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        # with no times in them: the same version is the same bytes
        made.writestr(zipfile.ZipInfo("__main__.py"), main(version, code, before, after))
        made.writestr(zipfile.ZipInfo("VERSION"), f"{version}\n")
    return file.getvalue()


def tar(version, **more):
    """The bytes of an app.tar.gz, for `python current/app.py`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as made:
        for name, text in (("app.py", main(version, **more)), ("VERSION", version)):
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(text)
            made.addfile(info, io.BytesIO(text.encode()))
    return file.getvalue()
