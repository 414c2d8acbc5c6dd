"""Entry point of `vt-export` and `python -m model_export`."""

import sys
from collections.abc import Sequence

from model_export.commands.parser import parser
from model_export.errors import ExportError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except ExportError as error:
        return _failed(error, error.exit_status)
    except OSError as error:
        return _failed(error, ExportError.exit_status)
    except KeyboardInterrupt:
        return 130
    return 0


def _failed(error: Exception, status: int) -> int:
    print(f"vt-export: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
