"""The options of `python -m endless_py wsgi`, which are gunicorn's where they mean the same."""

from __future__ import annotations

import argparse
import os

from endless_py._wsgi.access_log import FORMATS

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence

_ELSEWHERE = {
    "-w": "--workers is not there yet: it runs one process; use --threads",
    "--workers": "--workers is not there yet: it runs one process; use --threads",
    "-k": "--worker-class is not there: requests are handled in threads",
    "--worker-class": "--worker-class is not there: requests are handled in threads",
    "-t": "-t is not there: gunicorn ends a worker that is silent for so long, and here is none",
    "--timeout": "--timeout is not there: gunicorn ends a worker that is silent for so long, and "
    "here is none; see --header-timeout and --body-timeout",
    "-c": "--config is not there: settings are options",
    "--config": "--config is not there: settings are options",
    "-D": "--daemon is not there: have a process manager start it",
    "--daemon": "--daemon is not there: have a process manager start it",
    "--preload": "--preload is not there: the application is always loaded before it is served",
    "--reload": "--reload is not there: use --watch PATH",
}


def _seconds(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of seconds")
    return value


def _more_than_nothing(word: str) -> float:
    value = _seconds(word)
    if not value:
        raise argparse.ArgumentTypeError("must be more than 0 seconds")
    return value


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word)):
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of at least 1")
    return int(word)


def _variable(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name and equals) or "\0" in word:
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME=VALUE")
    return name, value


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m endless_py wsgi",
        description="Serve a WSGI application, reloadable by SIGHUP.",
        allow_abbrev=False,
    )
    add = found.add_argument
    add(
        "application",
        metavar="MODULE:APPLICATION",
        help="its name, or a call of what makes it: shop.web:app, 'shop.web:create_app()'",
    )
    add(
        "-b",
        "--bind",
        action="append",
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT or unix:PATH; may be given again; default: 127.0.0.1:8000",
    )
    add(
        "--threads",
        type=_count,
        default=16,
        metavar="N",
        help="requests that are handled at once, for each address; default: 16",
    )
    add("--certfile", metavar="PATH", help="serve HTTPS with this certificate")
    add("--keyfile", metavar="PATH", help="its private key, if in another file")
    add(
        "-p",
        "--pid-file",
        "--pid",
        metavar="PATH",
        help="keep the serving process's pid there; default: none",
    )
    add("--chdir", metavar="PATH", help="change to this folder before the application is loaded")
    add(
        "-e",
        "--env",
        action="append",
        type=_variable,
        default=[],
        metavar="NAME=VALUE",
        help="set a variable of the environment; may be given again",
    )
    add("--watch", metavar="PATH", help="reload when this file, folder or symlink changes")
    add(
        "--access-log",
        "--access-logfile",
        metavar="FILE",
        help="append a line for each request; - is standard output; default: none",
    )
    add("--access-log-format", choices=FORMATS, default="combined", help="default: combined")
    add(
        "--forwarded-allow-ips",
        default=os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1"),
        metavar="IPS",
        help="proxies whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses and "
        "networks, or *; default: 127.0.0.1,::1 or $FORWARDED_ALLOW_IPS",
    )
    _add_times(add)
    _add_limits(add)
    return found


def _add_times(add: Any) -> None:
    for name, kind, default, text in (
        ("--keep-alive", _seconds, 5.0, "for which a connection is kept idle, 0: it is not kept"),
        ("--header-timeout", _more_than_nothing, 10.0, "in which a request's head has to come"),
        (
            "--body-timeout",
            _more_than_nothing,
            30.0,
            "for which a client may send nothing of a body, or take nothing of a response",
        ),
        ("--graceful-timeout", _seconds, 60.0, "that active requests have at a reload or a stop"),
    ):
        add(
            name,
            type=kind,
            default=default,
            metavar="SECONDS",
            help=f"{text}; default: {default:g}",
        )


def _add_limits(add: Any) -> None:
    for name, default, text in (
        ("--limit-request-line", 4094, "bytes of a request line"),
        ("--limit-request-fields", 100, "header lines of a request"),
        ("--limit-request-field-size", 8190, "bytes of a header line"),
        ("--limit-request-body", 1 << 30, "bytes of a request's body"),
        ("--backlog", 2048, "connections that wait to be accepted"),
    ):
        add(name, type=_count, default=default, metavar="N", help=f"{text}; default: {default}")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options; ends the process with status 2 where they are wrong."""
    found = parser()
    for word in words:
        hint = _hint(word)
        if hint is not None:
            found.error(hint)
    options = found.parse_args(words)
    if options.keyfile and not options.certfile:
        found.error("--keyfile requires --certfile to be set")
    return options


def _hint(word: str) -> Optional[str]:
    """Return what to say to an option of gunicorn's that is not here."""
    hint = _ELSEWHERE.get(word.partition("=")[0])
    if hint is None and word[:1] == "-" and word[1:2] != "-" and word[2:].isdigit():
        hint = _ELSEWHERE.get(word[:2])  # -w4
    return hint
