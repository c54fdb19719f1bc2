"""What a server wants to be served beside it, while it is."""

from __future__ import annotations

from endless_py._reload import process, settings

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable


def serve_beside(base: type, server: Any, serve: Callable[[], object]) -> None:
    """Do serve(), with the listener for health checks that this server asks for.

    base is GracefulMixIn. Raises HealthError where nothing can listen there.
    """
    current = process.current
    if current.runs_main and current.worker:
        serve()  # its leader has that listener
    elif current.runs_main or settings.of(server).workers == 1:
        beside_it(base, server, serve)
    else:  # its thread may only be there once the workers are forked
        serve()


def beside_it(base: type, server: Any, serve: Callable[[], object]) -> None:
    """As `serve_beside()`, in the process that is to have that listener."""
    address = settings.health_address(server)
    if address is None:
        serve()
        return
    from endless_py._server import health  # few servers want it

    beside = process.current.beside
    beside.begin(address, lambda: health.begin(base, address, settings.of(server)))
    try:
        serve()
    finally:
        beside.end(address)
