"""Mirror of the standard library's wsgiref, as far as it has servers."""
