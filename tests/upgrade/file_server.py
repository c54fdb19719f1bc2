"""An HTTP file server as real ones are, with transfers that break when told so."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """A server on a free port of 127.0.0.1, in threads, until the with block ends."""

    def __init__(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.requests.append((self.path, dict(self.headers)))
                server.answer(self)

            def log_message(self, *_):
                pass

        self.requests: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()  # ends what an answer waits for
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def answer(self, request):
        raise NotImplementedError

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def send(request, status, body=b"", **headers):
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    if status != 304:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if status != 304:
        request.wfile.write(body)


class FileServer(Server):
    """Serves `files`: path to content.

    cuts has the numbers of bytes after which the next transfers break; etag and modified
    say which validators are sent; encode answers with Content-Encoding: gzip where asked;
    drip has it send that many bytes a tenth of a second; redirects maps paths to URLs.
    """

    def __init__(self, **files: bytes):
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.times: dict[str, float] = {}
        self.cuts: list[int] = []
        self.etag = True
        self.weak = False
        self.ranges = True
        self.encode = False
        self.drip = 0
        self.silent = False
        self.redirects: dict[str, str] = {}
        self.before_cut = lambda: None

    def put(self, path: str, content: bytes) -> None:
        self.files[path] = content
        self.times[path] = time.time() - 1000 + 10 * len(self.times)

    def answer(self, request):
        path = request.path
        if self.silent:
            self.released.wait(30)
            return
        if path in self.redirects:
            return send(request, 302, Location=self.redirects[path])
        if path not in self.files:
            return send(request, 404)
        body, headers = self.files[path], request.headers
        validators = {"Last-Modified": email.utils.formatdate(self.times[path], usegmt=True)}
        if self.etag:
            name = f'"{hashlib.md5(body).hexdigest()}"'
            validators["ETag"] = f"W/{name}" if self.weak else name
        known = headers.get("If-None-Match")
        if known == validators.get("ETag", "-"):
            return send(request, 304, **validators)
        if known is None and headers.get("If-Modified-Since") == validators["Last-Modified"]:
            return send(request, 304, **validators)
        more = dict(validators)
        if self.encode and "gzip" in headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, mtime=0)
            more["Content-Encoding"] = "gzip"
        status = 200
        span = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
        if span and self.ranges and headers.get("If-Range") in validators.values():
            start = int(span[1])
            more["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, status = body[start:], 206
        request.send_response(status)
        for name, value in more.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.drip:
            for i in range(0, len(body), self.drip):
                request.wfile.write(body[i : i + self.drip])
                if self.released.wait(0.1):
                    return None
        elif self.cuts and len(body) > 100:
            request.wfile.write(body[: self.cuts.pop(0)])
            request.wfile.flush()
            self.before_cut()
            request.close_connection = True
        else:
            request.wfile.write(body)


class GitHub(Server):
    """GitHub's REST API as documented, for the releases of one repository.

    https://docs.github.com/en/rest/releases: fields, 304 with ETag, rate limits; an asset is
    answered with a redirect to another host when application/octet-stream is asked for.
    """

    def __init__(self, repo="owner/app", token=None):
        super().__init__()
        self.repo = repo
        self.token = token
        self.releases: list[dict] = []
        self.contents: dict[int, bytes] = {}
        self.remaining = 60
        self.reset = int(time.time()) + 3600
        self.refusal: dict[str, str] | None = None
        self.refusal_status = 403
        self.storage = FileServer()

    def __enter__(self):
        self.storage.__enter__()
        return super().__enter__()

    def __exit__(self, *rest):
        self.storage.__exit__(*rest)
        super().__exit__(*rest)

    def release(self, tag, assets, prerelease=False, draft=False):
        made = []
        for name, content in assets.items():
            number = len(self.contents) + 1
            self.contents[number] = content
            self.storage.put(f"/{number}", content)
            made.append(
                {
                    "id": number,
                    "name": name,
                    "url": f"{self.url}/repos/{self.repo}/releases/assets/{number}",
                    "browser_download_url": f"{self.storage.url}/{number}",
                    "size": len(content),
                    "state": "uploaded",
                    "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
                    "download_count": 0,
                    "updated_at": f"2024-01-01T00:00:{number:02}Z",
                }
            )
        moment = f"2024-01-{len(self.releases) + 1:02}T00:00:00Z"
        self.releases.insert(
            0,
            {
                "id": len(self.releases) + 1,
                "tag_name": tag,
                "prerelease": prerelease,
                "draft": draft,
                "created_at": moment,
                "published_at": None if draft else moment,
                "assets": made,
            },
        )

    def answer(self, request):
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return send(request, 404, b'{"message": "Not Found"}')
        limits = {
            "X-RateLimit-Limit": "60",
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset),
        }
        if self.refusal is not None:
            body = b'{"message": "API rate limit exceeded"}'
            return send(request, self.refusal_status, body, **{**limits, **self.refusal})
        path = request.path.partition("?")[0]
        prefix = f"/repos/{self.repo}/releases"
        if path.startswith(f"{prefix}/assets/"):
            number = path.rpartition("/")[2]
            assert request.headers["Accept"] == "application/octet-stream"
            return send(request, 302, Location=f"{self.storage.url}/{number}", **limits)
        if path == f"{prefix}/latest":
            full = [r for r in self.releases if not (r["draft"] or r["prerelease"])]
            found = full[0] if full else None
        elif path == prefix:
            found = self.releases
        else:
            found = None
        if found is None:
            return send(request, 404, b'{"message": "Not Found"}', **limits)
        body = json.dumps(found).encode()
        etag = f'W/"{hashlib.md5(body).hexdigest()}"'
        if request.headers.get("If-None-Match") == etag:
            return send(request, 304, ETag=etag, **limits)
        self.remaining -= 1
        limits["X-RateLimit-Remaining"] = str(self.remaining)
        return send(request, 200, body, ETag=etag, **limits)
