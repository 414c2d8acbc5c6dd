"""What a process needs to know when it starts; it comes through its standard input."""

import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from service.runtime.allocator import return_large_blocks
from service.settings import Settings, read_settings
from service.telemetry.log import configure_log


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


def given_settings(given: Mapping[str, Any]) -> Settings:
    """Return the settings of the service, and use those of the log and the memory."""
    return_large_blocks()
    settings = read_settings(given)
    configure_log(settings.log_format, settings.log_level)
    return settings


def read_start() -> str:
    """Return the start of this process as JSON."""
    return sys.stdin.read()
