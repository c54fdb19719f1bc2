"""What is asked with every request, and answered from what was found out before."""

from __future__ import annotations

import functools
import sys

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

_MOST = 256  # answers; a program that makes classes without end fills no memory


def without_lock(function: F) -> F:
    """As `functools.lru_cache`, but for positional arguments, and that nobody waits for a lock.

    Without the GIL that one's is the same for all threads. A dict is read there without one.
    """
    answers: dict[tuple[Any, ...], Any] = {}

    @functools.wraps(function)
    def ask(*key: Any) -> Any:
        try:
            return answers[key]
        except KeyError:
            pass
        if len(answers) >= _MOST:
            answers.clear()
        answer = answers[key] = function(*key)
        return answer

    return ask  # type: ignore[return-value]


remember: Callable[[F], F] = functools.lru_cache(maxsize=_MOST)  # type: ignore[assignment]
if not getattr(sys, "_is_gil_enabled", lambda: True)():
    remember = without_lock
