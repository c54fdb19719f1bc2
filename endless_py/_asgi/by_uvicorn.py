"""uvicorn on our listeners: what has to be done to it for that."""

from __future__ import annotations

import contextlib

from endless_py._asgi.graceful import GracefulASGI
from endless_py._asyncio.serve import serve_asyncio

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Sequence, Union

    from endless_py._api import Address

_STARTUP_FAILURE = 3  # uvicorn's exit status for it


async def serve_uvicorn(
    config: Any, address: Union[Address, Sequence[Address]], **settings: Any
) -> None:
    """Serve with uvicorn, until it ends or this process has drained.

    config is an `uvicorn.Config` whose loop is "asyncio"; host, port, uds, fd and workers in it
    mean nothing here. address, a list of several too, and settings are those of `serve_asyncio()`.
    This process is ready when the application's start-up (its lifespan) is done; its shutdown
    begins when the drain is over.

    A client that keeps its connection is told `Connection: close` with its next response in a
    drain; one that stays silent for `keepalive_grace` (seconds, 5) is closed. A WebSocket lives
    on, and is closed with code 1012 (service restart) when `drain_timeout` is over, or at once by a
    second order to stop. Signals stay this package's: TERM drains.

    Raises OSError, PidFileError and ValueError as `listen()` does; SystemExit when the start-up
    fails, as uvicorn does.
    """
    import uvicorn

    server: Any = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # TERM and INT stay ours
    server.install_signal_handlers = lambda: None  # what it was before uvicorn 0.29
    if not config.loaded:
        config.load()
    config.loaded_app = GracefulASGI(config.loaded_app)
    websockets = getattr(config, "ws_protocol_class", None) or ()

    def serve(*listeners: Any) -> Any:
        return server.serve(sockets=list(listeners))

    def stop() -> None:
        server.should_exit = True

    def close_idle() -> None:
        for connection in list(server.server_state.connections):
            if not isinstance(connection, websockets):
                _shut(connection)

    def on_cut() -> None:
        for task in list(server.server_state.tasks):
            if server.should_exit:  # no connection is left: what runs on has no client
                task.cancel()
        server.should_exit = True
        for connection in list(server.server_state.connections):
            _shut(connection)

    await serve_asyncio(serve, address, stop=stop, close_idle=close_idle, on_cut=on_cut, **settings)
    if not server.started:  # as later versions do it by themselves
        raise SystemExit(_STARTUP_FAILURE)


def _shut(connection: Any) -> None:
    """Have it say goodbye: once, for uvicorn does so again at its own end, where that may raise."""
    # One may be about to end by itself, and none is to keep the others from being told.
    with contextlib.suppress(Exception):
        connection.shutdown()
        connection.shutdown = lambda: None
