"""The options that `wsgi` and `asgi` share, which are gunicorn's where they mean the same."""

from __future__ import annotations

import argparse
import os

from endless_py._control.entry import name_of_program
from endless_py._reload.settings import option
from endless_py._wsgi.access_log import FORMATS

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Iterable, Mapping, Optional, Sequence

ELSEWHERE = {
    "-c": "--config is not there: settings are options",
    "--config": "--config is not there: settings are options",
    "-D": "--daemon is not there: have a process manager start it",
    "--daemon": "--daemon is not there: have a process manager start it",
    "--preload": "--preload is not there: the application is always loaded before it is served",
    "--reload": "--reload is not there: use --watch PATH",
}


def seconds(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of seconds")
    return value


def more_than_nothing(word: str) -> float:
    value = seconds(word)
    if not value:
        raise argparse.ArgumentTypeError("must be more than 0 seconds")
    return value


def count(word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word)):
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of at least 1")
    return int(word)


def variable(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name and equals) or "\0" in word:
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME=VALUE")
    return name, value


def parser(command: str, description: str, example: str) -> argparse.ArgumentParser:
    """Return one with the options that both have, but for times and limits."""
    found = argparse.ArgumentParser(
        prog=f"{name_of_program()} {command}",
        description=description,
        allow_abbrev=False,
    )
    add = found.add_argument
    add(
        "application",
        metavar="MODULE:APPLICATION",
        help=f"its name, or a call of what makes it: {example}",
    )
    add(
        "-b",
        "--bind",
        action="append",
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT or unix:PATH; may be given again; default: 127.0.0.1:8000",
    )
    add("--certfile", metavar="PATH", help="serve HTTPS with this certificate")
    add("--keyfile", metavar="PATH", help="its private key, if in another file")
    add(
        "--health",
        type=option("health"),
        metavar="ADDRESS",
        help="HOST:PORT at which health checks are answered; default: none",
    )
    add(
        "--stop-delay",
        type=seconds,
        metavar="SECONDS",
        help="for which it goes on accepting after TERM, and is not ready; default: 0",
    )
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
        type=variable,
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
    return found


def add_workers(add: Any, each: str) -> None:
    """Add --workers; each is what one of them has."""
    add(
        "-w",
        "--workers",
        type=option("workers"),
        default=1,
        metavar="N",
        help=f"processes, each with {each}, or auto: one for each processor; default: 1",
    )


def add_times(add: Any, times: Iterable[tuple[str, Any, float, str]]) -> None:
    """Add options in seconds, and --graceful-timeout; each with name, kind, default and help."""
    own = "--graceful-timeout", seconds, 60.0, "that active requests have at a reload or a stop"
    for name, kind, default, text in (*times, own):
        names = (name, "--drain-timeout") if name == own[0] else (name,)
        add(
            *names,
            type=kind,
            default=default,
            metavar="SECONDS",
            help=f"{text}; default: {default:g}",
        )


def add_limits(add: Any, limits: Iterable[tuple[str, int, str]]) -> None:
    """Add options that are numbers, and --backlog; each with name, default and help."""
    backlog = "--backlog", 2048, "connections that wait to be accepted"
    for name, default, text in (*limits, backlog):
        add(name, type=count, default=default, metavar="N", help=f"{text}; default: {default}")


def parse(
    found: argparse.ArgumentParser, words: Sequence[str], elsewhere: Mapping[str, str]
) -> argparse.Namespace:
    """Return the options; ends the process with status 2 where they are wrong.

    elsewhere has what to say to options that another server has and this one has not.
    """
    for word in words:
        hint = _hint(word, elsewhere)
        if hint is not None:
            found.error(hint)
    options = found.parse_args(words)
    if options.keyfile and not options.certfile:
        found.error("--keyfile requires --certfile to be set")
    return options


def _hint(word: str, elsewhere: Mapping[str, str]) -> Optional[str]:
    hint = elsewhere.get(word.partition("=")[0])
    if hint is None and word[:1] == "-" and word[1:2] != "-" and word[2:].isdigit():
        hint = elsewhere.get(word[:2])  # -w4
    return hint
