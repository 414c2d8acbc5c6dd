"""What a process needs to know when it starts; it comes through its standard input."""

import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from service.runtime.allocator import return_large_blocks
from service.settings import Settings, read_settings
from service.telemetry.log import configure_log
from service.telemetry.log_output import LogOutput


class EngineStart(BaseModel):
    """The start of the engine; numbers without a unit are open files."""

    settings: dict[str, Any]
    """Settings of the command line and the bound ports; the others are in the environment."""
    frontends: int
    board: int
    supervisor: int


class FrontEndStart(BaseModel):
    """The start of a front end."""

    settings: dict[str, Any]
    frontend: int
    frontends: int
    board: int
    arena: int
    engine: int
    listeners: list[int]
    local_key: str | None


def given_settings(given: Mapping[str, Any]) -> tuple[Settings, LogOutput | None]:
    """Return the settings of the service and the output of the log, which it configures."""
    return_large_blocks()
    settings = read_settings(given)
    return settings, configure_log(settings.log_format, settings.log_level)


def read_start() -> str:
    """Return the start of this process as JSON."""
    return sys.stdin.read()
