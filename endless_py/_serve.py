"""python -m endless_py [PORT]: serves a folder like python -m http.server, and is reloadable."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import http.server
import mimetypes
import os
import re
import socket
import sys
from typing import Any, Optional, Sequence

from endless_py import __version__
from endless_py._control.entry import COMMANDS, name_of_program
from endless_py._reload import process
from endless_py._reload.settings import add_replacing, option, problem_in_environment, replacing
from endless_py._support.files import unreadable
from endless_py.exceptions import EndlessError, HealthError, PidFileError
from endless_py.http.server import ThreadingHTTPServer, ThreadingHTTPSServer


class DualStackMixIn:
    """Accepts IPv4 too where it is bound to every IPv6 address, as http.server's command."""

    socket: Any

    def server_bind(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()  # type: ignore[misc]


class FolderServer(DualStackMixIn, ThreadingHTTPServer):
    pass


class FolderHTTPSServer(DualStackMixIn, ThreadingHTTPSServer):
    pass


def _handler(options: argparse.Namespace) -> Any:
    """Return the handler class that the options ask for."""
    base: Any = http.server.SimpleHTTPRequestHandler
    if getattr(options, "cgi", False):
        base = http.server.CGIHTTPRequestHandler

    class Handler(base):  # type: ignore[misc]
        protocol_version = options.protocol
        default_content_type = options.content_type or "application/octet-stream"

        def send_response(self, code: int, *arguments: Any, **keywords: Any) -> None:
            super().send_response(code, *arguments, **keywords)
            for name, value in options.header if code == 200 else ():
                self.send_header(name, value)

        def guess_type(self, path: Any, *arguments: Any, **keywords: Any) -> str:
            found: str = super().guess_type(path, *arguments, **keywords)
            if found == "application/octet-stream" and not mimetypes.guess_type(path)[0]:
                return self.default_content_type  # which the standard class knows from 3.15 on
            return found

    return Handler


def _check_headers(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What is no header would end the response's head, or begin another one."""
    for name, value in options.header:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            parser.error(f"{name!r} cannot be the name of a header")
        if not re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value):
            parser.error(f"{value!r} cannot be the value of a header")
    if not re.fullmatch(r"[\x20-\x7e]*", options.content_type or ""):
        parser.error(f"{options.content_type!r} cannot be a content type")


def _port(word: str) -> int:
    try:
        port = int(word)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{word!r} is not a port; give a number from 0 to 65535")
    return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name_of_program(),
        description="Serve a folder over HTTP, reloadable by SIGHUP.",
        epilog=f"Commands for a running server: {', '.join(COMMANDS)}; see COMMAND --help. "
        "For an application: wsgi or asgi MODULE:APPLICATION; see wsgi --help, asgi --help.",
    )
    parser.add_argument("--version", action="version", version=f"endless_py {__version__}")
    parser.add_argument("port", nargs="?", type=_port, default=8000, help="default: 8000")
    parser.add_argument("-b", "--bind", metavar="ADDRESS", help="default: all interfaces")
    parser.add_argument(
        "-d", "--directory", default=None, help="the folder to serve; default: the current one"
    )
    parser.add_argument(
        "-p",
        "--protocol",
        default="HTTP/1.0",
        choices=("HTTP/1.0", "HTTP/1.1"),
        help="default: HTTP/1.0",
    )
    if hasattr(http.server, "CGIHTTPRequestHandler"):
        parser.add_argument(
            "--cgi", action="store_true", help="run what is in cgi-bin; gone with Python 3.15"
        )
    parser.add_argument(
        "-H",
        "--header",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a header of each response with status 200; may be given again",
    )
    parser.add_argument(
        "--content-type",
        metavar="TYPE",
        help="of files whose name does not say it; default: application/octet-stream",
    )
    parser.add_argument("--tls-cert", metavar="PATH", help="serve HTTPS with this certificate")
    parser.add_argument("--tls-key", metavar="PATH", help="its private key, if in another file")
    parser.add_argument("--tls-password-file", metavar="PATH", help="has the key's password")
    parser.add_argument(
        "--pid-file", metavar="PATH", help="keep the serving process's pid there; default: none"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=option("workers"),
        help="processes that serve, or auto: one for each processor; default: 1",
    )
    add_replacing(parser.add_argument)
    parser.add_argument(
        "--health",
        metavar="ADDRESS",
        type=option("health"),
        help="HOST:PORT at which health checks are answered; default: none",
    )
    parser.add_argument(
        "--watch", metavar="PATH", help="reload when this file, folder or symlink changes"
    )
    parser.add_argument(
        "--watch-interval",
        metavar="SECONDS",
        type=float,
        default=2.0,
        help="between checks where the system does not tell of changes; default: 2",
    )
    return parser


def _tls(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """Return what an HTTPS server needs, nothing without --tls-cert."""
    for name in ("key", "password_file"):
        if getattr(options, f"tls_{name}") and not options.tls_cert:
            parser.error(f"--tls-{name.replace('_', '-')} requires --tls-cert to be set")
    if not options.tls_cert:
        return {}
    password = None
    if options.tls_password_file:
        try:
            with open(options.tls_password_file, encoding="utf-8") as file:
                password = file.read().strip()
        except (OSError, ValueError) as error:
            parser.error(f"cannot read the TLS password file: {error}")
    return {"certfile": options.tls_cert, "keyfile": options.tls_key, "password": password}


_HINTS = {
    errno.EADDRINUSE: "; another program has it: choose another port",
    errno.EACCES: "; ports below 1024 are root's: choose another one",
    errno.EADDRNOTAVAIL: "; it is the address of no interface here",
}


def _fail(text: str, status: int) -> int:
    print(f"{name_of_program()}: error: {text}", file=sys.stderr)
    return status


def _address(bind: Optional[str], port: int) -> tuple[int, Any]:
    found = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return found[0][0], found[0][4]


def main(words: Sequence[str]) -> int:
    """Serve until told to stop; returns the exit status: 1 when it cannot serve."""
    parser = _parser()
    options = parser.parse_args(words)
    problem = problem_in_environment()
    if problem:
        parser.error(problem)
    _check_headers(parser, options)
    tls = _tls(parser, options)
    problem = unreadable({"TLS certificate": options.tls_cert, "TLS private key": options.tls_key})
    if problem:
        return _fail(problem, 1)
    kind: Any = FolderHTTPSServer if tls else FolderServer
    directory = options.directory or process.current.spawn.command.directory or os.getcwd()
    if not os.path.isdir(directory):
        return _fail(f"there is no folder {directory!r}; give one with --directory", 1)

    try:
        kind.pid_file = options.pid_file
        if options.workers is not None:
            kind.workers = options.workers
        for name, value in replacing(options).items():
            setattr(kind, name, value)
        if options.health is not None:
            kind.health = options.health
        kind.address_family, address = _address(options.bind, options.port)
        server = kind(address, functools.partial(_handler(options), directory=directory), **tls)
    except PidFileError as error:
        return _fail(str(error), 1)
    except (OSError, EndlessError) as error:
        if isinstance(error, getattr(sys.modules.get("ssl"), "SSLError", ())):
            return _fail(f"cannot use the TLS certificate {options.tls_cert}: {error}", 1)
        where = f"{options.bind or 'all interfaces'}, port {options.port}"
        hint = _HINTS.get(getattr(error, "errno", None) or 0, "")
        return _fail(f"cannot serve on {where}: {error}{hint}", 1)
    if options.watch:
        from endless_py import upgrade

        try:
            upgrade.watch(options.watch, interval=options.watch_interval)
        except (OSError, ValueError) as error:
            server.server_close()
            return _fail(f"cannot watch {options.watch}: {error}", 1)
    pid = os.getpid()
    host, port = str(server.server_address[0]), server.server_port
    url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}/"
    print(f"Serving {directory} on {host} port {port} ({url})")
    print(f"Reload: kill -HUP {pid}    Stop: kill -TERM {pid} (or Ctrl-C)", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
        except HealthError as error:
            return _fail(str(error), 1)
    return 0
