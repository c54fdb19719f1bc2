import asyncio

import endless_py


async def handle(reader, writer):
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    except ConnectionError:
        pass  # the client has gone
    finally:
        writer.close()


asyncio.run(
    endless_py.serve_asyncio(
        lambda listener: asyncio.start_server(handle, sock=listener), ("127.0.0.1", 8000)
    )
)
