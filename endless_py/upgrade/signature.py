"""Signatures: who made an artifact, and what else that somebody says of it.

A signature over bytes alone says nothing of their name, their version or their age: an old
artifact with an old hole is signed for ever. A statement binds all of these, as the targets
metadata of The Update Framework does; `Ed25519` says what counts without one.

Against a publisher without the key this holds: replay and rollback (the version is signed),
freeze (a statement expires), mix-and-match (it names one artifact and its digest). It does not
hold: at the very first install an old signed release may be offered; bytes signed without a
statement say no name and never expire (`statement=True` refuses them); whoever has the key can
do anything, and there is no role that revokes one.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import json
import mmap
import os
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional, Union

from endless_py.upgrade import files, versions
from endless_py.upgrade.check import Candidate, Check, read_beside
from endless_py.upgrade.errors import Refused, UpgradeError

_TYPE = "endless_py release"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def statement(path: Union[str, os.PathLike[str]], version: str, expires: datetime) -> bytes:
    """What to sign for an artifact: its name, version, length and SHA-256, and until when.

    Publish it beside the artifact under its name with .statement after it, and its signature
    under that name with .sig after it: app.pyz, app.pyz.statement, app.pyz.statement.sig.
    Before `expires` (with a time zone) publish a new one: whoever keeps clients from hearing
    of later versions can do so no longer than that.
    """
    if expires.tzinfo is None:
        raise ValueError("expires needs a time zone, such as datetime.timezone.utc")
    versions.key(version)
    path = Path(path)
    said = {
        "_type": _TYPE,
        "name": path.name,
        "version": version,
        "length": path.stat().st_size,
        "hashes": {"sha256": files.sha256(path)},
        "expires": expires.astimezone(timezone.utc).strftime(_TIME),
    }
    return json.dumps(said, indent=1).encode() + b"\n"


class Ed25519(Check):
    """The artifact carries a signature by the holder of a key.

    key         the public key: 32 bytes, the same in hexadecimal or base64, or PEM; a
                sequence of keys means that any of them may have signed
    statement   whether a signed statement must be there; default False

    What is signed is the statement that `upgrade.statement()` makes, which lies beside the
    artifact as NAME.statement, its signature as NAME.statement.sig. Without a statement the
    artifact's own bytes may be signed, in NAME.sig; then only the version in a file VERSION
    inside it counts, and an artifact that has none is refused unless it is the first one. A
    signature is 64 bytes, or the same in hexadecimal or base64. Needs cryptography:
    pip install 'endless-py[signatures]'.
    """

    first = True
    signs = True
    beside = ("{name}.statement", "{name}.statement.sig", "{name}.sig")

    def __init__(
        self, key: Union[bytes, str, Sequence[Union[bytes, str]]], statement: bool = False
    ):
        try:
            from cryptography.hazmat.primitives.asymmetric import ed25519
        except ImportError:
            raise UpgradeError(
                "signatures need cryptography, which is not installed; "
                "pip install 'endless-py[signatures]'"
            ) from None
        keys = [key] if isinstance(key, (bytes, str)) else list(key)
        if not keys:
            raise ValueError("Ed25519 needs a public key")
        self._statement = statement
        self._keys: list[Any] = []
        for each in keys:
            text = each.encode() if isinstance(each, str) else each
            if text.lstrip().startswith(b"-----BEGIN"):
                from cryptography.hazmat.primitives.serialization import load_pem_public_key

                loaded: Any = load_pem_public_key(text)
                if not isinstance(loaded, ed25519.Ed25519PublicKey):
                    raise ValueError("the public key is not one of Ed25519")
            else:
                raw = _raw(each, 32)
                if raw is None:
                    raise ValueError("a public key has 32 bytes, in hexadecimal, base64 or PEM")
                loaded = ed25519.Ed25519PublicKey.from_public_bytes(raw)
            self._keys.append(loaded)

    def run(self, candidate: Candidate) -> Optional[str]:
        path = candidate.artifact.path
        said = path.with_name(f"{path.name}.statement")
        if said.exists():
            content = read_beside(said)
            self._verify(said, content)
            return _judge(content, said.name, candidate)
        if self._statement:
            raise Refused(f"{path.name} has no statement: there is no {said.name} beside it")
        if path.stat().st_size == 0:
            raise Refused(f"{path.name} is empty")
        # Mapped, not read: it may be large, and who made it is not known yet.
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if _TYPE.encode() in data[:200]:
                raise Refused(f"{path.name} is a statement, not an artifact")
            with memoryview(data) as view:
                self._verify(path, view)
        return None

    def _verify(self, path: Path, content: Any) -> None:
        """Raise Refused unless one of the keys has signed the content of this file."""
        from cryptography.exceptions import InvalidSignature

        beside = path.with_name(f"{path.name}.sig")
        if not beside.exists():
            raise Refused(f"{path.name} is not signed: there is no {beside.name} beside it")
        signature = _raw(read_beside(beside), 64)
        if signature is None:
            raise Refused(f"{beside.name} is no signature: it should have 64 bytes")
        for key in self._keys:
            with contextlib.suppress(InvalidSignature):
                key.verify(signature, content)
                return
        raise Refused(f"the signature of {path.name} is not by the expected key")


def _judge(content: bytes, name: str, candidate: Candidate) -> str:
    """The version that a signed statement gives to this artifact; Refused when it is another's."""
    path = candidate.artifact.path
    try:
        said = json.loads(content)
        kind, of, version = said["_type"], said["name"], said["version"]
        length, digest, expires = said["length"], said["hashes"]["sha256"], said["expires"]
        until = datetime.strptime(expires, _TIME).replace(tzinfo=timezone.utc).timestamp()
        versions.key(version)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"{name} is no statement: {error!r}") from error
    if kind != _TYPE:
        raise Refused(f"{name} is a statement of another kind, {kind!r}")
    if of != path.name:
        raise Refused(f"{name} is about {of!r}, not about {path.name}")
    if until <= time.time():
        raise Refused(f"{name} has expired, on {expires}")
    found = candidate.sha256()
    if length != path.stat().st_size or not hmac.compare_digest(
        str(digest).encode(), found.encode()
    ):
        raise Refused(f"{name} is about another content: SHA-256 {digest}; here it is {found}")
    return str(version)


def _raw(value: Union[bytes, str], size: int) -> Optional[bytes]:
    """Bytes given as they are, in hexadecimal or in base64; None when they are not so many."""
    data = value.encode() if isinstance(value, str) else value
    if len(data) == size:
        return data
    data = data.strip()
    for decode in (binascii.unhexlify, lambda text: base64.b64decode(text, validate=True)):
        with contextlib.suppress(ValueError):
            raw: bytes = decode(data)
            if len(raw) == size:
                return raw
    return None
