"""Serves, in this process or with front ends, until a signal."""

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import NoReturn

import structlog

from service import __version__
from service.frontends.count import front_end_count
from service.frontends.supervisor import Supervisor
from service.http.middleware.local_key import LocalKey, is_loopback
from service.http.server.listeners import bind, bind_shared
from service.runtime.allocator import freeze_garbage_collector, return_large_blocks
from service.settings import Settings, unknown_variables
from service.telemetry.log import configure_log, is_text
from service.telemetry.log_output import LogOutput
from service.telemetry.terminal import greeting

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Where to reach a server on this machine that listens on every address."""
LOG_SECONDS = 2.0
"""Time to write the last lines of the log."""


def serve(settings: Settings) -> int:
    """Serve until a signal; return the exit status."""
    return_large_blocks()
    output = configure_log(settings.log_format, settings.log_level)
    count = front_end_count(settings)
    return _serve_with(count, settings, output) if count else _serve_alone(settings, output)


def _serve_alone(settings: Settings, output: LogOutput | None) -> int:
    """Serve in this process; only then import what serves."""
    from service.app import create_app  # noqa: PLC0415
    from service.engine.engine import CLOSE_SECONDS, Engine  # noqa: PLC0415
    from service.http.server.server import Server  # noqa: PLC0415

    with ExitStack() as sockets:
        listeners = [sockets.enter_context(bind(settings.host, each)) for each in _ports(settings)]
        settings = _with_ports(settings, listeners)
        engine = Engine.from_settings(settings)
        asgi = create_app(settings, engine).asgi
        _announce(settings)
        if output is not None:
            output.on_drop = engine.metrics.server.log_line_dropped
        freeze_garbage_collector()
        server = Server(asgi, engine.admission, engine.metrics.server, settings)
        server.run(sockets=listeners)
        ended = engine.devices.close(CLOSE_SECONDS)
    if not ended:
        structlog.get_logger().warning("threads_left", seconds=CLOSE_SECONDS)
    structlog.get_logger().info("stopped")
    if output is not None:
        output.finish(CLOSE_SECONDS)
    if not ended:
        _exit_now(0)
    return 0


def _serve_with(front_ends: int, settings: Settings, output: LogOutput | None) -> int:
    """Serve with front ends and an engine, which are processes of their own."""
    with ExitStack() as sockets:
        ports = [bind_shared(settings.host, each, front_ends) for each in _ports(settings)]
        for listener in (each for port in ports for each in port):
            sockets.enter_context(listener)
        settings = _with_ports(settings, [port[0] for port in ports])
        local_key = None
        if settings.api_keys_file is None and is_loopback(settings.host):
            local_key = LocalKey(settings.local_key_file, settings.port)
        _announce(settings)
        with local_key.written() if local_key else nullcontext():
            token = None if local_key is None else local_key.token
            supervisor = Supervisor([*zip(*ports, strict=True)], _given(settings), token)
            status = supervisor.run()
    if status == 0:
        structlog.get_logger().info("stopped")
    if output is not None:
        output.finish(LOG_SECONDS)
    return status


def _ports(settings: Settings) -> list[int]:
    return [each for each in (settings.port, settings.metrics_port) if each is not None]


def _with_ports(settings: Settings, listeners: Sequence[socket.socket]) -> Settings:
    """Return the settings with the ports that were bound, where any free one was asked for."""
    bound = [each.getsockname()[1] for each in listeners]
    return settings.model_copy(update=dict(zip(("port", "metrics_port"), bound, strict=False)))


def _given(settings: Settings) -> dict[str, object]:
    """Return the settings that are not, or not as they are, in the environment."""
    given = {
        "host": settings.host,
        "port": settings.port,
        "model_repository": str(settings.model_repository),
    }
    if settings.metrics_port is not None:
        given["metrics_port"] = settings.metrics_port
    return given


def _announce(settings: Settings) -> None:
    """Report the addresses, and variables that are usually misspelt."""
    for name in unknown_variables():
        structlog.get_logger().warning("unknown_variable", name=name)
    if is_text(settings.log_format) and sys.stderr.isatty():
        print(greeting(__version__, _places(settings), colors=True), file=sys.stderr)  # noqa: T201
    else:
        ports = {"port": settings.port}
        if settings.metrics_port is not None:
            ports["metrics_port"] = settings.metrics_port
        structlog.get_logger().info("listening", host=settings.host, **ports, version=__version__)


def _exit_now(status: int) -> NoReturn:
    """End the process at once: a thread in ONNX Runtime would abort a normal exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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
