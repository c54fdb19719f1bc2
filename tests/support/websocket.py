"""A client for WebSockets that knows what the tests need: short texts, and the end."""

from __future__ import annotations

import os
import socket
import struct

from harness import TIMEOUT


class WebSocketClient:
    def __init__(self, port: int, path: str = "/") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(
            b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            % path.encode()
        )
        status = self._file.readline()
        assert status.startswith(b"HTTP/1.1 101"), status
        while self._file.readline().strip():
            pass

    def _frame(self, opcode: int, data: bytes) -> None:
        assert len(data) < 126
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
        self._socket.sendall(bytes([0x80 | opcode, 0x80 | len(data)]) + mask + masked)

    def send(self, text: str) -> None:
        self._frame(1, text.encode())

    def close(self, code: int) -> None:
        self._frame(8, struct.pack("!H", code))

    def receive(self) -> str | int | None:
        """Return a text, the code of a close, or None where the connection merely ended."""
        while True:
            head = self._file.read(2)
            if len(head) < 2:
                return None
            data = self._file.read(head[1])
            if head[0] & 15 == 1:
                return data.decode()
            if head[0] & 15 == 8:
                return struct.unpack("!H", data[:2])[0]
            assert head[0] & 15 == 9, head  # a ping

    def __enter__(self) -> WebSocketClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()
