"""Artifacts from the releases of a GitHub repository."""

from __future__ import annotations

import fnmatch
import json
import time
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from endless_py.upgrade.errors import Refused, SourceError
from endless_py.upgrade.sources import (
    MAX_SIZE,
    Artifact,
    Known,
    Source,
    check_size,
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
    pause_asked_for,
    shown,
)
from endless_py.upgrade.web import Download

_LIMITED = (403, 429)
_SECONDARY_PAUSE = 60.0  # seconds; what GitHub asks for when it refuses and does not say
_MAX_ANSWER = 16 << 20  # bytes of one answer of the API


class GitHubSource(Source):
    """An asset of a release on GitHub.

    repo            "owner/name"
    pattern         which asset, as a shell would match its name: "app-*.pyz"; exactly one
                    asset of a release may match
    channel         "latest" (default; the release GitHub calls so, never a pre-release),
                    "prerelease" (the newest one, pre-releases included), or a pattern of
                    tags such as "v2.*" (the newest one among them)
    token           for private repositories and a higher rate limit; default: none
    api             base URL of the API; default "https://api.github.com", for GitHub
                    Enterprise "https://HOST/api/v3"
    max_size, timeout, total_timeout    as for HTTPSource

    Drafts never count. The version is the release's tag. The rate limit is honoured: when
    GitHub says that it is used up, nothing is asked until the moment it names.
    """

    def __init__(
        self,
        repo: str,
        pattern: str,
        channel: str = "latest",
        token: Optional[str] = None,
        api: str = "https://api.github.com",
        max_size: int = MAX_SIZE,
        timeout: float = 30.0,
        total_timeout: float = 600.0,
    ):
        if repo.count("/") != 1 or not all(repo.split("/")):
            raise ValueError(f"{repo!r} is no repository; give it as owner/name")
        self.repo = repo
        self.pattern = pattern
        self.channel = channel
        self.api = check_url(api).rstrip("/")
        self.limits = Limits(max_size, timeout, total_timeout)
        self._headers = check_headers({"Authorization": f"Bearer {token}"} if token else {})
        self._not_before = 0.0  # time.time()
        self._seen: tuple[str, str] = ("", "")  # an answer's ETag and the assets it named

    def __str__(self) -> str:
        return f"github.com/{self.repo} ({self.channel} {self.pattern})"

    def fetch(
        self, known: Optional[Known], into: Path, beside: Sequence[str]
    ) -> Optional[Artifact]:
        wait = self._not_before - time.time()
        if wait > 0:
            raise SourceError(f"GitHub's rate limit is used up for another {wait:.0f} s", wait)
        marks = known.marks if known is not None else {}
        etag = marks.get("etag")
        if self._seen[0] and self._seen[1] == marks.get("assets"):
            etag = self._seen[0]
        transfer = Transfer(self.limits, self.api, self._headers)
        return transfer.run(lambda: self._fetch(transfer, marks, etag, into, beside))

    def _fetch(
        self,
        transfer: Transfer,
        marks: Mapping[str, str],
        etag: Optional[str],
        into: Path,
        beside: Sequence[str],
    ) -> Optional[Artifact]:
        try:
            release, etag = self._release(transfer, etag)
            asset = self._asset(release)
            names = named_beside(asset["name"], beside)
            others = [a for a in release["assets"] if a["name"] in names]
            mark = " ".join(f"{a['id']}:{a.get('updated_at')}" for a in [asset, *others])
            self._seen = (etag, mark)
            if mark == marks.get("assets"):
                return None
            for each in [*others, asset]:
                self._download(transfer, each, into)
        except Unchanged:
            return None
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            raise SourceError(
                f"{self.api} does not answer as GitHub's API does: {error!r}"
            ) from error
        digest = str(asset.get("digest") or "")
        return Artifact(
            into / asset["name"],
            str(release["tag_name"]),
            {"etag": etag, "assets": mark},
            digest[7:] if digest.startswith("sha256:") else None,
        )

    def _ask(self, transfer: Transfer, path: str, etag: Optional[str]) -> tuple[Any, str]:
        """What the API answers, and its ETag."""
        url = f"{self.api}/repos/{self.repo}/{path}"
        headers = {
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        if etag:
            headers["If-None-Match"] = etag
        try:
            with transfer.open(url, headers) as response:
                self._note_limit(response.headers)
                data = response.read(_MAX_ANSWER)
                return json.loads(data), response.headers.get("ETag") or ""
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            raise as_source_error(url, error) from error

    def _release(self, transfer: Transfer, etag: Optional[str]) -> tuple[dict[str, Any], str]:
        if self.channel == "latest":
            release, etag = self._ask(transfer, "releases/latest", etag)
            return release, etag
        releases, etag = self._ask(transfer, "releases?per_page=100", etag)
        wanted = [
            release
            for release in releases
            if not release["draft"]
            and (
                self.channel == "prerelease"
                or fnmatch.fnmatchcase(release["tag_name"], self.channel)
            )
        ]
        if not wanted:
            raise SourceError(f"{self.repo} has no release in the channel {self.channel!r}")
        return max(wanted, key=lambda release: str(release["published_at"])), etag

    def _asset(self, release: dict[str, Any]) -> dict[str, Any]:
        names = [asset["name"] for asset in release["assets"]]
        found = [
            asset for asset in release["assets"] if fnmatch.fnmatchcase(asset["name"], self.pattern)
        ]
        if len(found) != 1:
            # Assets are uploaded one by one after a release is made: ask again.
            raise SourceError(
                f"{len(found)} assets of {self.repo} {release['tag_name']} match "
                f"{self.pattern!r}, expected one; it has: {', '.join(names) or 'none'}"
            )
        safe_name(found[0]["name"])
        return dict(found[0])

    def _download(self, transfer: Transfer, asset: dict[str, Any], into: Path) -> None:
        name = safe_name(asset["name"])
        check_size(int(asset["size"]), self.limits.max_size, f"{self.repo}'s {name}")
        headers = {"Accept": "application/octet-stream"}
        Download(transfer, check_url(asset["url"]), into / name).run(headers)
        if (into / name).stat().st_size != int(asset["size"]):
            raise Refused(f"{self.repo}'s {name} has not the size that GitHub says")

    def _note_limit(self, headers: Any) -> None:
        if headers.get("X-RateLimit-Remaining") == "0":
            reset = headers.get("X-RateLimit-Reset") or ""
            if reset.isdigit():
                self._not_before = float(reset)

    def _refusal(self, error: urllib.error.HTTPError) -> SourceError:
        if error.code in _LIMITED:
            self._note_limit(error.headers)
            pause = pause_asked_for(error.headers)
            if pause is None and self._not_before <= time.time() and error.code == 429:
                pause = _SECONDARY_PAUSE
            if pause is not None:
                self._not_before = time.time() + pause
            wait = self._not_before - time.time()
            if wait > 0:
                return SourceError(f"GitHub's rate limit is used up for {wait:.0f} s", wait)
        hint = "; is the token right?" if error.code in (401, 403, 404) else ""
        return SourceError(
            f"{shown(error.url or self.api)} answers {error.code} {error.reason}{hint}"
        )
