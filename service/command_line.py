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
from service.telemetry.log import configure_log


def run(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; return the exit status."""
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
        raise InvalidConfiguration("--scope belongs to --new-key.")
    return _serve(read_settings(flags))


def _make_key(name: str, scopes: Sequence[Scope]) -> int:
    """Show a new key; standard output gets only what belongs into the file."""
    token, lines = new_key(name, scopes)
    print(f"The key, which is shown only now: {token}", file=sys.stderr)  # noqa: T201
    print(lines, end="")  # noqa: T201
    return 0


def _serve(settings: Settings) -> int:
    return_large_blocks()
    configure_log(settings.log_format, settings.log_level)
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
        log.info("listening", **_addresses(listeners), version=__version__)
        engine = app.state.engine
        _spare_the_collector()
        Server(app.asgi, engine.admission, engine.metrics.server, settings).run(sockets=listeners)
        ended = engine.devices.close(CLOSE_SECONDS)
    if not ended:
        log.warning("threads_left", seconds=CLOSE_SECONDS)
    log.info("stopped")
    if not ended:
        _leave(0)
    return 0


def _leave(status: int) -> NoReturn:
    """End the process here and now: a thread in ONNX Runtime would abort the interpreter's end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _spare_the_collector() -> None:
    """Let it look no more at what stays anyway: no thread runs while it does.

    Models come later and are collected as ever when they go.
    """
    gc.collect()
    gc.freeze()


def _addresses(listeners: Sequence[socket.socket]) -> dict[str, str | int]:
    """What the log says of where the server listens: the metrics' own port is the second."""
    host, port = listeners[0].getsockname()[:2]
    addresses = {"host": host, "port": port}
    if len(listeners) > 1:
        addresses["metrics_port"] = listeners[1].getsockname()[1]
    return addresses


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vt-serve",
        description="Serve the models of a model repository over HTTP.",
        epilog="Every setting is also a VT_* environment variable: docs/configuration.md.",
    )
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (8000); 0 takes a free one")
    parser.add_argument("--model-repository", help="folder of models (weights)")
    parser.add_argument("--new-key", metavar="NAME", help="make an API key, print it, and exit")
    parser.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        help="what the new key is for (predict); may be given twice",
    )
    parser.add_argument("--version", action="version", version=f"vt-serve {__version__}")
    return parser
