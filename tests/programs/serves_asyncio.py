"""serves_asyncio.py FOLDER KIND: HTTP by asyncio.start_server, uvicorn or hypercorn.

Every answer names generation and pid. /slow?SECONDS waits before its end, /hang answers when
FOLDER/go is there, and touches FOLDER/hangs. FOLDER/code is run before.
"""

import asyncio
import contextlib
import os
import pathlib
import sys

import endless_py

folder = pathlib.Path(sys.argv[1])
drain_timeout = 20
exec(compile((folder / "code").read_text(), "code", "exec"))


async def body(path):
    if path.startswith("/slow?"):
        await asyncio.sleep(float(path.partition("?")[2]))
    if path == "/hang":
        (folder / "hangs").touch()
        while not (folder / "go").exists():
            await asyncio.sleep(0.01)
    return f"{endless_py.generation()} {os.getpid()} end".encode()


async def app(scope, receive, send):
    if scope["type"] != "http":  # lifespan
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    query = scope["query_string"].decode()
    data = await body(scope["path"] + ("?" + query if query else ""))
    headers = [(b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def handle(reader, writer):
    try:
        line = await reader.readline()
        while line and await reader.readline() not in (b"", b"\r\n"):
            pass
        if line:
            data = await body(line.split()[1].decode())
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def by_asyncio():
    return {"serve": lambda listener: asyncio.start_server(handle, sock=listener)}


def by_uvicorn():
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, loop="asyncio", log_level="warning"))
    server.capture_signals = contextlib.nullcontext  # it would handle TERM
    return {
        "serve": lambda listener: server.serve(sockets=[listener]),
        "stop": lambda: setattr(server, "should_exit", True),
    }


def by_hypercorn():
    from hypercorn.asyncio.run import worker_serve
    from hypercorn.config import Config, Sockets
    from hypercorn.utils import wrap_app

    config, stopping = Config(), asyncio.Event()
    config.errorlog = None
    config.graceful_timeout = drain_timeout + 60  # or it would cut, at the same time
    wrapped = wrap_app(app, config.wsgi_max_body_size, None)
    return {
        "serve": lambda listener: worker_serve(
            wrapped, config, sockets=Sockets([], [listener], []), shutdown_trigger=stopping.wait
        ),
        "stop": stopping.set,
    }


async def main():
    how = {"asyncio": by_asyncio, "uvicorn": by_uvicorn, "hypercorn": by_hypercorn}[sys.argv[2]]
    await endless_py.serve_asyncio(
        address=("127.0.0.1", 0), drain_timeout=drain_timeout, keep_pid=False, **how()
    )


asyncio.run(main())
print("cleaned up", flush=True)
