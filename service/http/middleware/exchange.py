"""A request and its response, between the server and the application."""

import asyncio
import itertools
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from time import perf_counter
from typing import Any

from service.engine.call import Call
from service.http.middleware.security_headers import security_headers
from service.http.reply import Reply
from service.http.server.whole import EXTENSION, WholeExchange
from service.telemetry.trace_context import RequestSpan, TraceContext, Tracer, parse_traceparent

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LINGER_SECONDS = 2.0  # read from a client that is still sending, or it never sees the response
CLIENT_LEFT = 499
UNMATCHED = "unmatched"
MAX_WARNINGS = 4
"""Warnings about images in the headers of one response."""

_PROCESS_ID = uuid.uuid4().hex[:24]
"""Prefix of generated request ids; random, so that the ids of two processes differ."""
_COUNTER = itertools.count()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@,~-]{1,128}")


class Exchange:
    """Adds the headers of every response, and records facts for the log and the metrics."""

    __slots__ = (
        *("call", "error", "headers", "key", "request_id", "scope", "span", "started", "state"),
        *("status", "trace_id", "_answer_began", "_body_is_begun", "_body_is_read", "_lingers"),
        *("_max_body_bytes", "_receive", "_send", "_whole"),
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        max_body_bytes: int,
        tracer: Tracer | None = None,
    ) -> None:
        self.started = perf_counter()
        self.scope = scope
        self.state: dict[str, Any] = scope.setdefault("state", {})
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        """Headers by name in lower case; the first of each name."""
        self.status = CLIENT_LEFT  # unless a response begins
        self.call: Call | None = None
        """The prediction call of the request, if any."""
        self.error: Exception | None = None
        self.key: str | None = None
        """Name of the API key of the request."""
        self.request_id = _request_id(self.headers.get(b"x-request-id"))
        self._receive = receive
        self._send = send
        self._whole: WholeExchange | None = scope.get("extensions", {}).get(EXTENSION)
        self._max_body_bytes = max_body_bytes
        self._body_is_begun = self._body_is_read = False
        self._answer_began = self._lingers = False
        parent = _parent(self.headers.get(b"traceparent"))
        self.span: RequestSpan | None = None if tracer is None else tracer.start(parent)
        place = parent if self.span is None else self.span.context
        self.trace_id = None if place is None else place.trace_id

    @property
    def route(self) -> str:
        """Template of the route; unlike the path, it is a bounded label."""
        return getattr(self.scope.get("route"), "path", UNMATCHED)

    def header(self, name: bytes) -> str:
        """Return the first value of a header; empty if it is absent."""
        return self.headers.get(name, b"").decode("latin-1")

    def take_body(self) -> bytes | None:
        """Return the body if all of it has arrived already; None if it must be received."""
        body = None if self._whole is None else self._whole.take_body()
        if body is not None:
            self._body_is_begun = self._body_is_read = True
        return body

    async def receive(self) -> Message:
        """Return the next message from the client."""
        self._body_is_begun = True
        message = await self._receive()
        if not message.get("more_body", False):
            self._body_is_read = True
        return message

    async def send(self, message: Message) -> None:
        """Send a message to the client, with the headers of every response."""
        if message["type"] == "http.response.start":
            self._answer_began, self.status = True, message["status"]
            self._lingers = not self._body_is_read and not self._may_read_past_body()
            message["headers"] = [*message["headers"], *self._more_headers()]
        elif self._lingers and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body"}
        await self._send(message)

    async def reply(self, reply: Reply) -> None:
        """Send a complete response, unless one has begun."""
        if self._answer_began:
            return
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", b"%d" % len(reply.body)),
        ]
        if reply.headers:
            headers += _encoded(reply.headers.items())
        if self._body_is_read and self._whole is not None:
            all_headers = headers + self._more_headers()
            if self._whole.respond(reply.status, all_headers, reply.body):
                self._answer_began, self.status = True, reply.status
                return
        start = {"type": "http.response.start", "status": reply.status, "headers": headers}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": reply.body})

    def _may_read_past_body(self) -> bool:
        """Return whether the connection can be kept, because the rest of the body is small.

        If reading stopped midway, the client was too slow or sent too much.
        """
        if b"transfer-encoding" in self.headers or b"expect" in self.headers:
            return False
        length = self.headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._max_body_bytes:
            return False
        return int(length) == 0 or not self._body_is_begun

    def _more_headers(self) -> list[tuple[bytes, bytes]]:
        scope, call = self.scope, self.call
        headers = [
            *security_headers(scope["path"], scope.get("scheme", "http")),
            (b"x-request-id", self.request_id.encode()),
        ]
        if self.span is not None:
            headers.append((b"traceparent", self.span.context.traceparent()))
        if call is not None and (timing := call.timings.server_timing()):
            headers.append((b"server-timing", timing.encode()))
        if call is not None and call.warnings:
            headers.append((b"x-image-warning", "; ".join(call.warnings[:MAX_WARNINGS]).encode()))
        if self._lingers and scope["http_version"].startswith("1"):
            headers.append((b"connection", b"close"))
        return headers

    async def _linger(self) -> None:
        """Read for a while what a rejected client is still sending."""
        if b"expect" in self.headers:
            return
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._body_is_read:
                    await self.receive()
        except TimeoutError:
            return


def exchange_of(scope: Scope) -> Exchange:
    """Return the exchange of one of the framework's requests."""
    exchange: Exchange = scope["state"]["exchange"]
    return exchange


def _request_id(header: bytes | None) -> str:
    text = "" if header is None else header.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else f"{_PROCESS_ID}{next(_COUNTER):08x}"


def _parent(traceparent: bytes | None) -> TraceContext | None:
    return None if traceparent is None else parse_traceparent(traceparent)


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers]
