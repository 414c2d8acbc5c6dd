import json
import logging
import warnings

import pytest
import structlog

from service.telemetry.log import configure_log

pytestmark = pytest.mark.usefixtures("restored_log")


def test_a_line_is_json_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log("auto", "info")
    log = structlog.get_logger()
    log.debug("hidden")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        log.info("request", status=200)
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert fields.pop("timestamp").endswith("Z")
    assert fields == {"event": "request", "level": "info", "status": 200, "request_id": "r1"}


def test_a_traceback_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log("json", "info")
    try:
        raise ValueError("why")
    except ValueError as error:
        structlog.get_logger().error("request", exc_info=error)
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: why" in json.loads(line)["exception"]


def test_the_libraries_lines_have_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log("json", "info")
    logging.getLogger("uvicorn.error").info("hidden")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "Invalid HTTP request received."


def test_a_person_gets_words(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log("console", "info")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        structlog.get_logger().info("listening", port=8000)
    line = capsys.readouterr().err
    assert "listening" in line
    assert "port=8000" in line
    assert not line.startswith("{")
