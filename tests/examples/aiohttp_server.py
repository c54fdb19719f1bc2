import asyncio

from aiohttp import web
from shop import app

import endless_py


async def last_of_its_connection(request, response):
    if endless_py.is_draining() and not isinstance(response, web.WebSocketResponse):
        response.headers["Connection"] = "close"
        response.force_close()


async def main():
    app.on_response_prepare.append(last_of_its_connection)
    runner, stopping = web.AppRunner(app, shutdown_timeout=40), asyncio.Event()

    async def serve(listener):
        await runner.setup()
        await web.SockSite(runner, listener).start()
        await stopping.wait()
        await runner.cleanup()

    await endless_py.serve_asyncio(serve, ("127.0.0.1", 8000), stop=stopping.set, drain_timeout=30)


asyncio.run(main())
