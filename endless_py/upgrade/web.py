"""Artifacts over HTTP and HTTPS."""

from __future__ import annotations

import gzip
import http.client
import os
import re
import urllib.error
import urllib.parse
import zlib
from collections.abc import Mapping, Sequence
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
from endless_py.upgrade.transfer import (
    Limits,
    Transfer,
    Unchanged,
    as_source_error,
    check_headers,
    check_url,
    shown,
)

if TYPE_CHECKING:
    import ssl

_TRIES = 5  # of one transfer, as long as each brings new bytes or the server can be reached


class Download:
    """One file on its way: what came so far survives a connection that breaks."""

    def __init__(self, transfer: Transfer, url: str, path: Path):
        self.transfer = transfer
        self.url = url
        self.path = path
        self.max_size = transfer.limits.max_size
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
        with files.create(part) as file:
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
            check_size(file.tell() + (length or 0), self.max_size, shown(self.url))
            received = 0
            while True:
                data = response.read1(files.CHUNK)
                self.transfer.check_time()
                if not data:
                    break
                received += len(data)
                file.write(data)
                check_size(file.tell(), self.max_size, shown(self.url))
            if length is not None and received < length:  # read1() does not say so itself
                raise http.client.IncompleteRead(b"", length - received)

    @staticmethod
    def _continues(response: Any, have: int) -> bool:
        if response.status != 206:
            return False
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
        if not found or int(found[1]) != have:
            raise SourceError(f"{shown(response.url)} answers a range that was not asked for")
        return True

    def _decode(self, file: Any) -> None:
        try:
            with gzip.open(file) as encoded, files.create(self.path) as decoded:
                for data in files.chunks(encoded):
                    decoded.write(data)
                    check_size(decoded.tell(), self.max_size, f"{shown(self.url)}, decompressed,")
        except (zlib.error, gzip.BadGzipFile, EOFError) as error:
            raise SourceError(
                f"{shown(self.url)} comes with a broken gzip encoding: {error}"
            ) from error


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


class HTTPSource(Source):
    """A URL of http:// or https://.

    url             of the artifact; with its last part replaced it is also that of the
                    files beside it
    headers         sent with every request, such as {"Authorization": "Bearer ..."}, but
                    not to another origin that the server redirects to
    name            the artifact's file name; default: the last part of the URL's path
    max_size        bytes, for the file as sent and as decompressed; default 1 GiB
    timeout         seconds to connect, and for each read; default 30
    total_timeout   seconds for the whole fetch, whatever it waits for; default 600
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
        self.headers = check_headers(headers)
        last = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
        if not (name or last):
            raise ValueError(f"{shown(url)!r} does not end in a file's name; give name=...")
        self.name = safe_name(name or last)
        self.limits = Limits(max_size, timeout, total_timeout)
        self.context = context

    def __str__(self) -> str:
        return shown(self.url)

    def fetch(
        self, known: Optional[Known], into: Path, beside: Sequence[str]
    ) -> Optional[Artifact]:
        marks = known.marks if known is not None else {}
        transfer = Transfer(self.limits, self.url, self.headers, self.context)
        return transfer.run(lambda: self._fetch(transfer, marks, into, beside))

    def _fetch(
        self, transfer: Transfer, marks: Mapping[str, str], into: Path, beside: Sequence[str]
    ) -> Optional[Artifact]:
        names = named_beside(self.name, beside)
        for name in names:
            self._fetch_beside(transfer, into / name)
        around = digest_of(into, names)
        download = Download(transfer, self.url, into / self.name)
        known = conditions(marks) if marks.get("beside") == around else {}
        try:
            download.run({"Accept-Encoding": "gzip", **known})
        except Unchanged:
            return None
        except urllib.error.HTTPError as error:
            raise as_source_error(self.url, error) from error
        last = urllib.parse.urlsplit(download.final_url).path.rpartition("/")[2]
        return Artifact(
            into / self.name,
            versions.in_name(urllib.parse.unquote(last)),
            {**marks_of(download.headers), "beside": around},
        )

    def _fetch_beside(self, transfer: Transfer, path: Path) -> None:
        parts = urllib.parse.urlsplit(self.url)
        folder = parts.path.rpartition("/")[0]
        url = parts._replace(path=f"{folder}/{urllib.parse.quote(path.name)}").geturl()
        try:
            Download(transfer, url, path).run({})
        except urllib.error.HTTPError as error:
            if error.code not in (404, 410):
                raise as_source_error(url, error) from error
