"""clients.py KIND PORT SECONDS: a client in a process of its own; writes what it saw as JSON.

tcp, udp    echoes by a server, four under way at any time; writes how many came in a second
latency     a new connection every 2 ms; writes an empty line once it has had an answer, and at its
            end [moment (time.monotonic), seconds, pid] of each
every       the same, whatever happens: of one that fails the pid is null
crowd       a new connection every millisecond, however many are under way; writes an empty line
            when it begins, and at its end the seconds that each answer took, null where none came
"""

import asyncio
import collections
import http.client
import json
import socket
import sys
import time

UNDER_WAY = 4  # fewer than the backlog of socketserver, which is five
INTERVAL = 0.002
CROWD_INTERVAL, PATIENCE = 0.001, 10.0  # seconds
LINE = b"x" * 63 + b"\n"


def tcp(port, seconds):
    open_, done = collections.deque(), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        while len(open_) < UNDER_WAY:
            client = socket.socket()
            client.connect(("127.0.0.1", port))
            client.send(LINE)
            open_.append(client)
        client = open_.popleft()
        if client.recv(100) != LINE:
            raise SystemExit("the echo is wrong")
        client.close()
        done += 1
    return done / seconds


def udp(port, seconds):
    done = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect(("127.0.0.1", port))
        for _ in range(UNDER_WAY):
            client.send(LINE)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if client.recv(100) != LINE:
                raise SystemExit("the echo is wrong")
            client.send(LINE)
            done += 1
    return done / seconds


def every(port, seconds):
    return latency(port, seconds, (OSError, ValueError, http.client.HTTPException))


def latency(port, seconds, forgiven=()):
    found = []
    due = time.monotonic()
    end = due + seconds
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        start = time.monotonic()
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            client.request("GET", "/")
            pid = int(client.getresponse().read())
        except forgiven:
            pid = None
        client.close()
        found.append([start, time.monotonic() - start, pid])
        if len(found) == 1:
            print(flush=True)
        due = max(due + INTERVAL, start)
    return found


async def ask_once(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.read()
    finally:
        writer.close()


async def one_of_many(port):
    start = time.monotonic()
    try:
        answered = await asyncio.wait_for(ask_once(port), PATIENCE)
    except (OSError, asyncio.TimeoutError):
        answered = False
    return time.monotonic() - start if answered else None


async def many(port, seconds):
    tasks, due = [], time.monotonic()
    end = due + seconds
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.ensure_future(one_of_many(port)))
        due += CROWD_INTERVAL
    return await asyncio.gather(*tasks)


def crowd(port, seconds):
    print(flush=True)
    return asyncio.run(many(port, seconds))


if __name__ == "__main__":
    kind, port, seconds = sys.argv[1:4]
    print(json.dumps(globals()[kind](int(port), float(seconds))))
