"""Mirror of the standard library's xmlrpc, as far as it has servers."""
