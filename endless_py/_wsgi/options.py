"""The options of `python -m endless_py wsgi`."""

from __future__ import annotations

import argparse

from endless_py._reload.settings import add_replacing
from endless_py._wsgi import common

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Sequence

_ELSEWHERE = {
    **common.ELSEWHERE,
    "-k": "--worker-class is not there: requests are handled in threads",
    "--worker-class": "--worker-class is not there: requests are handled in threads",
    "-t": "-t is not there: gunicorn ends a worker that is silent for so long, and here is none",
    "--timeout": "--timeout is not there: gunicorn ends a worker that is silent for so long, and "
    "here is none; see --header-timeout and --body-timeout",
}


def parser() -> argparse.ArgumentParser:
    found = common.parser(
        "wsgi",
        "Serve a WSGI application, reloadable by SIGHUP.",
        "shop.web:app, 'shop.web:create_app()'",
    )
    found.add_argument(
        "--threads",
        type=common.count,
        default=16,
        metavar="N",
        help="requests that are handled at once, for each address; default: 16",
    )
    common.add_workers(found.add_argument, "its threads")
    add_replacing(found.add_argument)
    common.add_times(
        found.add_argument,
        (
            (
                "--keep-alive",
                common.seconds,
                5.0,
                "for which a connection is kept idle, 0: it is not kept",
            ),
            (
                "--header-timeout",
                common.more_than_nothing,
                10.0,
                "in which a request's head has to come",
            ),
            (
                "--body-timeout",
                common.more_than_nothing,
                30.0,
                "for which a client may send nothing of a body, or take nothing of a response",
            ),
        ),
    )
    common.add_limits(
        found.add_argument,
        (
            ("--limit-request-line", 4094, "bytes of a request line"),
            ("--limit-request-fields", 100, "header lines of a request"),
            ("--limit-request-field-size", 8190, "bytes of a header line"),
            ("--limit-request-body", 1 << 30, "bytes of a request's body"),
        ),
    )
    return found


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options; ends the process with status 2 where they are wrong."""
    return common.parse(parser(), words, _ELSEWHERE)
