"""Reasons why a contract or a version could not be loaded."""

from collections.abc import Sequence

import structlog

from service.errors import InvalidEntry, LoadFailed
from service.telemetry.events import ModelEvents

UNEXPECTED = "an unexpected error; see the server's log"
HELD_BACK = "another version of the same load failed"
MAX_REASONS = 5
"""Limit on the reasons in one message."""

_log = structlog.get_logger()


def report_failure(error: Exception, events: ModelEvents, model: str, **version: str) -> str:
    """Count and log a failure; return a reason that may be shown to clients."""
    events.model_refused(model)
    log = _log.bind(model=model, **version)
    if isinstance(error, InvalidEntry):
        cause = error.__cause__ and str(error.__cause__)
        log.error("load_failed", reason=str(error), cause=cause)
        return str(error)
    log.error("load_failed", reason=UNEXPECTED, exc_info=error)
    return UNEXPECTED


def load_failed(reasons: Sequence[str]) -> LoadFailed:
    """Return the error of a failed load; each reason names a version."""
    others = f"; and {len(reasons) - MAX_REASONS} more" if len(reasons) > MAX_REASONS else ""
    listed = "; ".join(reasons[:MAX_REASONS])
    return LoadFailed(f"Not every version could be loaded: {listed}{others}.")
