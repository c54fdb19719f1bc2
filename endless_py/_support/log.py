"""Where log lines go: the program's own logging if it set one up, else standard error."""

from __future__ import annotations

import os
import sys
import time

INFO = 20
WARNING = 30
ERROR = 40


def write(level: int, generation: str, text: str) -> None:
    """Write one line that carries the pid and the generation.

    level is one of logging's numbers. A program that never imported logging
    cannot have configured it, so that import is not paid for here. Standard
    error that is closed or full must not take the server down: such a line is lost.
    """
    text = text.replace("\n", " ")
    logging = sys.modules.get("logging")
    if logging is not None:
        logger = logging.getLogger("endless_py")
        if logger.hasHandlers():
            logger.log(level, "[%d] generation %s: %s", os.getpid(), generation, text)
            return
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    try:
        sys.stderr.write(f"{now} endless_py[{os.getpid()}] generation {generation}: {text}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def where(error: BaseException) -> str:
    """Return the place in the code at which an exception was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return "?"
    return f"{os.path.basename(traceback.tb_frame.f_code.co_filename)}:{traceback.tb_lineno}"
