"""Structured logs: one line per event, as JSON, or as text for a terminal."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import BinaryIO, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.schema.json import encode
from service.telemetry.log_output import LogOutput, LogText
from service.telemetry.terminal import TerminalLines


def configure_log(log_format: str, level: str) -> LogOutput | None:
    """Write the lines of structlog and of other libraries to standard error, in one format.

    Return the output; None if standard error is not a file of the system.
    """
    wrapper = structlog.make_filtering_bound_logger(level)
    try:
        output = LogOutput(sys.stderr.fileno())
    except OSError:
        output = None
    if is_text(log_format):
        _configure_console(wrapper, LogText(output) if output else sys.stderr)
    else:
        _configure_json(wrapper, output)
    return output


def is_text(log_format: str) -> bool:
    """Return whether lines are text for people: on request, and by default in a terminal."""
    return log_format == "console" or (log_format == "auto" and sys.stderr.isatty())


def _configure_json(
    wrapper: type[structlog.typing.FilteringBoundLogger], output: LogOutput | None
) -> None:
    structlog.configure(
        processors=[_json_line],
        wrapper_class=wrapper,
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", output or sys.stderr.buffer)),
        cache_logger_on_first_use=True,
    )
    _format_libraries([], _json_text, LogText(output) if output else sys.stderr)


def _json_line(_: WrappedLogger, level: str, fields: EventDict) -> bytes:
    """Return a line as JSON, with the fields of its context; combines all processors."""
    structlog.contextvars.merge_contextvars(None, level, fields)
    fields["level"] = level
    fields["timestamp"] = now = datetime.now(UTC)
    if "exc_info" in fields:
        structlog.processors.format_exc_info(None, level, fields)
    try:
        return encode(fields, repr)
    except TypeError:  # a file name that is not UTF-8, or a number of more than 64 bits
        fields["timestamp"] = f"{now:%Y-%m-%dT%H:%M:%S.%f}Z"
        return json.dumps(fields, default=repr).encode()


def _json_text(_: WrappedLogger, level: str, fields: EventDict) -> str:
    return _json_line(_, level, fields).decode()


def _configure_console(
    wrapper: type[structlog.typing.FilteringBoundLogger], output: LogText | TextIO
) -> None:
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
    ]
    renderer = TerminalLines(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[*common, renderer],
        wrapper_class=wrapper,
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", output)),
        cache_logger_on_first_use=True,
    )
    _format_libraries(common, renderer, output)


def _format_libraries(
    common: list[Processor], renderer: Processor, output: LogText | TextIO
) -> None:
    """Write the warnings of the libraries, which use the standard library's logging."""
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
