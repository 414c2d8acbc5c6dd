import re
from typing import Any

import pytest

from service.telemetry.terminal import TerminalLines, greeting

READY = {
    "event": "model_ready",
    "model": "streets",
    "version": "3",
    "task": "segmentation",
    "precision": "int8",
    "accuracy": 0.5346,
    "execution_provider": "CPUExecutionProvider",
    "seconds": 2.062,
}
REQUEST = {
    "event": "request",
    "method": "POST",
    "route": "/v1/classify",
    "status": 200,
    "duration_ms": 13.2,
    "model": "photos",
    "client": "127.0.0.1",
    "request_id": "r1",
}


def words(fields: dict[str, Any], level: str = "info") -> str:
    line = TerminalLines(colors=False)(None, level, {**fields, "level": level})
    _, said, what = re.fullmatch(r"(\d\d:\d\d:\d\d) (\w+) +(.+)", line, re.DOTALL).groups()
    assert said == level
    return what


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (READY, "streets version 3 is ready: segmentation, int8 on CPU, 53.5 % mIoU (2.1 s)"),
        (
            READY | {"task": "classification", "accuracy": None},
            "streets version 3 is ready: classification, int8 on CPU (2.1 s)",
        ),
        (REQUEST, "200 POST /v1/classify  13.2 ms  photos"),
        (
            REQUEST | {"status": 400, "key": "shop", "error": "The body is empty."},
            "400 POST /v1/classify  13.2 ms  photos  shop  The body is empty.",
        ),
        ({"event": "local_key", "path": "/home/me/8000.key"}, "local key  path=/home/me/8000.key"),
    ],
)
def test_a_line_is_time_level_and_what_happened(fields: dict, expected: str) -> None:
    assert words(fields) == expected


def test_a_traceback_follows_its_line() -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        line = words(REQUEST | {"status": 500, "exc_info": error}, "error")
    first, *rest = line.splitlines()
    assert first == "500 POST /v1/classify  13.2 ms  photos"
    assert rest[-1] == "ValueError: why"


@pytest.mark.parametrize("event", ["request", "other"])
def test_no_value_controls_the_terminal(event: str) -> None:
    line = words(REQUEST | {"event": event, "error": "a\x1b[2Jb\nc"})
    assert r"'a\x1b[2Jb\nc'" in line
    assert line.isprintable()


def test_colors_are_for_terminals_that_have_them() -> None:
    fields = {"event": "stopped", "level": "info"}
    assert "\x1b[32minfo" in TerminalLines(colors=True)(None, "info", dict(fields))
    assert "\x1b[1mvt-serve 1.2.3\x1b[0m" in greeting(
        "1.2.3", {"Service": "http://h/"}, colors=True
    )


def test_the_greeting_lines_up_its_names() -> None:
    lines = greeting("1.2.3", {"Service": "http://h/", "Docs": "http://h/docs"}, colors=False)
    assert lines.splitlines()[:5] == [
        "",
        "  vt-serve 1.2.3",
        "",
        "  Service  http://h/",
        "  Docs     http://h/docs",
    ]
