"""Mirrors of the standard library's http package."""

TYPE_CHECKING = False  # true for checkers
if TYPE_CHECKING:
    from endless_py.http import server as server
