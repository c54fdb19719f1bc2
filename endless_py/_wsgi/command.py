"""python -m endless_py wsgi MODULE:APPLICATION: serves a WSGI application, and is reloadable."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import threading
import traceback
from contextlib import ExitStack, suppress

from endless_py._reload import process
from endless_py._wsgi.access_log import AccessLog
from endless_py._wsgi.application import NoApplication, load
from endless_py._wsgi.forwarded import Trust
from endless_py._wsgi.handler import Service
from endless_py._wsgi.head import Limits
from endless_py._wsgi.options import parse
from endless_py._wsgi.server import Address, make_server
from endless_py.exceptions import EndlessError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence

_HINTS = {
    errno.EADDRINUSE: "; another program has it: choose another one",
    errno.EACCES: "; it is not this user's: choose another one",
    errno.EADDRNOTAVAIL: "; it is the address of no interface here",
}


class _Wrong(Exception):
    """It cannot serve; the text says why."""


def main(words: Sequence[str]) -> int:
    """Serve until told to stop; the exit status: 1 when it cannot serve, 2 for wrong arguments."""
    options = parse(words)
    try:
        return _run(options)
    except _Wrong as error:
        print(f"python -m endless_py wsgi: error: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    directory = _enter(options)
    os.environ.update(options.env)
    try:
        trust = Trust(options.forwarded_allow_ips)
        binds = [Address(text, directory) for text in options.bind or ["127.0.0.1:8000"]]
    except ValueError as error:
        raise _Wrong(str(error)) from None
    application = _load(options.application)
    service = Service(application, _limits(options), trust)
    service.keep_alive = options.keep_alive
    service.header_timeout, service.body_timeout = options.header_timeout, options.body_timeout
    service.multithread = options.threads > 1
    if options.access_log is not None:
        path = options.access_log
        try:
            path = path if path == "-" else os.path.join(directory, path)
            service.access_log = AccessLog(path, options.access_log_format == "combined")
        except OSError as error:
            raise _Wrong(f"cannot write the access log {path}: {error.strerror}") from None
    with ExitStack() as stack:
        servers = []
        for address in binds:
            server = _server(options, directory, address)
            stack.enter_context(server)
            server.serve(service, "https" if options.certfile else "http")
            servers.append(server)
        _watch(options, directory)
        _say(options.application, binds, servers, "https" if options.certfile else "http")
        _serve(servers)
    return 0


def _enter(options: argparse.Namespace) -> str:
    """Go to the folder of --chdir; return it as the operator has written it.

    A symlink in it is followed afresh by each generation.
    """
    directory = process.current.spawn.command.directory or os.getcwd()
    if options.chdir is not None:
        directory = os.path.join(directory, options.chdir)
        try:
            os.chdir(directory)
        except OSError as error:
            raise _Wrong(f"cannot change to {directory}: {error.strerror}") from None
    if directory not in sys.path:
        sys.path.insert(0, directory)
    return os.path.abspath(directory)


def _load(text: str) -> Any:
    try:
        return load(text)
    except NoApplication as error:
        raise _Wrong(str(error)) from None
    except Exception:
        traceback.print_exc()
        raise _Wrong(f"{text} cannot be loaded; the traceback above says why") from None


def _limits(options: argparse.Namespace) -> Limits:
    return Limits(
        options.limit_request_line,
        options.limit_request_fields,
        options.limit_request_field_size,
        options.limit_request_body,
    )


def _server(options: argparse.Namespace, directory: str, address: Address) -> Any:
    def path(given: Optional[str]) -> Optional[str]:
        return None if given is None else os.path.join(directory, given)

    tls = {}
    if options.certfile:
        tls = {"certfile": path(options.certfile), "keyfile": path(options.keyfile)}
        for what, name in tls.items():
            try:
                if name is not None:
                    open(name, "rb").close()
            except OSError as error:
                raise _Wrong(f"cannot read the {what} {name}: {error.strerror}") from None
    settings = {
        "max_handlers": options.threads,
        "request_queue_size": options.backlog,
        "drain_timeout": options.graceful_timeout,
        "pid_file": path(options.pid_file),
    }
    try:
        return make_server(address, settings, tls)
    except (OSError, EndlessError, ValueError) as error:
        if isinstance(error, getattr(sys.modules.get("ssl"), "SSLError", ())):
            raise _Wrong(f"cannot use the certificate {options.certfile}: {error}") from None
        hint = _HINTS.get(getattr(error, "errno", None) or 0, "")
        raise _Wrong(f"cannot serve on {address.text}: {error}{hint}") from None


def _watch(options: argparse.Namespace, directory: str) -> None:
    if options.watch is None:
        return
    from endless_py import upgrade

    try:
        upgrade.watch(os.path.join(directory, options.watch))
    except (OSError, ValueError) as error:
        raise _Wrong(f"cannot watch {options.watch}: {error}") from None


def _say(name: str, binds: list[Address], servers: list[Any], scheme: str) -> None:
    where = []
    for address, server in zip(binds, servers):
        if address.path is not None:
            where.append(f"unix:{address.path}")
        else:
            host, port = server.server_address[:2]
            where.append(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
    pid = os.getpid()
    # Not to standard output: the access log may go there.
    print(f"Serving {name} on {' and '.join(where)}", file=sys.stderr)
    print(
        f"Reload: kill -HUP {pid}    Stop: kill -TERM {pid} (or Ctrl-C)",
        file=sys.stderr,
        flush=True,
    )


def _serve(servers: list[Any]) -> None:
    """Serve them all until all have drained."""
    first, *others = servers
    threads = [
        threading.Thread(target=server.serve_forever, name=f"endless_py wsgi {number}")
        for number, server in enumerate(others, 1)
    ]
    for thread in threads:
        thread.start()
    with suppress(KeyboardInterrupt):
        first.serve_forever()
    for thread in threads:
        thread.join()
