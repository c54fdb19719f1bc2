"""An ASGI application: every answer names generation and pid; what it is told is printed.

/slow?SECONDS waits before its end, /hang answers when ./go is there, and touches ./hangs. A
WebSocket says hello, and then what it is told, with the generation before it. Where ./broken is
there the start-up fails.
"""

import asyncio
import os
import pathlib

import endless_py


async def answer(path):
    if path.startswith("/slow?"):
        await asyncio.sleep(float(path.partition("?")[2]))
    if path == "/hang":
        pathlib.Path("hangs").touch()
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        print("hangs no more", flush=True)
    return f"{endless_py.generation()} {os.getpid()} end"


async def lifespan(receive, send):
    await receive()
    if os.path.exists("broken"):
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        return
    await asyncio.sleep(0.05)
    print("start-up done", flush=True)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("shutdown", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def websocket(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "hello"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            print(f"disconnect {message.get('code')}", flush=True)
            return
        text = f"{endless_py.generation()} {message['text']}"
        await send({"type": "websocket.send", "text": text})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(receive, send)
    else:
        query = scope["query_string"].decode()
        body = (await answer(scope["path"] + ("?" + query if query else ""))).encode()
        if scope["path"].endswith("/scope"):
            client = scope["client"] or ("",)
            body = f"{scope['scheme']} {client[0]} {scope['root_path']}".encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def make(name="none"):
    """The same by a factory."""
    print(f"made {name}", flush=True)
    return app
