"""Clients that know on which connection a request was lost."""

from __future__ import annotations

import http.client
import threading
import time

from harness import PAUSE, TIMEOUT, connect


class Loss:
    """A request without its answer; port is the client's, 0 when there was no connection.

    opened and when (time.monotonic) are the connection's begin and the loss.
    """

    def __init__(self, kind: str, error: Exception, port: int, opened: float) -> None:
        self.kind, self.error, self.port = kind, error, port
        self.opened, self.when = opened, time.monotonic()

    def __str__(self) -> str:
        return f"{self.kind} (port {self.port}): {self.error!r}"


class Clients:
    """The mixed load: each client is a thread that asks until the end of the block."""

    def __init__(self, port: int, patience: float = TIMEOUT) -> None:
        self.port = port
        self.patience = patience
        self.served = 0
        self.lost: list[Loss] = []
        self.closed = 0  # kept connections that the server closed, each time with a word
        self._count = threading.Lock()
        self._stopping = threading.Event()
        kinds = [self._new, self._waiting, self._slow, self._kept, self._idle]
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in kinds]

    def _run(self, kind) -> None:
        while not self._stopping.is_set():
            connection = connect(self.port)
            connection.timeout = self.patience
            port, opened = 0, time.monotonic()
            try:
                connection.connect()
                port = connection.sock.getsockname()[1]
                kind(connection)
            except Exception as error:
                self.lost.append(Loss(kind.__name__[1:], error, port, opened))
            finally:
                connection.close()
            self._stopping.wait(PAUSE)

    def _ask(self, connection: http.client.HTTPConnection, path: str = "/") -> bool:
        """Return whether the connection is kept."""
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200 or not body.endswith(b"end"):
            raise AssertionError(f"{response.status} {body!r}")
        with self._count:
            self.served += 1
            self.closed += response.will_close
        return not response.will_close

    def _new(self, connection: http.client.HTTPConnection) -> None:
        self._ask(connection)

    def _waiting(self, connection: http.client.HTTPConnection) -> None:
        self._stopping.wait(0.05)
        self._ask(connection)

    def _slow(self, connection: http.client.HTTPConnection) -> None:
        self._ask(connection, "/slow?0.15")

    def _kept(self, connection: http.client.HTTPConnection) -> None:
        while self._ask(connection) and not self._stopping.wait(PAUSE):
            pass

    def _idle(self, connection: http.client.HTTPConnection) -> None:
        while self._ask(connection) and not self._stopping.wait(0.1):
            pass

    def wait_served(self, more: int) -> None:
        """Wait until so many more answers have come."""
        wanted, deadline = self.served + more, time.monotonic() + TIMEOUT
        while self.served < wanted:
            assert time.monotonic() < deadline, f"no answers; lost: {list(map(str, self.lost))}"
            time.sleep(0.002)

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(TIMEOUT)
