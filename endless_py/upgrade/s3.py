"""Artifacts from S3, through boto3: pip install 'endless-py[s3]'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from endless_py.upgrade import files, versions
from endless_py.upgrade.errors import SourceError, UpgradeError
from endless_py.upgrade.sources import (
    MAX_SIZE,
    TOTAL_TIMEOUT,
    Artifact,
    Known,
    Source,
    check_size,
    named_beside,
    safe_name,
    within,
)

_TRIES = 5  # of one transfer that breaks


class S3Source(Source):
    """An object in a bucket.

    bucket, key     of the artifact; the files beside it have the same prefix
    client          a boto3 client to use; default: boto3.client("s3", **options), which
                    finds endpoint, region and credentials where boto3 looks for them
    max_size        bytes; default 1 GiB
    total_timeout   seconds for the whole fetch; default 600
    options         for boto3.client(), such as endpoint_url or region_name

    The version is the object's metadata "version" (x-amz-meta-version), else what the key's
    last part says, as in app-1.4.2.pyz.
    """

    def __init__(
        self,
        bucket: str,
        key: str,
        client: Any = None,
        max_size: int = MAX_SIZE,
        total_timeout: float = TOTAL_TIMEOUT,
        **options: Any,
    ):
        self.bucket = bucket
        self.key = key
        self.name = safe_name(key.rpartition("/")[2])
        self.max_size = max_size
        self.total_timeout = total_timeout
        self._client = client if client is not None else _client(options)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def fetch(
        self, known: Optional[Known], into: Path, beside: Sequence[str]
    ) -> Optional[Artifact]:
        return within(self.total_timeout, lambda: self._fetch(known, into, beside))

    def _fetch(
        self, known: Optional[Known], into: Path, beside: Sequence[str]
    ) -> Optional[Artifact]:
        from botocore.exceptions import BotoCoreError, ClientError

        marks = known.marks if known is not None else {}
        prefix = self.key[: len(self.key) - len(self.name)]
        try:
            heads = {self.name: self._client.head_object(Bucket=self.bucket, Key=self.key)}
            for name in named_beside(self.name, beside):
                try:
                    heads[name] = self._client.head_object(Bucket=self.bucket, Key=prefix + name)
                except ClientError as error:
                    # Without the right to list the bucket, what is not there is forbidden.
                    if error.response["Error"]["Code"] not in ("404", "NoSuchKey", "403"):
                        raise
            mark = " ".join(
                f"{name}:{head.get('VersionId', '')}:{head['ETag']}" for name, head in heads.items()
            )
            if mark == marks.get("objects"):
                return None
            for name, head in heads.items():
                check_size(head["ContentLength"], self.max_size, f"s3://{self.bucket}/{name}")
                self._download(prefix + name, head, into / name)
        except (BotoCoreError, ClientError, OSError) as error:
            raise SourceError(f"cannot fetch {self}: {error}") from error
        version = heads[self.name].get("Metadata", {}).get("version")
        return Artifact(into / self.name, version or versions.in_name(self.name), {"objects": mark})

    def _download(self, key: str, head: dict[str, Any], path: Path) -> None:
        """Fetch the very object that `head` describes; a transfer that breaks is resumed."""
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        which = {"Bucket": self.bucket, "Key": key, "IfMatch": head["ETag"]}
        if head.get("VersionId") not in (None, "null"):
            which["VersionId"] = head["VersionId"]
        failures = 0
        with files.create(path) as file:
            while file.tell() < head["ContentLength"]:
                before = file.tell()
                span = {"Range": f"bytes={before}-"} if before else {}
                body = self._client.get_object(**which, **span)["Body"]
                try:
                    for data in body.iter_chunks(files.CHUNK):
                        file.write(data)
                        check_size(file.tell(), head["ContentLength"], f"s3://{self.bucket}/{key}")
                except (HTTPClientError, IncompleteReadError) as error:
                    failures = 1 if file.tell() > before else failures + 1
                    if failures >= _TRIES:
                        raise SourceError(f"cannot fetch {self}: {error}") from error
                finally:
                    body.close()


def _client(options: dict[str, Any]) -> Any:
    try:
        import boto3
    except ImportError:
        raise UpgradeError(
            "S3Source needs boto3, which is not installed; pip install 'endless-py[s3]'"
        ) from None
    return boto3.client("s3", **options)
