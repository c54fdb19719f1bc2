"""python -m endless_py wsgi MODULE:APPLICATION: serves a WSGI application, and is reloadable."""

from __future__ import annotations

import argparse
import threading
from contextlib import ExitStack, suppress

from endless_py._reload import process
from endless_py._reload.settings import replacing
from endless_py._workers.members import WorkerFailed
from endless_py._workers.whole import run_workers
from endless_py._wsgi import prepare
from endless_py._wsgi.address import Address
from endless_py._wsgi.handler import Service
from endless_py._wsgi.head import Limits
from endless_py._wsgi.options import parse
from endless_py._wsgi.server import make_server
from endless_py.exceptions import EndlessError, HealthError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence


def main(words: Sequence[str]) -> int:
    """Serve until told to stop; the exit status: 1 when it cannot serve, 2 for wrong arguments."""
    options = parse(words)
    return prepare.run("wsgi", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    directory = prepare.enter(options)
    trust, binds = prepare.trust_and_addresses(options, directory)
    application = prepare.application(options.application)
    service = Service(application, _limits(options), trust)
    service.keep_alive = options.keep_alive
    service.header_timeout, service.body_timeout = options.header_timeout, options.body_timeout
    service.multithread = options.threads > 1
    service.multiprocess = options.workers != 1
    service.access_log = prepare.access_log(options, directory)

    def serve() -> None:
        _serve(service, options, directory, binds)

    try:
        if len(binds) > 1:  # their threads run, when the workers are forked
            run_workers(serve, options.workers)
        else:
            serve()
    except (HealthError, WorkerFailed) as error:
        raise prepare.Wrong(str(error)) from None
    return 0


def _limits(options: argparse.Namespace) -> Limits:
    return Limits(
        options.limit_request_line,
        options.limit_request_fields,
        options.limit_request_field_size,
        options.limit_request_body,
    )


def _server(
    options: argparse.Namespace, directory: str, address: Address, tls: dict[str, Optional[str]]
) -> Any:
    settings = {
        "max_handlers": options.threads,
        "request_queue_size": options.backlog,
        "drain_timeout": options.graceful_timeout,
        "workers": options.workers if len(options.bind or ()) < 2 else 1,  # else all have them
        **replacing(options),
        "pid_file": prepare.within(directory, options.pid_file),
    }
    if options.stop_delay is not None:
        settings["stop_delay"] = options.stop_delay
    try:
        return make_server(address, settings, tls)
    except (OSError, EndlessError, ValueError) as error:
        raise prepare.cannot(error, options, address.text) from None


def _serve(
    service: Service, options: argparse.Namespace, directory: str, binds: list[Address]
) -> None:
    """Serve all addresses until all have drained."""
    tls = prepare.tls(options, directory)
    scheme = "https" if tls else "http"
    with ExitStack() as stack:
        servers = []
        for address in binds:
            server = _server(options, directory, address, tls)
            stack.enter_context(server)
            server.serve(service, scheme)
            servers.append(server)
        if options.health is not None:
            servers[0].health = options.health  # it serves in the main thread
        for server in servers[1:]:
            server.health = None
        if not process.current.worker:
            prepare.watch(options, directory)
            prepare.say(options.application, [server.server_address for server in servers], scheme)
        _serve_all(servers)


def _serve_all(servers: list[Any]) -> None:
    """Serve them all until all have drained."""
    if process.current.group is not None:
        process.current.group.begin()
    first, *others = servers
    threads = [
        threading.Thread(target=server.serve_forever, name=f"endless_py wsgi {number}")
        for number, server in enumerate(others, 1)
    ]
    for thread in threads:
        thread.start()
    with suppress(KeyboardInterrupt):
        first.serve_forever()
    for thread in threads:
        thread.join()
