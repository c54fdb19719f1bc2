import asyncio

import endless_py


async def serve():
    loop, draining, active = asyncio.get_running_loop(), asyncio.Event(), set()

    async def handle(reader, writer):
        active.add(asyncio.current_task())
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        active.discard(asyncio.current_task())

    listener = endless_py.listen(
        ("127.0.0.1", 8000), on_drain=lambda: loop.call_soon_threadsafe(draining.set)
    )
    server = await asyncio.start_server(handle, sock=listener)
    endless_py.ready()
    await draining.wait()
    loop.remove_reader(listener)  # close() would cut what was accepted a moment ago
    for _ in range(10):
        await asyncio.sleep(0)  # a turn of the loop: what was accepted gets its handler
    while active:
        await asyncio.wait(active)
    server.close()


asyncio.run(serve())
