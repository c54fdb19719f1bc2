"""Requests over HTTP and HTTPS with nothing but urllib, all within one time."""

from __future__ import annotations

import http.client
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING, Any, Callable, Optional

from endless_py.upgrade.errors import Refused, SourceError
from endless_py.upgrade.sources import MAX_SIZE, TOTAL_TIMEOUT, Value, within

if TYPE_CHECKING:
    import ssl

_LONGEST_PAUSE = 86400.0  # seconds; a server that asks for more is not believed


@dataclass(frozen=True)
class Limits:
    """Bytes of a file, seconds for one step of a transfer, seconds for all of them."""

    max_size: int = MAX_SIZE
    timeout: float = 30.0
    total_timeout: float = TOTAL_TIMEOUT


class Unchanged(Exception):
    """304: the server has nothing newer."""


def shown(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def check_url(url: str) -> str:
    """The URL itself; raises ValueError when it is not one of HTTP or HTTPS."""
    if not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise ValueError("a URL has only ASCII characters, and neither spaces nor controls")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{shown(url)!r} is no URL of http:// or https://")
    if "@" in parts.netloc:
        raise ValueError(f"{shown(url)} has a user's name in it; give headers={{...}} instead")
    return url


def check_headers(headers: Optional[Mapping[str, str]]) -> dict[str, str]:
    """A copy; raises ValueError, without the value, for what http.client would not send."""
    for name, value in (headers or {}).items():
        if not (name + value).isprintable() or ":" in name or not name:
            raise ValueError(f"the header {name!r} has characters that cannot be sent")
    return dict(headers or {})


def _origin(url: str) -> tuple[str, Optional[str], Optional[int]]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class _Request(urllib.request.Request):
    users: frozenset[str] = frozenset()  # names of the headers that are not ours


class _Redirects(urllib.request.HTTPRedirectHandler):
    """urllib would go anywhere, with all headers, and read any amount before it does."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.close()  # the body is of no use, and may come for ever
        location = headers.get("location") or headers.get("uri") or ""
        scheme = urllib.parse.urlsplit(urllib.parse.urljoin(req.full_url, location)).scheme
        allowed = ("https",) if req.full_url.startswith("https:") else ("http", "https")
        if scheme not in allowed:
            old = req.full_url.partition(":")[0]
            raise Refused(f"{shown(req.full_url)} redirects from {old} to {scheme}; not followed")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Any, *arguments: Any) -> Optional[urllib.request.Request]:
        found = super().redirect_request(req, *arguments)
        if found is None:
            return None
        try:
            url = check_url(found.full_url)
        except ValueError as error:
            raise Refused(f"{shown(req.full_url)} redirects to a wrong URL: {error}") from error
        kept = dict(found.headers)
        if _origin(url) != _origin(req.full_url):
            kept = {name: kept[name] for name in kept if name.lower() not in req.users}
        request = _Request(url, headers=kept, origin_req_host=req.origin_req_host)
        request.users = req.users
        return request


class Transfer:
    """The requests of one fetch, which all end when its time is over.

    headers are the user's; they are sent to the origin of `url`, and to no other one that an
    answer leads to.
    """

    def __init__(
        self,
        limits: Limits,
        url: str,
        headers: Optional[Mapping[str, str]] = None,
        context: Optional[ssl.SSLContext] = None,
    ):
        self.limits = limits
        self.deadline = time.monotonic() + limits.total_timeout
        self._headers = dict(headers or {})
        self._origin = _origin(url)
        self._sockets: list[socket.socket] = []  # of our own, for what is in the library's hands
        transfer = self

        class Plain(http.client.HTTPConnection):
            def __init__(self, *arguments: Any, **more: Any):
                super().__init__(*arguments, **more)
                self._create_connection = transfer._connect

        class Secure(http.client.HTTPSConnection):
            def __init__(self, *arguments: Any, **more: Any):
                super().__init__(*arguments, **more)
                self._create_connection = transfer._connect

        class PlainHandler(urllib.request.HTTPHandler):
            def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(Plain, req)

        class SecureHandler(urllib.request.HTTPSHandler):
            def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
                more = {} if context is None else {"context": context}
                return self.do_open(Secure, req, **more)

        # Not build_opener(), which knows ftp:, file: and data: too.
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            PlainHandler(),
            SecureHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            _Redirects(),
            urllib.request.HTTPErrorProcessor(),
        ):
            self._opener.add_handler(handler)

    def run(self, fetch: Callable[[], Value]) -> Value:
        """Do it within the time, after which all its connections are cut."""
        try:
            return within(self.limits.total_timeout, fetch)
        finally:
            self.deadline = 0.0
            self._end()

    def _end(self) -> None:
        for sock in list(self._sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _connect(self, *arguments: Any, **more: Any) -> socket.socket:
        sock = socket.create_connection(*arguments, **more)
        try:
            self.check_time()  # a name may take long to resolve
            self._sockets.append(sock.dup())
        except BaseException:
            sock.close()
            raise
        return sock

    def check_time(self) -> None:
        if time.monotonic() >= self.deadline:
            raise SourceError(f"the transfer was not done within {self.limits.total_timeout:g} s")

    def open(self, url: str, headers: Mapping[str, str]) -> Any:
        """Ask for a URL. Raises Unchanged, urllib.error.HTTPError, OSError, HTTPException."""
        self.check_time()
        users = self._headers if _origin(url) == self._origin else {}
        request = _Request(url, headers={"User-Agent": "endless-py", **users, **headers})
        request.users = frozenset(name.lower() for name in users)
        limit = max(0.01, min(self.limits.timeout, self.deadline - time.monotonic()))
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
            f"{shown(url)} answers {error.code} {error.reason}", pause_asked_for(error.headers)
        )
    reason = getattr(error, "reason", None) or error
    return SourceError(f"cannot fetch {shown(url)}: {reason or type(error).__name__}")
