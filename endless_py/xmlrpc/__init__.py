"""Mirror of the standard library's xmlrpc, as far as it has servers."""

TYPE_CHECKING = False  # true for checkers
if TYPE_CHECKING:
    from endless_py.xmlrpc import server as server
