"""The settings of a server: what each may be, and what is taken for a misspelt one."""

from __future__ import annotations

import os
from contextlib import suppress

from endless_py._supervisor import detect
from endless_py._support.remember import remember

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

MAX_DRAINING = 8  # generations: each has the program's memory
MAX_WORKERS = 512  # processes of one generation
NO_LIMIT = 10.0 * 365 * 86400  # seconds that None stands for, which every clock can count with


def _time(name: str, value: Any) -> None:
    """Seconds, or None for no limit."""
    if value is None:
        return
    number = -1.0
    if not isinstance(value, (str, bytes, bool)):
        with suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    if not number >= 0 or (name in _NOT_ZERO and not number):  # NaN is neither
        least = "more than 0" if name in _NOT_ZERO else "0 or more"
        raise ValueError(f"{name} must be {least} seconds, or None for no limit, not {value!r}")


def _delay(name: str, value: Any) -> None:
    """Seconds, and no more than one may wait for."""
    if value is None:
        raise ValueError(f"{name} must be 0 or more seconds, not None")
    _time(name, value)


def _warning(name: str, value: Any) -> None:
    if value is not None:
        with suppress(ValueError):
            _time(name, value)
            if value:
                return
        raise ValueError(f"{name} must be more than 0 seconds, or None for never, not {value!r}")


def _flag(name: str, value: Any) -> None:
    if value not in (True, False):
        raise ValueError(f"{name} must be True or False, not {value!r}")


def _bound(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, int) or value is True or value < 1):
        raise ValueError(f"{name} must be None or at least 1, not {value!r}")


def _number_or_auto(name: str, value: Any) -> None:
    number = isinstance(value, int) and value is not True and 1 <= value <= MAX_WORKERS
    if not number and value != "auto":
        raise ValueError(f'{name} must be 1 to {MAX_WORKERS} processes or "auto", not {value!r}')


def _limit(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f"{name} must be 1 or more requests, or None for no limit, not {value!r}")


def _jitter(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be 0 or more requests, not {value!r}")


def _megabytes(name: str, value: Any) -> None:
    """What is too much for any machine was meant as bytes."""
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1e6:
        raise ValueError(f"{name} must be 1 to 1000000 MB, or None for no limit, not {value!r}")


def has_limits(server: Any) -> bool:
    """Whether a process that serves it is replaced some day."""
    owner = of(server)
    return bool(getattr(owner, "max_requests", None) or getattr(owner, "max_rss", None))


def check_workers(value: Any) -> None:
    """Raise ValueError for what cannot be a number of workers."""
    _number_or_auto("workers", value)


def parse_address(value: Any) -> tuple[str, int]:
    """Return host and port: of such a pair, of HOST:PORT, [IPV6]:PORT, or of a port alone.

    Raises ValueError for anything else.
    """
    if isinstance(value, int):
        value = str(value)
    if isinstance(value, str):
        host, _, port = value.rpartition(":")
        bracketed = host[:1] + host[-1:] == "[]"
        if bracketed == (":" in host) and port.isascii() and port.isdigit():
            value = (host[1:-1] if bracketed else host or "127.0.0.1"), int(port)
    if isinstance(value, (tuple, list)) and len(value) == 2 and not isinstance(value[1], bool):
        host, port = value
        if host and isinstance(host, str) and isinstance(port, int) and 0 < port < 65536:
            return host, port
    raise ValueError("not an address")


def _address(name: str, value: Any) -> None:
    try:
        if value is not None:
            parse_address(value)
    except ValueError:
        problem = f"{name} must be HOST:PORT, a pair of both, or None, not {value!r}"
        raise ValueError(problem) from None


def health_address(server: Any) -> Optional[tuple[str, int]]:
    """Return where a server wants health checks to be answered; None: nowhere of its own."""
    value = getattr(of(server), "health", None)
    return None if value is None else parse_address(value)


def _path(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, (str, bytes, os.PathLike)):
        raise ValueError(f"{name} must be a path or None, not {value!r}")


_NOT_ZERO = ("ready_timeout", "handshake_timeout")
_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "drain_timeout": _time,
    "ready_timeout": _time,
    "keepalive_grace": _time,
    "stop_delay": _delay,
    "handshake_timeout": _time,
    "exit_grace": lambda name, value: None if value == "auto" else _time(name, value),
    "keep_pid": lambda _, value: detect.check(value),
    "handler_warn_after": _warning,
    "tcp_nodelay": _flag,
    "max_handlers": _bound,
    "max_draining": _bound,
    "reuse_threads": _flag,
    "ready_on_serve": _flag,
    "workers": _number_or_auto,
    "max_requests": _limit,
    "max_requests_jitter": _jitter,
    "max_rss": _megabytes,
    "health": _address,
    "pid_file": _path,
}
# What a text stands for, in an option or a variable; else it is a number, or a path.
_WORDS: dict[str, Any] = {
    "none": None,
    "auto": "auto",
    **dict.fromkeys(("yes", "true", "on"), True),
    **dict.fromkeys(("no", "false", "off"), False),
}
PREFIX = "ENDLESS_PY_"  # of the variable with a setting's default: ENDLESS_PY_DRAIN_TIMEOUT
NAMES = tuple(_CHECKS)
SWITCHES = (*(name for name, kind in _CHECKS.items() if kind is _flag), "keep_pid")
# Near a setting, but more likely a program's own.
_OWN = {"read_timeout", "PID_FILE", "healthy", "HEALTH"}


def of(server: Any) -> Any:
    """Return what has a server's settings: itself, unless its attributes mean other things.

    A program that knows nothing of this package may have a `pid_file` of its own.
    """
    return getattr(server, "_settings", server)


def from_text(name: str, text: str) -> Any:
    """Return the value that a text stands for; raises ValueError for what it cannot be."""
    word = text.strip().lower()
    value: Any = text
    if name != "pid_file":
        if word in _WORDS:
            value = _WORDS[word]
        elif name in SWITCHES and word in ("0", "1"):
            value = word == "1"
        else:
            for kind in (float, int):
                with suppress(ValueError):
                    value = kind(word)
    _CHECKS[name](name, value)
    return value


def option(name: str) -> Callable[[str], Any]:
    """Return what reads this setting for argparse; what cannot be is said as `from_text()` does."""

    def read(word: str) -> Any:
        try:
            return from_text(name, word)
        except ValueError as error:
            from argparse import ArgumentTypeError  # late: only commands have options

            raise ArgumentTypeError(str(error)) from None

    return read


_REPLACING = (
    ("max_requests", "N", "that a process handles before it is replaced; default: none"),
    ("max_requests_jitter", "N", "of requests that each may handle more, by chance; default: 0"),
    ("max_rss", "MB", "in memory above which a process is replaced; default: none"),
)


def add_replacing(add: Callable[..., object]) -> None:
    """Add the options that say when a process is replaced to a parser of argparse."""
    from argparse import SUPPRESS

    for name, unit, text in _REPLACING:
        words = "--" + name.replace("_", "-")
        add(words, type=option(name), default=SUPPRESS, metavar=unit, help=text)


def replacing(options: Any) -> dict[str, Any]:
    """Return those of them that were given."""
    return {name: vars(options)[name] for name, _, _ in _REPLACING if hasattr(options, name)}


def from_environment() -> dict[str, Any]:
    """Return the defaults that the environment has; a text that is none of them stays one.

    A pid file is not among them: each generation takes that variable from its predecessor, and
    hides it from the processes that the program starts.
    """
    found: dict[str, Any] = {}
    for name in _CHECKS.keys() - {"pid_file"}:
        text = os.environ.get(PREFIX + name.upper())
        if text:
            found[name] = text
            with suppress(ValueError):
                found[name] = from_text(name, text)
    return found


def problem_in_environment() -> str:
    """Return which variable cannot be a setting, and why; else ""."""
    for name, value in from_environment().items():
        try:
            _CHECKS[name](name, value)
        except ValueError as error:
            return f"{PREFIX}{name.upper()}: {error}"
    return ""


def set_defaults(owner: type, values: dict[str, Any]) -> None:
    """Make these the defaults of a class, as far as it has such settings."""
    for name, value in values.items():
        if hasattr(owner, name):
            setattr(owner, name, value)


def check(server: Any, base: type) -> None:
    """Raise ValueError for a setting that cannot be one, or that is misspelt.

    base is the class that has the defaults: what stands in it and behind it is not looked at.
    """
    if of(server) is not server:
        return
    classes = type(server).__mro__
    known = {name for name in _CHECKS if hasattr(server, name)}
    for name in known:
        try:
            _CHECKS[name](name, getattr(server, name))
        except ValueError as error:
            variable = PREFIX + name.upper()
            text = os.environ.get(variable)
            if text is None or getattr(server, name) != text:
                raise
            raise ValueError(f"{variable}: {error}") from None
    places = [vars(server)]
    places += [vars(kind) for kind in classes[: classes.index(base)] if not _is_library(kind)]
    given = {name: value for place in reversed(places) for name, value in place.items()}
    for name, value in given.items():
        if name[0] == "_" or not isinstance(value, (int, float, str, os.PathLike, type(None))):
            continue
        meant = None if hasattr(base, name) else nearest(name, frozenset(known - given.keys()))
        if meant is not None:
            raise ValueError(
                f"{type(server).__name__} has {name} = {value!r}: is {meant} meant? (Should it be "
                f"an attribute of your own, set {meant} as well.)"
            )


def _is_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("endless_py", "socketserver", "http")


@remember  # hundreds of servers have the same names
def nearest(name: str, known: frozenset[str]) -> Optional[str]:
    """Return which of these names is meant by one that is not among them, None if none is."""
    if name in known or name in _OWN:
        return None
    plain = name.replace("_", "").lower()
    for meant in sorted(known):
        whole = meant.replace("_", "")
        if _one_slip(plain, whole):  # with two of them retry_timeout would be ready_timeout
            return meant
    return None


def _one_slip(one: str, other: str) -> bool:
    """Whether one letter is missing, too many or another one, or two are changed round."""
    start = 0
    for a, b in zip(one, other):
        if a != b:
            break
        start += 1
    one, other = one[start:], other[start:]
    if one[1:] == other[1:] or one[1:] == other or one == other[1:]:
        return True
    return one[:2] == other[1::-1] and one[2:] == other[2:]


def seconds(server: Any, name: str) -> float:
    """Return a time that a server has set; what it cannot be counts as the default."""
    owner = of(server)
    value = getattr(owner, name, 0.0)
    if type(value) in (float, int) and 0 < value <= NO_LIMIT:
        return float(value)  # asked of hundreds of listeners in each step of a reload
    try:
        _time(name, value)
    except ValueError:  # set while it serves
        value = getattr(type(server), name, 0.0)
        value = value if isinstance(value, (int, float)) else None
    return NO_LIMIT if value is None else min(float(value), NO_LIMIT)


def say_limit(limit: float) -> str:
    """Return how long is waited at most, as a log line says it."""
    return "however long that takes" if limit >= NO_LIMIT else f"at most {limit:g} s"
