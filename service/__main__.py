"""The command line: `vt-serve`."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import structlog

from service import __version__
from service.api_keys import SCOPES, Scope, new_key
from service.app import create_app
from service.errors import InvalidConfiguration
from service.log import configure_log
from service.server import Server, bind
from service.settings import Settings, read_settings, unknown_variables


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; return the exit status."""
    try:
        return _run(vars(_parser().parse_args(arguments)))
    except InvalidConfiguration as error:
        print(f"vt-serve: {error}", file=sys.stderr)  # noqa: T201
        return 2


def _run(flags: dict[str, Any]) -> int:
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
    configure_log(settings.log_format, settings.log_level)
    app = create_app(settings)
    server = Server(app, app.state.parts.admission, app.state.parts.metrics, settings)
    listener = bind(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    log = structlog.get_logger()
    for name in unknown_variables():
        log.warning("unknown_variable", name=name)
    log.info("listening", host=host, port=port, version=__version__)
    server.run(sockets=[listener])
    log.info("stopped")
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
