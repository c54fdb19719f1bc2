"""custom.py FOLDER: runs the code in FOLDER/code with `folder` and the usual names imported."""

import os
import pathlib
import signal
import socket
import sys
import threading
import time

import endless_py
from endless_py import socketserver
from endless_py.http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

folder = pathlib.Path(sys.argv[1])
NAMES = os, signal, socket, threading, time, socketserver, HTTPServer, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        current = endless_py.state()
        data = f"{current['generation']} {current['pid']} {os.getpid()} end".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:1])
        if self.path == "/slow":
            (folder / "slow").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)
        self.wfile.write(data[1:])

    def log_message(self, *_):
        pass


class ForkingHTTPServer(endless_py.ForkingMixIn, HTTPServer):
    pass


class ReusingHTTPServer(ThreadingHTTPServer):
    reuse_threads = True


exec(compile((folder / "code").read_text(), "code", "exec"))
