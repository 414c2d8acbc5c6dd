"""Uvicorn's HTTP protocol, bounded in what a connection may cost; answers leave in one piece."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.events import ConnectionDropReason

OnDrop = Callable[[ConnectionDropReason], None]


@dataclass(frozen=True)
class ConnectionLimits:
    """What a client may cost before its request is known, and after it was answered."""

    max_connections: int
    max_header_bytes: int
    header_timeout_seconds: float
    send_timeout_seconds: float


class HeadersTooLarge(Exception):
    """Stops the parser."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection that ends where its client does not get on.

    Uvicorn itself bounds neither the headers, nor the time that they take, nor how long an answer
    may be left unread. While a request is under way its body is the application's to bound.
    """

    def __init__(self, *, limits: ConnectionLimits, on_drop: OnDrop, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._limits = limits
        self._on_drop = on_drop
        self._header_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._fruitless_bytes = 0
        self._got_on = False
        self._headers_are_too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection if there is room, through a transport that gathers."""
        gathering = GatheringTransport(transport, self.loop, self._limits.send_timeout_seconds)
        super().connection_made(gathering)  # type: ignore[arg-type]
        if len(self.connections) > self._limits.max_connections:
            self._refuse(503, "The server has too many connections; try again later.", "too_many")
        else:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go."""
        self._stop_header_timer()
        self._stop_unread_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; bound what neither completes the headers nor is part of a body."""
        self._got_on = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._fruitless_bytes = 0 if self._got_on else self._fruitless_bytes + len(data)
        if self._fruitless_bytes > self._limits.max_header_bytes:
            self._refuse_headers()
        elif self._header_timer is None and self._is_idle():
            self._expect_headers()

    def on_headers_complete(self) -> None:
        """Begin the request, unless its headers are too large."""
        self._got_on = True
        self._stop_header_timer()
        if self._header_bytes() > self._limits.max_header_bytes:
            self._headers_are_too_large = True
            raise HeadersTooLarge
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._got_on = True
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # Uvicorn's is no JSON
        """Refuse what the parser could not or should not read to its end."""
        if self._headers_are_too_large:
            self._refuse_headers()
        else:
            self._refuse(400, "The request is not valid HTTP.", "not_http")

    def pause_writing(self) -> None:
        """Wait for the client to read, but not for ever."""
        super().pause_writing()
        self._expect_to_be_read()

    def resume_writing(self) -> None:
        """Go on."""
        self._stop_unread_timer()
        super().resume_writing()

    def _is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def _awaits_body(self) -> bool:
        """Whether the only request under way is still being read, and its answer has not begun."""
        cycle = self.cycle
        return not self.pipeline and cycle.more_body and not cycle.response_started

    def _header_bytes(self) -> int:
        lines = sum(len(name) + len(value) for name, value in self.headers)
        return lines + 4 * len(self.headers) + len(self.url)

    def _expect_headers(self) -> None:
        self._header_timer = self.loop.call_later(
            self._limits.header_timeout_seconds, self._headers_are_late
        )

    def _headers_are_late(self) -> None:
        """End the connection; a client that has sent nothing at all expects no answer."""
        seconds = self._limits.header_timeout_seconds
        if self._fruitless_bytes:
            sentence = f"The headers did not arrive within {seconds:g} s."
            self._refuse(408, sentence, "header_timeout")
        else:
            self._drop("header_timeout")

    def _refuse_headers(self) -> None:
        allowed = self._limits.max_header_bytes
        sentence = f"The headers have more than the {allowed:,} bytes allowed."
        self._refuse(431, sentence, "headers_too_large")

    def _refuse(self, status: int, sentence: str, reason: ConnectionDropReason) -> None:
        """End the connection; tell why, unless an answer to something else is due."""
        if self._is_idle():
            self.transport.write(_refusal(status, sentence))
        elif self._awaits_body():
            self.transport.write(_refusal(status, sentence))
            self._end_request()
        self._drop(reason)

    def _end_request(self) -> None:
        """Tell the application that its client is gone; what it still says is not sent."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def _drop(self, reason: ConnectionDropReason) -> None:
        self._on_drop(reason)
        self.transport.close()

    def _expect_to_be_read(self) -> None:
        self._unread_timer = self.loop.call_later(
            self._limits.send_timeout_seconds, self._check_reading, self._unread_bytes()
        )

    def _check_reading(self, unread_before: int) -> None:
        """Go on waiting if the client read something, else end the connection."""
        if self._unread_bytes() < unread_before:
            self._expect_to_be_read()
        else:
            self._on_drop("send_timeout")
            self.transport.abort()

    def _unread_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None


def _refusal(status: int, sentence: str) -> bytes:
    body = json.dumps({"error": sentence})
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    return "\r\n".join([*lines, "", body]).encode()


class GatheringTransport:
    """A transport that sends what was written during a turn of the event loop at its end.

    Uvicorn itself writes head and body apart: two system calls, and two packets, an answer.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        close_timeout_seconds: float,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._close_timeout_seconds = close_timeout_seconds
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send this, with whatever else is written in this turn."""
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        """Send what was written, and close; what is not read in time is given up."""
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(self._close_timeout_seconds, self._transport.abort)

    def _flush(self) -> None:
        if self._written:
            data, self._written = b"".join(self._written), []
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)
