"""The access log: one line for each request, in the formats that tools read, through logging."""

from __future__ import annotations

import logging
import sys
import time

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any

NAME = "endless_py.access"
FORMATS = ("common", "combined")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def _quoted(text: str) -> str:
    """Return what a client has sent so that it can end neither its field nor its line."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(
        f"\\{c}" if c in '"\\' else c if c.isascii() and c.isprintable() else f"\\x{ord(c):02x}"
        for c in text
    )


class AccessLog:
    """Writes to the logger `endless_py.access`, which has a handler for `path`.

    path is that of a file, to which is appended, or "-": standard output. A reload opens it
    anew. combined adds Referer and User-Agent. Raises OSError.
    """

    def __init__(self, path: str, combined: bool) -> None:
        handler: logging.Handler
        if path == "-":
            handler = logging.StreamHandler(sys.stdout)
        else:
            handler = logging.FileHandler(path, encoding="ascii", errors="backslashreplace")
        handler.setFormatter(logging.Formatter("%(message)s"))
        self._logger = logging.getLogger(NAME)
        self._logger.handlers = [handler]
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._combined = combined
        self._now: tuple[int, str] = 0, ""

    def _date(self) -> str:
        second = int(time.time())
        now = self._now
        if now[0] != second:
            at = time.localtime(second)
            zone = time.strftime("%z", at)
            month = _MONTHS[at.tm_mon - 1]  # in English, whatever the locale
            text = time.strftime(f"%d/{month}/%Y:%H:%M:%S {zone}", at)
            now = self._now = second, text
        return now[1]

    def write(
        self, environ: dict[str, Any], line: str, status: str, size: int, start: float
    ) -> None:
        """Write the line of a request; start is when it began (time.monotonic).

        A formatter of the program's own finds `seconds`, how long it took, in the record.
        """
        host = _quoted(environ.get("REMOTE_ADDR", "")) or "-"
        user = _quoted(str(environ.get("REMOTE_USER") or "-"))
        text = f'{host} - {user} [{self._date()}] "{_quoted(line)}" {status} {size or "-"}'
        if self._combined:
            referer = _quoted(environ.get("HTTP_REFERER", "-"))
            agent = _quoted(environ.get("HTTP_USER_AGENT", "-"))
            text += f' "{referer}" "{agent}"'
        # Django and others disable what loggers they do not know.
        self._logger.disabled = False
        self._logger.info("%s", text, extra={"seconds": time.monotonic() - start})
