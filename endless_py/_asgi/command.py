"""python -m endless_py asgi MODULE:APPLICATION: uvicorn, reloadable and drained."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress

from endless_py import _api as control
from endless_py._asgi.around import Forwarded, Logged
from endless_py._asgi.by_uvicorn import serve_uvicorn
from endless_py._asgi.options import parse
from endless_py._reload import process
from endless_py._workers.members import WorkerFailed
from endless_py._workers.whole import run_workers
from endless_py._wsgi import prepare
from endless_py.exceptions import EndlessError, HealthError

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Sequence


def main(words: Sequence[str]) -> int:
    """Serve until told to stop; the exit status: 1 when it cannot serve, 2 for wrong arguments."""
    options = parse(words)
    return prepare.run("asgi", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        if error.name != "uvicorn":
            raise
        missing = "uvicorn is not there: python3 -m pip install 'endless-py[asgi]'"
        raise prepare.Wrong(missing) from None
    directory = prepare.enter(options)
    trust, binds = prepare.trust_and_addresses(options, directory)
    application = prepare.application(options.application)
    log = prepare.access_log(options, directory)
    if log is not None:
        application = Logged(application, log)
    application = Forwarded(application, trust)
    where = " and ".join(address.text for address in binds)
    try:
        config = _config(uvicorn, application, options, prepare.tls(options, directory))
        _load(config, options)
        addresses = [address.resolve()[1] for address in binds]
        prepare.watch(options, directory)
        control.on_ready(lambda: _say(options))
        return _serve(config, addresses, options, directory)
    except (HealthError, WorkerFailed) as error:
        raise prepare.Wrong(str(error)) from None
    except (OSError, EndlessError, ValueError) as error:
        raise prepare.cannot(error, options, where) from None


def _config(uvicorn: Any, application: Any, options: argparse.Namespace, tls: Any) -> Any:
    return uvicorn.Config(
        application,
        loop="asyncio",
        http=options.http,
        ws=options.ws,
        ws_max_size=options.ws_max_size,
        lifespan=options.lifespan,
        interface="asgi3",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        root_path=options.root_path,
        limit_concurrency=options.limit_concurrency,
        backlog=options.backlog,
        timeout_keep_alive=options.keep_alive,
        headers=[] if options.keep_alive else [("connection", "close")],
        ssl_certfile=tls.get("certfile"),
        ssl_keyfile=tls.get("keyfile"),
    )


def _load(config: Any, options: argparse.Namespace) -> None:
    from uvicorn.importer import ImportFromStringError

    try:
        config.load()
    except (ImportError, KeyError, ImportFromStringError) as error:
        kinds = f"--http {options.http} or --ws {options.ws}"
        raise prepare.Wrong(f"uvicorn cannot load what {kinds} names: {error}") from None


def _serve(config: Any, addresses: list[Any], options: Any, directory: str) -> int:
    delay = {} if options.stop_delay is None else {"stop_delay": options.stop_delay}

    def serve() -> None:
        serving = serve_uvicorn(
            config,
            addresses,
            health=options.health,
            backlog=options.backlog,
            drain_timeout=options.graceful_timeout,
            pid_file=prepare.within(directory, options.pid_file),
            **delay,
        )
        asyncio.run(serving)

    try:
        with suppress(KeyboardInterrupt):
            run_workers(serve, options.workers)
    except SystemExit as error:
        if error.code != 3:  # uvicorn's own for this
            raise
        failed = f"the start-up of {options.application} has failed; the lines above say why"
        raise prepare.Wrong(failed) from None
    return 0


def _say(options: argparse.Namespace) -> None:
    listeners = process.current.listeners.all
    bindings = [listener.binding for listener in listeners if not listener.beside]
    addresses = [binding.address for binding in bindings if binding is not None]
    prepare.say(options.application, addresses, "https" if options.certfile else "http")
