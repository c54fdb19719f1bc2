import asyncio

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.run import worker_serve
from hypercorn.config import Config, Sockets
from shop import app

import endless_py


async def main():
    config, stopping = Config(), asyncio.Event()
    config.graceful_timeout = 40  # longer than the drain, or it would end that
    graceful = endless_py.GracefulASGI(app)

    def serve(listener):
        sockets, trigger = Sockets([], [listener], []), stopping.wait
        return worker_serve(
            ASGIWrapper(graceful), config, sockets=sockets, shutdown_trigger=trigger
        )

    await endless_py.serve_asyncio(
        serve,
        ("127.0.0.1", 8000),
        stop=stopping.set,
        on_cut=graceful.close_websockets,
        drain_timeout=30,
    )


asyncio.run(main())
