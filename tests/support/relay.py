"""relay.py PORT RTT...: an artificial network in front of a port of 127.0.0.1.

Listens on one port for each round trip time (ms) and prints the ports on one line. Data, ends
(of either direction alone, too) and resets reach the other side half a round trip later. Runs
until its standard input ends, so that it does not outlive the test that started it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
from contextlib import suppress

NO_LINGER = struct.pack("ii", 1, 0)


class Side(asyncio.Protocol):
    """One of the two TCP connections; what it hears, its peer does after the delay (s)."""

    def __init__(self, delay: float, peer: Side | None = None):
        self.delay = delay
        self.peer = peer or Side(delay, self)
        self.transport: asyncio.Transport | None = None
        self.heard_end = self.said_end = False
        self.early: list[tuple] = []  # what is to be done before it is connected

    def connection_made(self, transport):
        self.transport = transport
        for action, arguments in self.early:
            action(*arguments)

    def do(self, action, *arguments):
        if self.transport is None:
            self.early.append((action, arguments))
        else:
            action(*arguments)

    def later(self, action, *arguments):
        # Timers run in the order of their times, so nothing overtakes anything.
        asyncio.get_running_loop().call_later(self.delay, self.peer.do, action, *arguments)

    def data_received(self, data):
        self.later(self.peer.say, data)

    def eof_received(self):
        self.heard_end = True
        self.later(self.peer.say_end)
        return not self.said_end

    def connection_lost(self, error):
        if error is not None:
            self.later(self.peer.reset)

    def say(self, data):
        if not self.transport.is_closing():
            self.transport.write(data)

    def say_end(self):
        self.said_end = True
        if self.heard_end:
            self.transport.close()
        elif not self.transport.is_closing():
            with suppress(OSError):  # the other side has reset it this moment
                self.transport.write_eof()

    def reset(self):
        if not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            self.transport.abort()

    def pause_writing(self):
        if self.peer.transport is not None and not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self):
        if self.peer.transport is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()


class Front(Side):
    """The client's side."""

    def __init__(self, delay: float, port: int):
        super().__init__(delay)
        self.port = port

    def connection_made(self, transport):
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        loop.call_later(self.delay, lambda: asyncio.ensure_future(self.connect()))

    async def connect(self):
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.peer, "127.0.0.1", self.port)
        except OSError:
            loop.call_later(self.delay, self.reset)


async def main(port: int, round_trips: list[float]) -> None:
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda d=rtt / 2000: Front(d, port), "127.0.0.1", 0, backlog=500)
        for rtt in round_trips
    ]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


class Relay:
    """The program, as a context manager: `ports` has one for each round trip (ms)."""

    def __init__(self, port: int, *round_trips: float):
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(port), *map(str, round_trips)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ports: list[int] = json.loads(self._process.stdout.readline())

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process.stdout.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), [float(word) for word in sys.argv[2:]]))
