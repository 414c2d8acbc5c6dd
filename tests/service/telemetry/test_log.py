import json
import logging
import re
import warnings
from pathlib import Path

import pytest
import structlog

from service.telemetry.log import configure_log

pytestmark = pytest.mark.usefixtures("restored_log")

TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z"


def test_a_line_is_json_unless_standard_error_is_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_log("auto", "info")
    log = structlog.get_logger()
    log.debug("hidden")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        log.info("request", status=200)
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert re.fullmatch(TIMESTAMP, fields.pop("timestamp"))
    assert fields == {"event": "request", "level": "info", "status": 200, "request_id": "r1"}


def test_a_traceback_is_a_field_of_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log("json", "info")
    try:
        raise ValueError("why")
    except ValueError as error:
        structlog.get_logger().error("request", exc_info=error)
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: why" in json.loads(line)["exception"]


def test_lines_of_the_libraries_have_the_same_format(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log("json", "info")
    logging.getLogger("uvicorn.error").info("hidden")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert re.fullmatch(TIMESTAMP, fields.pop("timestamp"))
    assert fields == {"event": "Invalid HTTP request received.", "level": "warning"}


def test_a_traceback_of_a_library_is_a_field_of_its_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_log("json", "info")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("asyncio").exception("Task failed")
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert (fields["event"], fields["level"]) == ("Task failed", "error")
    assert "ValueError: why" in fields["exception"]


def test_values_that_json_has_no_form_for_are_written_as_python_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_log("json", "info")
    structlog.get_logger().info("loaded", folder=Path("models"))
    assert json.loads(capsys.readouterr().err)["folder"] == "PosixPath('models')"


@pytest.mark.parametrize("value", ["model\udcff", 1 << 64])
def test_no_value_keeps_a_line_from_being_written(
    capsys: pytest.CaptureFixture[str], value: object
) -> None:
    configure_log("json", "info")
    structlog.get_logger().info("loaded", value=value)
    fields = json.loads(capsys.readouterr().err)
    assert re.fullmatch(TIMESTAMP, fields.pop("timestamp"))
    assert fields == {"event": "loaded", "level": "info", "value": value}


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_lines_below_the_level_are_not_written(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    configure_log(log_format, "warning")
    structlog.get_logger().info("hidden")
    structlog.get_logger().warning("shown")
    assert "hidden" not in (shown := capsys.readouterr().err)
    assert "shown" in shown


def test_lines_for_a_terminal_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log("console", "info")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        structlog.get_logger().info("listening", port=8000)
    line = capsys.readouterr().err
    assert "listening" in line
    assert "port=8000" in line
    assert not line.startswith("{")
