import asyncio
import os

import endless_py


async def handle(reader, writer):
    try:
        while await reader.readline():
            writer.write(f"pid {os.getpid()}\n".encode())
            await writer.drain()
    except ConnectionError:
        pass  # the client has gone
    finally:
        writer.close()


async def serve():
    await endless_py.serve_asyncio(
        lambda listener: asyncio.start_server(handle, sock=listener), ("127.0.0.1", 8000)
    )


endless_py.run_workers(lambda: asyncio.run(serve()), 3)
