"""echo_servers.py CONFIG: several servers in one process, described by a JSON file.

CONFIG is read at every start, so a changed file is what new code is to a real program. It
lists servers: class (a name of endless_py), address, and, where wanted, family, backlog, http,
by_hand (bind and activate by hand). The first is served by the main thread, each other by a
thread of its own. Every answer names the generation, the pid, the server and what was asked.
"""

import json
import os
import socket
import sys
import threading
import time

import endless_py
from endless_py import socketserver
from endless_py._reload import process


def answer(server, text):
    word, _, rest = text.partition(" ")
    if word == "slow":
        time.sleep(float(rest))
    number = process.current.generation
    return json.dumps({"generation": number, "pid": os.getpid(), "name": server.name, "text": text})


class StreamHandler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            text = line.decode().rstrip("\n")
            self.wfile.write(answer(self.server, text).encode() + b"\n")
            return


class DatagramHandler(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        sock.sendto(answer(self.server, data.decode()).encode(), self.client_address)


def make(entry):
    cls = getattr(endless_py, entry["class"])
    address = entry["address"]
    address = tuple(address) if isinstance(address, list) else address
    attributes = {"name": entry.get("name", entry["class"]), "allow_reuse_address": True}
    if "family" in entry:
        attributes["address_family"] = getattr(socket, entry["family"])
    if "backlog" in entry:
        attributes["request_queue_size"] = entry["backlog"]
    if entry.get("v6only"):

        def server_bind(self):
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            super(kind, self).server_bind()

        attributes["server_bind"] = server_bind
    kind = type(entry["class"], (cls,), attributes)
    handler = DatagramHandler if issubclass(cls, socketserver.UDPServer) else StreamHandler
    if not entry.get("by_hand"):
        return kind(address, handler)
    server = kind(address, handler, bind_and_activate=False)
    server.server_bind()
    server.server_activate()
    return server


with open(sys.argv[1], encoding="utf-8") as file:
    servers = [make(entry) for entry in json.load(file)]
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
with servers[0]:
    servers[0].serve_forever()
