"""The command line: `vt-serve`."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from service import __version__
from service.api_keys import SCOPES, Scope, new_key
from service.errors import InvalidConfiguration
from service.serve import serve
from service.settings import read_settings


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
    return serve(read_settings(flags))


def _make_key(name: str, scopes: Sequence[Scope]) -> int:
    """Print a new key; only the lines for the file of keys go to standard output."""
    token, lines = new_key(name, scopes)
    print(f"The new key, shown only once: {token}", file=sys.stderr)  # noqa: T201
    print(lines, end="")  # noqa: T201
    return 0


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
