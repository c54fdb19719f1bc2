"""ASGI: applications that tell their clients of a drain, and the command that serves them."""
