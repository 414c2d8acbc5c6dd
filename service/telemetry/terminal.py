"""Text for people at a terminal: the greeting, and short log lines."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

from service.schema.tasks import TASKS
from service.schema.vocabulary import Task

Fields = dict[str, Any]

BOLD, DIM = "1", "2"
LEVELS = {"debug": DIM, "info": "32", "warning": "33", "error": "31", "critical": "31"}
"""The colour of each level, as an ANSI code."""
METRICS = {"top1": "top-1", "miou": "mIoU"}
LEFT_OUT = ("client", "request_id", "trace_id")
"""Fields that connect lines with other systems; the JSON lines have them."""


def paint(code: str, text: str, *, colors: bool) -> str:
    """Return text between ANSI codes, if the terminal has colours."""
    return f"\x1b[{code}m{text}\x1b[0m" if colors else text


def greeting(version: str, lines: Mapping[str, str], *, colors: bool) -> str:
    """Return what a person needs to begin: the version, and a line for each name."""
    width = max(map(len, lines))
    return "\n".join(
        [
            "",
            f"  {paint(BOLD, f'vt-serve {version}', colors=colors)}",
            "",
            *(f"  {name:<{width}}  {line}" for name, line in lines.items()),
            "",
            f"  {paint(DIM, 'Press Ctrl+C to stop.', colors=colors)}",
            "",
        ]
    )


class TerminalLines:
    """Renders log lines as time, level and what happened."""

    def __init__(self, *, colors: bool) -> None:
        self._colors = colors

    def __call__(self, _: WrappedLogger, __: str, fields: EventDict) -> str:
        """Return the line of an event; a traceback follows it."""
        known = dict(structlog.processors.format_exc_info(None, "", fields))
        event, level, traceback = known.pop("event"), known.pop("level"), known.pop("exception", "")
        words = _WORDS.get(event, _words)(str(event), known)
        time = paint(DIM, f"{datetime.now().astimezone():%H:%M:%S}", colors=self._colors)
        line = f"{time} {paint(LEVELS[level], f'{level:<7}', colors=self._colors)} {words}"
        return f"{line}\n{traceback}" if traceback else line


def _request_words(_: str, fields: Fields) -> str:
    """`200 POST /v1/classify  13.2 ms  vt_resnet18`, then the error, if any."""
    first = f"{fields['status']} {fields['method']} {fields['route']}  {fields['duration_ms']} ms"
    rest = [fields[name] for name in ("model", "key", "error") if name in fields]
    return "  ".join([first, *map(_printable, rest)])


def _ready_words(_: str, fields: Fields) -> str:
    """`vt_resnet18 version 1 is ready: classification, int8 on CPU, 89.0 % top-1 (1.2 s)`."""
    provider = fields["execution_provider"].removesuffix("ExecutionProvider")
    facts = [fields["task"], f"{fields['precision']} on {provider}"]
    if fields["accuracy"] is not None:
        metric = METRICS[TASKS[Task(fields["task"])].metric]
        facts.append(f"{100 * fields['accuracy']:.1f} % {metric}")
    name = f"{fields['model']} version {fields['version']}"
    return f"{name} is ready: {', '.join(facts)} ({fields['seconds']:.1f} s)"


def _words(event: str, fields: Fields) -> str:
    pairs = [f"{name}={_printable(each)}" for name, each in fields.items() if name not in LEFT_OUT]
    return "  ".join([_printable(event.replace("_", " ")), *pairs])


def _printable(value: object) -> str:
    """Return text that cannot control the terminal."""
    text = str(value)
    return text if text.isprintable() else repr(text)


_WORDS: dict[str, Callable[[str, Fields], str]] = {
    "request": _request_words,
    "model_ready": _ready_words,
}
