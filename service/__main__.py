"""Entry point: handles signals while the rest of the service is being imported."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    The first process of a container ignores SIGTERM unless it sets a handler, and the imports take
    most of a second.
    """
    before = {each: signal.signal(each, _end) for each in SIGNALS}
    try:
        from service.command_line import run  # noqa: PLC0415

        return run(arguments)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _end(_number: int, _frame: FrameType | None) -> None:
    """Exit at once: nothing that needs to be stopped has been started."""
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
