"""The outermost layer: request id, timing headers, the log line, the last-resort 500."""

import asyncio
import itertools
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog

from service.schema.predictions import ErrorResponse
from service.telemetry.events import ServerEvents
from service.telemetry.stage_timer import StageTimer
from service.telemetry.trace_context import Answered, RequestSpan, Tracer, parse_traceparent

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LINGER_SECONDS = 2.0  # a client that still sends must be read, or it never sees the answer
CLIENT_LEFT = 499
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
QUIET_ROUTES = frozenset({"/v2/health/live", "/v2/health/ready", "/metrics"})
UNMATCHED = "unmatched"
MODEL_STATE = ("model", "version", "outcome", "stages")
"""What a prediction notes of itself in the request's state."""

SECURITY_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
PAGE = "/docs"
PAGE_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; connect-src 'self'; frame-ancestors 'none'; "
    b"img-src data: https://fastapi.tiangolo.com; "
    b"script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    b"style-src 'unsafe-inline' https://cdn.jsdelivr.net",
)
"""The page of the description loads its script from there."""
TRANSPORT_SECURITY = (b"strict-transport-security", b"max-age=31536000")

_PROCESS_ID = uuid.uuid4().hex[:24]
"""What the ids that are made here begin with; random, so that two processes' do not meet."""
_COUNTER = itertools.count()

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@,~-]{1,128}")
_INTERNAL_ERROR = ErrorResponse(error="The server failed; its log says why.")

_log = structlog.get_logger()


class Boundary:
    """ASGI middleware around the whole application."""

    def __init__(
        self, app: App, events: ServerEvents, max_body_bytes: int, tracer: Tracer | None = None
    ) -> None:
        self._app = app
        self._events = events
        self._max_body_bytes = max_body_bytes
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._max_body_bytes, self._tracer)
        with structlog.contextvars.bound_contextvars(**exchange.ids):
            try:
                await self._answer(exchange)
            finally:
                self._report(exchange)

    async def _answer(self, exchange: "Exchange") -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception as error:
            exchange.state["error"] = error
            await exchange.send_internal_error()

    def _report(self, exchange: "Exchange") -> None:
        method = exchange.scope["method"]
        method = method if method in METHODS else "OTHER"
        route, status = exchange.route, exchange.status
        seconds = time.perf_counter() - exchange.started
        self._events.http_finished(method, route, status, seconds)
        fields = {"method": method, "route": route, "status": status}
        fields["duration_ms"] = round(seconds * 1000, 1)
        state = exchange.state
        for name in ("model", "key"):
            if name in state:
                fields[name] = state[name]
        _log_request(fields, state.get("error"), exchange.scope.get("client"))
        if exchange.span is not None and route not in QUIET_ROUTES:
            known = {key: state[key] for key in MODEL_STATE if key in state}
            exchange.span.end(Answered(method, route, status, exchange.request_id, **known))


class Exchange:
    """One request and its answer, as they pass the boundary."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        max_body_bytes: int,
        tracer: Tracer | None = None,
    ) -> None:
        self.scope = scope
        self.state: dict[str, Any] = scope.setdefault("state", {})
        self.started = time.perf_counter()
        self.status = CLIENT_LEFT  # until an answer begins
        self._receive = receive
        self._send = send
        self._headers = dict(scope["headers"])
        self.request_id = _request_id(self._headers.get(b"x-request-id", b""))
        traceparent = self._headers.get(b"traceparent")
        parent = None if traceparent is None else parse_traceparent(traceparent)
        self.span: RequestSpan | None = None if tracer is None else tracer.start(parent)
        self.ids = {"request_id": self.request_id}
        """What a line of the log says of the request that it belongs to."""
        place = parent if self.span is None else self.span.context
        if place is not None:
            self.ids["trace_id"] = place.trace_id
        self._max_body_bytes = max_body_bytes
        self._body_is_begun = False
        self._body_is_read = False
        self._answer_began = False
        self._lingers = False

    @property
    def route(self) -> str:
        """The route's template: a bounded label, unlike the path."""
        return getattr(self.scope.get("route"), "path", UNMATCHED)

    async def receive(self) -> Message:
        """Pass a message of the client on."""
        self._body_is_begun = True
        message = await self._receive()
        if not message.get("more_body", False):
            self._body_is_read = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a message to the client on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self._answer_began, self.status = True, message["status"]
            self._lingers = not self._body_is_read and not self._may_read_past_body()
            message["headers"] = [*message["headers"], *self._more_headers()]
        elif self._lingers and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body"}
        await self._send(message)

    async def send_internal_error(self) -> None:
        """Answer 500, unless an answer has begun."""
        if self._answer_began:
            return
        body = _INTERNAL_ERROR.model_dump_json().encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _may_read_past_body(self) -> bool:
        """Tell whether the connection may be kept: what is still to come of the body is small.

        Where reading was given up midway, the client was too slow or sent too much.
        """
        if b"transfer-encoding" in self._headers or b"expect" in self._headers:
            return False
        length = self._headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._max_body_bytes:
            return False
        return int(length) == 0 or not self._body_is_begun

    def _more_headers(self) -> list[tuple[bytes, bytes]]:
        headers = [*SECURITY_HEADERS, (b"x-request-id", self.request_id.encode())]
        headers.append(PAGE_POLICY if self.scope["path"] == PAGE else POLICY)
        if self.scope.get("scheme") == "https":
            headers.append(TRANSPORT_SECURITY)
        if self.span is not None:
            headers.append((b"traceparent", self.span.context.traceparent()))
        stages = self.state.get("stages")
        if isinstance(stages, StageTimer) and stages.seconds:
            headers.append((b"server-timing", stages.server_timing().encode()))
        if self._lingers and self.scope["http_version"].startswith("1"):
            headers.append((b"connection", b"close"))
        return headers

    async def _linger(self) -> None:
        """Read what a refused client still sends, for a while."""
        if b"expect" in self._headers:
            return
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._body_is_read:
                    await self.receive()
        except TimeoutError:
            return


def _request_id(header: bytes) -> str:
    text = header.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else f"{_PROCESS_ID}{next(_COUNTER):08x}"


def _log_request(
    fields: dict[str, Any], error: Exception | None, client: tuple[str, int] | None
) -> None:
    status = fields["status"]
    if fields["route"] in QUIET_ROUTES and status < 400:
        _log.debug("request", **fields)
        return
    if client is not None:
        fields["client"] = client[0]
    if error is not None and status != 500:
        fields["error"] = str(error)
    if status == 500:
        _log.error("request", **fields, exc_info=error)
    elif status > 500:
        _log.warning("request", **fields)
    else:
        _log.info("request", **fields)
