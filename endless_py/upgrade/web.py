"""Artifacts over HTTP and HTTPS, with nothing but urllib."""

from __future__ import annotations

import gzip
import http.client
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import mktime_tz, parsedate_tz
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from endless_py.upgrade import files, versions
from endless_py.upgrade.errors import Refused, SourceError
from endless_py.upgrade.sources import (
    MAX_SIZE,
    Artifact,
    Known,
    Source,
    check_size,
    digest_of,
    named_beside,
    safe_name,
)

if TYPE_CHECKING:
    import ssl

_TRIES = 5  # of one transfer, as long as each brings new bytes or the server can be reached
_SECRET = {"authorization", "cookie", "proxy-authorization", "private-token"}
_LONGEST_PAUSE = 86400.0  # seconds; a server that asks for more is not believed


class Unchanged(Exception):
    """304: the server has nothing newer."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """urllib would carry a token to whatever host the server names."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Optional[urllib.request.Request]:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if old.scheme == "https" and new.scheme != "https":
            raise Refused(f"{req.full_url} redirects from https to {new.scheme}; not followed")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (old.scheme, old.netloc) != (new.scheme, new.netloc):
            for name in list(request.headers):
                if name.lower() in _SECRET:
                    del request.headers[name]
        return request


class Transfer:
    """The connections of one fetch, all of which end when its time is over."""

    def __init__(self, timeout: float, total_timeout: float, context: Optional[ssl.SSLContext]):
        self.timeout = timeout
        self.deadline = time.monotonic() + total_timeout
        self.total_timeout = total_timeout
        self._sockets: set[socket.socket] = set()
        self._timer = threading.Timer(total_timeout, self._cut)
        self._timer.daemon = True
        transfer = self

        class Plain(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                transfer._watch(self.sock)

        class Secure(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                transfer._watch(self.sock)

        class PlainHandler(urllib.request.HTTPHandler):
            def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(Plain, req)

        class SecureHandler(urllib.request.HTTPSHandler):
            def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
                more = {} if context is None else {"context": context}
                return self.do_open(Secure, req, **more)

        self._opener = urllib.request.build_opener(PlainHandler, SecureHandler, _Redirects)

    def __enter__(self) -> Transfer:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _watch(self, sock: socket.socket) -> None:
        self._sockets.add(sock)
        self.check_time()  # a name may take long to resolve, and the timer has run by then

    def _cut(self) -> None:
        for sock in list(self._sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def check_time(self) -> None:
        if time.monotonic() >= self.deadline:
            raise SourceError(f"the transfer was not done within {self.total_timeout:g} s")

    def open(self, url: str, headers: Mapping[str, str]) -> Any:
        """Ask for a URL. Raises Unchanged, urllib.error.HTTPError, OSError, HTTPException."""
        self.check_time()
        request = urllib.request.Request(url, headers={"User-Agent": "endless-py", **headers})
        limit = max(0.01, min(self.timeout, self.deadline - time.monotonic()))
        try:
            return self._opener.open(request, timeout=limit)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 304:
                raise Unchanged from None
            raise


def pause_asked_for(headers: Any) -> Optional[float]:
    """Seconds to wait by a Retry-After header; None without one."""
    word = headers.get("Retry-After") if headers is not None else None
    if not word:
        return None
    if word.strip().isdigit():
        return min(float(word), _LONGEST_PAUSE)
    moment = parsedate_tz(word)
    if moment is None:
        return None
    return min(max(0.0, mktime_tz(moment) - time.time()), _LONGEST_PAUSE)


def as_source_error(url: str, error: Exception) -> SourceError:
    """What went wrong with a request, as one line."""
    if isinstance(error, urllib.error.HTTPError):
        return SourceError(
            f"{url} answers {error.code} {error.reason}", pause_asked_for(error.headers)
        )
    reason = getattr(error, "reason", None) or error
    return SourceError(f"cannot fetch {url}: {reason or type(error).__name__}")


class Download:
    """One file on its way: what came so far survives a connection that breaks."""

    def __init__(self, transfer: Transfer, url: str, path: Path, max_size: int):
        self.transfer = transfer
        self.url = url
        self.path = path
        self.max_size = max_size
        self.headers: Any = None
        self.final_url = url
        self._validator: Optional[str] = None

    def run(self, headers: Mapping[str, str]) -> None:
        """Fetch the file. Raises Unchanged, HTTPError, SourceError, Refused."""
        part = self.path.with_name(self.path.name + ".part")
        try:
            self._run(part, headers)
        finally:
            files.remove(part)

    def _run(self, part: Path, headers: Mapping[str, str]) -> None:
        failures = 0
        with open(part, "w+b") as file:
            while True:
                before = file.tell()
                try:
                    self._once(file, headers)
                    break
                except (urllib.error.HTTPError, Unchanged, SourceError, Refused):
                    raise
                except (OSError, http.client.HTTPException) as error:
                    self.transfer.check_time()
                    failures = 1 if file.tell() > before else failures + 1
                    if failures >= _TRIES or self.headers is None:
                        raise as_source_error(self.url, error) from error
            file.flush()
            if (self.headers.get("Content-Encoding") or "").lower() in ("gzip", "x-gzip"):
                file.seek(0)
                self._decode(file)
                return
        os.replace(part, self.path)

    def _once(self, file: Any, headers: Mapping[str, str]) -> None:
        """One request for what is still missing."""
        have = file.tell() if self._validator else 0
        if have:
            headers = {**_unconditional(headers), "Range": f"bytes={have}-"}
            headers = {**headers, "If-Range": self._validator or ""}
        elif self.headers is not None:
            headers = _unconditional(headers)
        try:
            response = self.transfer.open(self.url, headers)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not have:
                raise
            self._validator = None  # not the same file any more: from the start
            raise http.client.IncompleteRead(b"") from error
        with response:
            if not (have and self._continues(response, have)):
                file.seek(0)
                file.truncate()
            self.headers, self.final_url = response.headers, response.url
            self._validator = _validator(response.headers)
            length = response.length
            check_size(file.tell() + (length or 0), self.max_size, self.url)
            received = 0
            while True:
                data = response.read1(files.CHUNK)
                self.transfer.check_time()
                if not data:
                    break
                received += len(data)
                file.write(data)
                check_size(file.tell(), self.max_size, self.url)
            if length is not None and received < length:  # read1() does not say so itself
                raise http.client.IncompleteRead(b"", length - received)

    @staticmethod
    def _continues(response: Any, have: int) -> bool:
        if response.status != 206:
            return False
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
        if not found or int(found[1]) != have:
            raise SourceError(f"{response.url} answers a range that was not asked for")
        return True

    def _decode(self, file: Any) -> None:
        try:
            with gzip.open(file) as encoded, open(self.path, "wb") as decoded:
                for data in files.chunks(encoded):
                    decoded.write(data)
                    check_size(decoded.tell(), self.max_size, f"{self.url}, decompressed,")
        except (zlib.error, gzip.BadGzipFile, EOFError) as error:
            raise SourceError(f"{self.url} comes with a broken gzip encoding: {error}") from error


def _unconditional(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if not name.startswith("If-")}


def _validator(headers: Any) -> Optional[str]:
    """What names the very bytes of a response; a weak ETag does not."""
    etag = headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    return None if etag else headers.get("Last-Modified")


def marks_of(headers: Any) -> dict[str, str]:
    """What a conditional request needs to know of this response."""
    found = {"etag": headers.get("ETag"), "last-modified": headers.get("Last-Modified")}
    return {name: value for name, value in found.items() if value}


def conditions(marks: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request that is answered only when something has changed."""
    names = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}
    return {names[mark]: value for mark, value in marks.items() if mark in names}


def check_url(url: str) -> str:
    """The URL itself; raises ValueError when it is not one of HTTP or HTTPS."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no URL of http:// or https://")
    return url


class HTTPSource(Source):
    """A URL of http:// or https://.

    url             of the artifact; with its last part replaced it is also that of the
                    files beside it
    headers         sent with every request, such as {"Authorization": "Bearer ..."}; what
                    is secret in them is not sent to another host after a redirect
    name            the artifact's file name; default: the last part of the URL's path
    max_size        bytes, for the file as sent and as decompressed; default 1 GiB
    timeout         seconds to connect, and for each read; default 30
    total_timeout   seconds for the whole fetch; default 600
    context         an ssl.SSLContext; default: urllib's

    Proxies are those that urllib finds in the environment. The version is taken from the
    last part of the URL that the server redirects to, as in app-1.4.2.pyz.
    """

    def __init__(
        self,
        url: str,
        headers: Optional[Mapping[str, str]] = None,
        name: Optional[str] = None,
        max_size: int = MAX_SIZE,
        timeout: float = 30.0,
        total_timeout: float = 600.0,
        context: Optional[ssl.SSLContext] = None,
    ):
        self.url = check_url(url)
        self.headers = dict(headers or {})
        last = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
        if not (name or last):
            raise ValueError(f"{url!r} does not end in a file's name; give name=...")
        self.name = safe_name(name or last)
        self.max_size = max_size
        self.timeout = timeout
        self.total_timeout = total_timeout
        self.context = context

    def __str__(self) -> str:
        parts = urllib.parse.urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

    def fetch(
        self, known: Optional[Known], into: Path, beside: Sequence[str]
    ) -> Optional[Artifact]:
        marks = known.marks if known is not None else {}
        names = named_beside(self.name, beside)
        with Transfer(self.timeout, self.total_timeout, self.context) as transfer:
            for name in names:
                self._fetch_beside(transfer, into, name)
            around = digest_of(into, names)
            unchanged = marks.get("beside") == around
            download = Download(transfer, self.url, into / self.name, self.max_size)
            more = {"Accept-Encoding": "gzip"}
            try:
                download.run({**self.headers, **more, **(conditions(marks) if unchanged else {})})
            except Unchanged:
                return None
            except urllib.error.HTTPError as error:
                raise as_source_error(str(self), error) from error
        last = urllib.parse.urlsplit(download.final_url).path.rpartition("/")[2]
        return Artifact(
            into / self.name,
            versions.in_name(urllib.parse.unquote(last)),
            {**marks_of(download.headers), "beside": around},
        )

    def _fetch_beside(self, transfer: Transfer, into: Path, name: str) -> None:
        parts = urllib.parse.urlsplit(self.url)
        path = f"{parts.path.rpartition('/')[0]}/{urllib.parse.quote(name)}"
        url = parts._replace(path=path).geturl()
        try:
            Download(transfer, url, into / name, self.max_size).run(self.headers)
        except urllib.error.HTTPError as error:
            if error.code not in (404, 410):
                raise as_source_error(url, error) from error
