"""asyncio_server.py FOLDER [beside]: an asyncio server, alone or beside a ThreadingHTTPServer.

Its clients send lines; each is answered with the generation, the pid and the number of
connections that this process accepted. FOLDER/code is run before.
"""

import asyncio
import os
import pathlib
import sys
import threading

import endless_py
from endless_py.http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder = pathlib.Path(sys.argv[1])
exec(compile((folder / "code").read_text(), "code", "exec"))


async def answer(reader, writer):
    while await reader.readline():
        writer.write(f"{endless_py.generation()} {os.getpid()}\n".encode())
        await writer.drain()
    writer.close()


async def serve():
    loop, draining = asyncio.get_running_loop(), asyncio.Event()
    active = set()

    async def handle(reader, writer):
        active.add(asyncio.current_task())
        try:
            await answer(reader, writer)
        finally:
            active.discard(asyncio.current_task())

    listener = endless_py.listen(
        ("127.0.0.1", 0),
        on_drain=lambda: loop.call_soon_threadsafe(draining.set),
        drain_timeout=globals().get("drain_timeout", 20),
        keep_pid=globals().get("keep_pid", False),
    )
    server = await asyncio.start_server(handle, sock=listener)
    endless_py.ready()
    await draining.wait()
    loop.remove_reader(listener)  # close() would cut what was accepted a moment ago
    for _ in range(10):
        await asyncio.sleep(0)  # a turn of the loop; after some of them that has its handler
    while active:
        await asyncio.wait(active)
    server.close()
    endless_py.drained()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{endless_py.generation()} {os.getpid()} end".encode())

    def log_message(self, *_):
        pass


if "beside" in sys.argv:
    beside = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=beside.serve_forever).start()
asyncio.run(serve())
print("cleaned up", flush=True)
