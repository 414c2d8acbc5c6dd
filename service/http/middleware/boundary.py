"""The outermost layer: the fast path, the last-resort 500, the log line, metrics and the span."""

from time import perf_counter
from typing import Any

import structlog
from fastapi import FastAPI

from service.errors import ServiceError, clear_frames
from service.http.middleware.access_log import QUIET_ROUTES, log_request
from service.http.middleware.exchange import App, Exchange, Receive, Scope, Send
from service.http.middleware.fast_path import FastPath
from service.http.reply import INTERNAL_ERROR, error_reply
from service.telemetry.events import ServerEvents
from service.telemetry.trace_context import Answered, Tracer

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


class Boundary:
    """ASGI application around the framework's: every request passes it, in and out."""

    def __init__(
        self,
        app: App,
        api: FastAPI,
        *,
        fast_path: FastPath,
        events: ServerEvents,
        max_body_bytes: int,
        tracer: Tracer | None = None,
    ) -> None:
        self._app = app
        self._api = api
        self._fast_path = fast_path
        self._events = events
        self._max_body_bytes = max_body_bytes
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and report how it ended."""
        scope["app"] = self._api
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._max_body_bytes, self._tracer)
        ids = {"request_id": exchange.request_id}
        if exchange.trace_id is not None:
            ids["trace_id"] = exchange.trace_id
        tokens = structlog.contextvars.bind_contextvars(**ids)
        try:
            found = self._fast_path.find(exchange)
            if found is None:
                exchange.state["exchange"] = exchange
                await self._app(scope, exchange.receive, exchange.send)
            else:
                endpoint, query = found
                await exchange.reply(await endpoint(exchange, query))
        except ServiceError as error:  # on the fast path; elsewhere the framework's handlers
            exchange.error = error
            await exchange.reply(error_reply(error))
        except Exception as error:
            exchange.error = error
            await exchange.reply(INTERNAL_ERROR)
        finally:
            self._report(exchange)
            structlog.contextvars.reset_contextvars(**tokens)
            _let_go(exchange)

    def _report(self, exchange: Exchange) -> None:
        method, route = exchange.scope["method"], exchange.route
        method = method if method in METHODS else "OTHER"
        seconds = perf_counter() - exchange.started
        self._events.http_finished(method, route, exchange.status, seconds)
        log_request(exchange, method, route, seconds)
        if exchange.span is not None and route not in QUIET_ROUTES:
            exchange.span.end(_answered(exchange, method, route))


def _let_go(exchange: Exchange) -> None:
    """Break the circles of references: a body should be freed now, not by the collector."""
    clear_frames(exchange.error)
    exchange.error = None
    exchange.scope.pop("extensions", None)
    exchange.state.pop("exchange", None)


def _answered(exchange: Exchange, method: str, route: str) -> Answered:
    """Return what a span says of a request."""
    call = exchange.call
    known: dict[str, Any] = {}
    if call is not None:
        known = {"model": call.version.name, "version": call.version.version}
        known |= {"outcome": call.outcome, "stages": call.timings}
    return Answered(method, route, exchange.status, exchange.request_id, **known)
