"""The access log: one line per request."""

import logging
from typing import Any

import structlog

from service.errors import root_cause
from service.http.middleware.exchange import UNMATCHED, Exchange

QUIET_ROUTES = frozenset(
    {
        *("/docs/{file}", "/playground/{file}", "/playground/examples/{model}/{file}"),
        *("/metrics", "/v2/health/live", "/v2/health/ready"),
    }
)
"""Routes that are polled, and files of pages: logged at debug level unless they fail."""

MAX_LETTERS = 200
"""Limit on the text of a client, or of a decoder, in a log line."""

_log = structlog.get_logger()


def log_request(exchange: Exchange, method: str, route: str, seconds: float) -> None:
    """Log a response; only a 500 carries a traceback."""
    status = exchange.status
    if not _log.is_enabled_for(logging.INFO) and status < 500:
        return
    fields: dict[str, Any] = {
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1000, 1),
    }
    if route == UNMATCHED:
        fields["path"] = exchange.scope["path"][:MAX_LETTERS]
    if exchange.call is not None:
        fields["model"] = exchange.call.version.name
    if exchange.key is not None:
        fields["key"] = exchange.key
    if route in QUIET_ROUTES and status < 400:
        _log.debug("request", **fields)
        return
    client = exchange.scope.get("client")
    if client is not None:
        fields["client"] = client[0]
    if exchange.error is not None and status != 500:
        fields["error"] = str(exchange.error)
        if (cause := root_cause(exchange.error)) is not None:
            fields["cause"] = str(cause)[:MAX_LETTERS]
    if status == 500:
        _log.error("request", **fields, exc_info=exchange.error)
    elif status > 500:
        _log.warning("request", **fields)
    else:
        _log.info("request", **fields)
