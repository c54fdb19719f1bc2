"""What a new artifact has to pass before it is put in place."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import os
import secrets
import select
import signal
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional, Union

from endless_py._reload import dry_start, process
from endless_py.upgrade import files, versions
from endless_py.upgrade.errors import Refused, UpgradeError
from endless_py.upgrade.sources import Artifact

_MAX_BESIDE = 1 << 20  # bytes of a digest or signature file
_CLEAN_UP = 1.0  # seconds a program has for its own clean-up after its answer
_LAST_WORDS = 300  # characters of what a failing program wrote last


@dataclass(frozen=True)
class Candidate:
    """A new version, before it is in place.

    artifact is what the source fetched, with the files beside it; release the file or folder
    that would run; target the path that would lead to it; version that of the candidate and
    installed that of the version in place, None when they say none.
    """

    artifact: Artifact
    release: Path
    target: Path
    version: Optional[str] = None
    installed: Optional[str] = None


class Check:
    """A check; a plain function that takes the release's path does as well.

    beside names the files it wants to have beside the artifact ("{name}" is the artifact's).
    A check that is first sees the artifact as it was published and before anything looks
    into it: its release is the artifact itself.
    """

    beside: Sequence[str] = ()
    first = False

    def run(self, candidate: Candidate) -> None:
        """Raise Refused, with one line that says why, for what should not be in place."""
        raise NotImplementedError


class Function(Check):
    """A user's check(path): it refuses by raising, or by returning False."""

    def __init__(self, function: Callable[[Path], object]):
        self._function = function

    def run(self, candidate: Candidate) -> None:
        name = getattr(self._function, "__name__", repr(self._function))
        try:
            passed = self._function(candidate.release)
        except Refused:
            raise
        except Exception as error:
            raise Refused(f"{name}() refuses it: {error or type(error).__name__}") from error
        if passed is False:
            raise Refused(f"{name}() refuses it")


def _read_beside(path: Path) -> bytes:
    if path.stat().st_size > _MAX_BESIDE:
        raise Refused(f"{path.name} is larger than {_MAX_BESIDE} bytes")
    return path.read_bytes()


class SHA256(Check):
    """The artifact's SHA-256 is the one published beside it.

    sums is the name of a file as sha256sum writes it, default "SHA256SUMS"; the artifact's
    name with .sha256 after it, with or without a name in it, is looked for too. Where there
    is neither, the digest that the source's own interface gives counts; where there is none,
    the artifact is refused.
    """

    first = True

    def __init__(self, sums: str = "SHA256SUMS"):
        self._sums = sums
        self.beside = (sums, "{name}.sha256")

    def run(self, candidate: Candidate) -> None:
        path = candidate.artifact.path
        wanted = [
            *self._in_sums(path.with_name(self._sums), path.name, strict=True),
            *self._in_sums(path.with_name(f"{path.name}.sha256"), path.name, strict=False),
        ]
        if not wanted and candidate.artifact.sha256:
            wanted = [candidate.artifact.sha256.lower()]
        if not wanted:
            raise Refused(
                f"no digest of {path.name}: neither {self._sums} nor {path.name}.sha256 names it"
            )
        found = files.sha256(path)
        for digest in wanted:
            if not hmac.compare_digest(digest, found):
                raise Refused(f"the SHA-256 of {path.name} is {found}, published is {digest}")

    @staticmethod
    def _in_sums(path: Path, name: str, strict: bool) -> list[str]:
        if not path.exists():
            return []
        found = []
        for line in _read_beside(path).decode(errors="replace").splitlines():
            digest, _, rest = line.strip().lstrip("\\").partition(" ")
            listed = rest.strip().lstrip("*").rpartition("/")[2]
            if listed == name or (not strict and not rest):
                digest = digest.lower()
                if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                    raise Refused(f"{path.name} has {digest!r} for {name}, no SHA-256")
                found.append(digest)
        return found


class Ed25519(Check):
    """The artifact carries a signature by the holder of a key.

    key is the public key: 32 bytes, the same in hexadecimal or base64, or PEM; a sequence of
    keys means that any of them may have signed. The signature lies beside the artifact, under
    its name with .sig after it: 64 bytes, or the same in hexadecimal or base64. Needs
    cryptography: pip install 'endless-py[signatures]'.
    """

    first = True
    beside = ("{name}.sig",)

    def __init__(self, key: Union[bytes, str, Sequence[Union[bytes, str]]]):
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
        self._keys: list[Any] = []
        for each in keys:
            text = each.encode() if isinstance(each, str) else each
            if text.lstrip().startswith(b"-----BEGIN"):
                from cryptography.hazmat.primitives.serialization import load_pem_public_key

                loaded: Any = load_pem_public_key(text)
                if not isinstance(loaded, ed25519.Ed25519PublicKey):
                    raise ValueError("the public key is none of Ed25519")
            else:
                raw = _raw(each, 32)
                if raw is None:
                    raise ValueError("a public key has 32 bytes, in hexadecimal, base64 or PEM")
                loaded = ed25519.Ed25519PublicKey.from_public_bytes(raw)
            self._keys.append(loaded)

    def run(self, candidate: Candidate) -> None:
        from cryptography.exceptions import InvalidSignature

        path = candidate.artifact.path
        beside = path.with_name(f"{path.name}.sig")
        if not beside.exists():
            raise Refused(f"{path.name} is not signed: there is no {beside.name} beside it")
        signature = _raw(_read_beside(beside), 64)
        if signature is None:
            raise Refused(f"{beside.name} is no signature: it should have 64 bytes")
        content = path.read_bytes()
        for key in self._keys:
            with contextlib.suppress(InvalidSignature):
                key.verify(signature, content)
                return
        raise Refused(f"the signature of {path.name} is not by the expected key")


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


class NoDowngrade(Check):
    """The version is not older than the one in place, by the rule of `versions.key()`.

    The version is what the file VERSION at the top of the release says (its first line; for
    a .pyz, of the zip), else what the source says. A version in place that is known and a
    candidate that says none is refused too.
    """

    def run(self, candidate: Candidate) -> None:
        if candidate.installed is None:
            return
        if candidate.version is None:
            raise Refused(
                f"it says no version, and {candidate.installed} is in place; "
                "put a file VERSION into it, or allow downgrades"
            )
        if versions.is_older(candidate.version, candidate.installed):
            raise Refused(f"it is {candidate.version}, older than {candidate.installed} in place")


def version_inside(release: Path) -> Optional[str]:
    """What the file VERSION of a release says; None when there is none."""
    text = b""
    try:
        if release.is_dir():
            path = release / "VERSION"
            text = path.read_bytes()[:200] if path.is_file() else b""
        elif zipfile.is_zipfile(release):
            with zipfile.ZipFile(release) as archive, archive.open("VERSION") as file:
                text = file.read(200)
    except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError):
        return None
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[0].strip() if lines else None


class DryStart(Check):
    """The new version starts, in a process of its own, as far as its first server.

    The program runs until it makes its first endless_py server, where it answers a challenge
    on a pipe and ends by SystemExit without having bound anything. What it does before that
    is really done.

    command     what to start, a sequence of words in which "{release}" stands for the
                release's path; default: this process's own command line, with the target's
                path in it, or as the folder it is started in, replaced by the release's
    timeout     seconds; default 30
    """

    def __init__(self, command: Optional[Sequence[str]] = None, timeout: float = 30.0):
        self.command = command
        self.timeout = timeout

    def run(self, candidate: Candidate) -> None:
        words, directory = self._command_for(candidate)
        token = secrets.token_hex(16)
        ours, theirs = os.pipe()
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_ITS}
        environment[dry_start.VARIABLE] = f"{theirs}:{token}"
        environment["PWD"] = directory
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # the release stays as it was published
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, ours)
            output = stack.enter_context(tempfile.TemporaryFile())
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=directory,
                    env=environment,
                    pass_fds=(theirs,),
                    start_new_session=True,
                )
            except OSError as error:
                raise Refused(f"its dry start fails: {error}") from error
            finally:
                os.close(theirs)
            stack.callback(_end, process, ours)
            deadline = time.monotonic() + self.timeout
            answered = _read_answer(ours, deadline)
            if answered == dry_start.answer(token):
                return
            if time.monotonic() >= deadline:
                problem = f"it reached no server within {self.timeout:g} s"
            else:
                problem = f"it ended{_status(process, deadline)} before it reached a server"
            raise Refused(f"its dry start fails: {problem}{_last_words(output)}")

    def _command_for(self, candidate: Candidate) -> tuple[list[str], str]:
        """The words to start, and the directory to start them in."""
        release, own = str(candidate.release), process.current.spawn.command
        directory = own.directory or os.getcwd()
        if self.command is not None:
            return [word.replace("{release}", release) for word in self.command], directory
        target = str(candidate.target)

        def moved(path: str) -> Optional[str]:
            """A path to or below the target, as it would be in the release."""
            full = os.path.normpath(os.path.join(directory, path))
            if full == target:
                return release
            return release + full[len(target) :] if full.startswith(target + os.sep) else None

        words = [own.executable, *own.arguments[1:]]
        new_directory = moved(directory)
        # In a folder that moves, relative words name the same things as before.
        replaced = [
            moved(word) or word if os.path.isabs(word) or not new_directory else word
            for word in words
        ]
        if replaced == words and new_directory is None:
            raise Refused(
                f"its dry start cannot be done: {target} is not in this process's command line, "
                f"{' '.join(words)}; give DryStart(command=...)"
            )
        return replaced, new_directory or directory


# What a service manager or a predecessor meant for this process alone.
_NOT_ITS = {
    "ENDLESS_PY_CHANNEL",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
}


def _read_answer(descriptor: int, deadline: float) -> bytes:
    """One line from the pipe, or what came of it until its end or the deadline."""
    data = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not data.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            break
        piece = os.read(descriptor, 200)
        if not piece:
            break
        data += piece
    return data


def _end(process: subprocess.Popen[bytes], descriptor: int) -> None:
    """End what the dry start has started, all of it."""
    _read_answer(descriptor, time.monotonic() + _CLEAN_UP)
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _status(process: subprocess.Popen[bytes], deadline: float) -> str:
    try:
        status = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return ""
    return f" with status {status}" if status >= 0 else f" by signal {-status}"


def _last_words(output: BinaryIO) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - 4 * _LAST_WORDS))
    lines = output.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1].strip()[-_LAST_WORDS:]}" if lines else ""
