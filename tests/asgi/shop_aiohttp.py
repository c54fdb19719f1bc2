"""The same for aiohttp, without WebSockets."""

from aiohttp import web
from shop_asgi import answer


async def handle(request):
    return web.Response(text=await answer(request.path_qs))


async def startup(app):
    print("start-up done", flush=True)


async def cleanup(app):
    print("shutdown", flush=True)


app = web.Application()
app.router.add_get("/{rest:.*}", handle)
app.on_startup.append(startup)
app.on_cleanup.append(cleanup)
