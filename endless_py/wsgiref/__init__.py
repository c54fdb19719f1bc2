"""Mirror of the standard library's wsgiref, as far as it has servers."""

TYPE_CHECKING = False  # true for checkers
if TYPE_CHECKING:
    from endless_py.wsgiref import simple_server as simple_server
