"""What `wsgi` and `asgi` do alike before they serve, and what they say when they cannot."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback

from endless_py._control.entry import name_of_program
from endless_py._reload import process
from endless_py._support.files import unreadable
from endless_py._wsgi.access_log import AccessLog
from endless_py._wsgi.address import Address
from endless_py._wsgi.application import NoApplication, load
from endless_py._wsgi.forwarded import Trust

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Sequence

_HINTS = {
    errno.EADDRINUSE: "; another program has it: choose another one",
    errno.EACCES: "; it is not this user's: choose another one",
    errno.EADDRNOTAVAIL: "; it is the address of no interface here",
}


class Wrong(Exception):
    """It cannot serve; the text says why."""


def run(command: str, serve: Callable[[], int]) -> int:
    """Return the exit status of serve(): 1 when it cannot serve, which is said."""
    try:
        return serve()
    except Wrong as error:
        print(f"{name_of_program()} {command}: error: {error}", file=sys.stderr)
        return 1


def enter(options: argparse.Namespace) -> str:
    """Go to the folder of --chdir and set --env; return it as the operator has written it.

    A symlink in it is followed afresh by each generation.
    """
    directory = process.current.spawn.command.directory or os.getcwd()
    if options.chdir is not None:
        directory = os.path.join(directory, options.chdir)
        try:
            os.chdir(directory)
        except OSError as error:
            raise Wrong(f"cannot change to {directory}: {error.strerror}") from None
    if directory not in sys.path:
        sys.path.insert(0, directory)
    os.environ.update(options.env)
    return os.path.abspath(directory)


def within(directory: str, path: Optional[str]) -> Optional[str]:
    """Return a path that was given as seen from there."""
    return None if path is None else os.path.join(directory, path)


def trust_and_addresses(options: argparse.Namespace, directory: str) -> tuple[Trust, list[Address]]:
    """Return which proxies are believed, and where it is to serve."""
    try:
        trust = Trust(options.forwarded_allow_ips)
        return trust, [Address(text, directory) for text in options.bind or ["127.0.0.1:8000"]]
    except ValueError as error:
        raise Wrong(str(error)) from None


def application(text: str) -> Any:
    """Return what MODULE:APPLICATION names."""
    try:
        return load(text)
    except NoApplication as error:
        raise Wrong(str(error)) from None
    except Exception:
        traceback.print_exc()
        raise Wrong(f"{text} cannot be loaded; the traceback above says why") from None


def access_log(options: argparse.Namespace, directory: str) -> Optional[AccessLog]:
    path = options.access_log
    if path is None:
        return None
    try:
        path = path if path == "-" else os.path.join(directory, path)
        return AccessLog(path, options.access_log_format == "combined")
    except OSError as error:
        raise Wrong(f"cannot write the access log {path}: {error.strerror}") from None


def tls(options: argparse.Namespace, directory: str) -> dict[str, Optional[str]]:
    """Return certfile and keyfile, nothing without --certfile."""
    if not options.certfile:
        return {}
    names = ("certfile", "keyfile")
    found = {name: within(directory, getattr(options, name)) for name in names}
    problem = unreadable(found)
    if problem:
        raise Wrong(problem)
    return found


def cannot(error: Exception, options: argparse.Namespace, where: str) -> Wrong:
    """Return what to raise for an error of a server that was to serve there."""
    if isinstance(error, getattr(sys.modules.get("ssl"), "SSLError", ())):
        return Wrong(f"cannot use the certificate {options.certfile}: {error}")
    hint = _HINTS.get(getattr(error, "errno", None) or 0, "")
    return Wrong(f"cannot serve on {where}: {error}{hint}")


def watch(options: argparse.Namespace, directory: str) -> None:
    if options.watch is None:
        return
    from endless_py import upgrade

    try:
        upgrade.watch(os.path.join(directory, options.watch))
    except (OSError, ValueError) as error:
        raise Wrong(f"cannot watch {options.watch}: {error}") from None


def say(name: str, addresses: Sequence[Any], scheme: str) -> None:
    """Say where it serves; an address is a Unix path, or host and port."""
    where = []
    for address in addresses:
        if isinstance(address, tuple):
            host, port = address[:2]
            where.append(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
        else:
            where.append(f"unix:{os.fsdecode(address)}")
    pid = os.getpid()
    # Not to standard output: the access log may go there.
    print(f"Serving {name} on {' and '.join(where)}", file=sys.stderr)
    print(
        f"Reload: kill -HUP {pid}    Stop: kill -TERM {pid} (or Ctrl-C)",
        file=sys.stderr,
        flush=True,
    )
