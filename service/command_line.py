"""The command line: `vt-serve`."""

import argparse
import gc
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

import structlog

from service import __version__
from service.api_keys import SCOPES, Scope, new_key
from service.app import create_app
from service.engine.engine import CLOSE_SECONDS
from service.errors import InvalidConfiguration
from service.http.server.server import Server, bind
from service.runtime.allocator import return_large_blocks
from service.settings import Settings, read_settings, unknown_variables
from service.telemetry.log import configure_log, is_text
from service.telemetry.terminal import greeting

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Where to reach a server on this machine that listens on every address."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    try:
        return _act(vars(_parser().parse_args(arguments)))
    except InvalidConfiguration as error:
        print(f"vt-serve: {error}", file=sys.stderr)  # noqa: T201
        return 2


def _act(flags: dict[str, Any]) -> int:
    name, scopes = flags.pop("new_key"), flags.pop("scope")
    if name is not None:
        return _make_key(name, scopes or ["predict"])
    if scopes:
        raise InvalidConfiguration("--scope is only valid with --new-key.")
    return _serve(read_settings(flags))


def _make_key(name: str, scopes: Sequence[Scope]) -> int:
    """Print a new key; only the lines for the file of keys go to standard output."""
    token, lines = new_key(name, scopes)
    print(f"The new key, shown only once: {token}", file=sys.stderr)  # noqa: T201
    print(lines, end="")  # noqa: T201
    return 0


def _serve(settings: Settings) -> int:
    return_large_blocks()
    output = configure_log(settings.log_format, settings.log_level)
    log = structlog.get_logger()
    with ExitStack() as sockets:
        listeners = [sockets.enter_context(bind(settings.host, settings.port))]
        settings = settings.model_copy(update={"port": listeners[0].getsockname()[1]})
        if settings.metrics_port is not None:
            listeners.append(sockets.enter_context(bind(settings.host, settings.metrics_port)))
            metrics_port = listeners[-1].getsockname()[1]
            settings = settings.model_copy(update={"metrics_port": metrics_port})
        app = create_app(settings)
        for name in unknown_variables():
            log.warning("unknown_variable", name=name)
        if is_text(settings.log_format) and sys.stderr.isatty():
            print(greeting(__version__, _places(settings), colors=True), file=sys.stderr)  # noqa: T201
        else:
            log.info("listening", **_addresses(listeners), version=__version__)
        engine, asgi = app.state.engine, app.asgi
        if output is not None:
            output.on_drop = engine.metrics.server.log_line_dropped
        _freeze_garbage_collector()
        Server(asgi, engine.admission, engine.metrics.server, settings).run(sockets=listeners)
        ended = engine.devices.close(CLOSE_SECONDS)
    if not ended:
        log.warning("threads_left", seconds=CLOSE_SECONDS)
    log.info("stopped")
    if output is not None:
        output.finish(CLOSE_SECONDS)
    if not ended:
        _exit_now(0)
    return 0


def _exit_now(status: int) -> NoReturn:
    """End the process at once: a thread in ONNX Runtime would abort a normal exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _freeze_garbage_collector() -> None:
    """Exclude what is loaded by now from garbage collection, which stops every thread.

    Models are loaded later and are collected as usual.
    """
    gc.collect()
    gc.freeze()


def _addresses(listeners: Sequence[socket.socket]) -> dict[str, str | int]:
    """Return the addresses to log; the second listener, if any, is the metrics port."""
    host, port = listeners[0].getsockname()[:2]
    addresses = {"host": host, "port": port}
    if len(listeners) > 1:
        addresses["metrics_port"] = listeners[1].getsockname()[1]
    return addresses


def _places(settings: Settings) -> dict[str, str]:
    """Return what a person may want to open, by name."""
    scheme = "http" if settings.tls_certificate is None else "https"
    host = ANY_ADDRESS.get(settings.host, settings.host)
    base = f"{scheme}://{f'[{host}]' if ':' in host else host}"
    metrics_port = settings.port if settings.metrics_port is None else settings.metrics_port
    return {
        "Playground" if settings.playground else "Service": f"{base}:{settings.port}/",
        "API docs": f"{base}:{settings.port}/docs",
        "Metrics": f"{base}:{metrics_port}/metrics",
        "Models": f"loading from {settings.model_repository}",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vt-serve",
        description="Serve the models of a model repository over HTTP.",
        epilog="Every setting is also a VT_* environment variable; see docs/configuration.md.",
    )
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (default: 8000); 0 picks a free port")
    parser.add_argument("--model-repository", help="folder of models (default: weights)")
    parser.add_argument("--new-key", metavar="NAME", help="create an API key, print it and exit")
    parser.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        help="scope of the new key (default: predict); may be repeated",
    )
    parser.add_argument("--version", action="version", version=f"vt-serve {__version__}")
    return parser
