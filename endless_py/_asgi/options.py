"""The options of `python -m endless_py asgi`."""

from __future__ import annotations

import argparse

from endless_py._wsgi import common

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Sequence

_LOOP = "--loop is not there: connections are counted and drained on asyncio's own loop only"
_ELSEWHERE = {
    **common.ELSEWHERE,
    **dict.fromkeys(("--host", "--port"), "--host and --port are not there: use --bind HOST:PORT"),
    "--uds": "--uds is not there: use --bind unix:PATH",
    "--fd": "--fd is not there: systemd's sockets are taken by their address, with --bind",
    "--factory": "--factory is not there: write MODULE:FACTORY()",
    "--app-dir": "--app-dir is not there: use --chdir",
    "--loop": _LOOP,
    "--ssl-certfile": "--ssl-certfile is not there: use --certfile",
    "--ssl-keyfile": "--ssl-keyfile is not there: use --keyfile",
}


def parser() -> argparse.ArgumentParser:
    found = common.parser(
        "asgi",
        "Serve an ASGI application with uvicorn, reloadable by SIGHUP.",
        "shop.web:app, 'shop.web:create_app()'",
    )
    add = found.add_argument
    common.add_workers(add, "an event loop")
    add(
        "--lifespan",
        choices=("auto", "on", "off"),
        default="auto",
        help="whether the application is told of start-up and shutdown; default: auto",
    )
    add("--http", default="auto", metavar="KIND", help="uvicorn's: auto, h11, httptools, ...")
    add("--ws", default="auto", metavar="KIND", help="uvicorn's: auto, none, websockets, ...")
    add("--root-path", default="", metavar="PATH", help="under which a proxy has the application")
    common.add_times(
        add,
        [
            (
                "--keep-alive",
                common.seconds,
                5.0,
                "for which a connection is kept idle, 0: it is not kept",
            )
        ],
    )
    common.add_limits(add, [("--ws-max-size", 1 << 24, "bytes of a WebSocket's message")])
    add(
        "--limit-concurrency",
        type=common.count,
        metavar="N",
        help="connections and tasks upon which more are answered with 503; default: none",
    )
    return found


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options; ends the process with status 2 where they are wrong."""
    return common.parse(parser(), words, _ELSEWHERE)
