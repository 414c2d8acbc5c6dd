"""Uvicorn's HTTP protocol, bounded in what a connection may cost; answers leave in one piece."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.server.connections import Connections
from service.telemetry.events import ConnectionDropReason

OnDrop = Callable[[ConnectionDropReason], None]


@dataclass(frozen=True)
class ConnectionLimits:
    """What a client may cost before its request is known, and after it was answered."""

    max_header_bytes: int
    header_timeout_seconds: float
    send_timeout_seconds: float


@dataclass(frozen=True)
class Refusal:
    """An answer to a request that is not passed on; the connection ends with it."""

    status: int
    sentence: str
    reason: ConnectionDropReason


NOT_HTTP = Refusal(400, "The request is not valid HTTP.", "not_http")
TOO_MANY = Refusal(503, "The server has too many connections; try again later.", "too_many")
NO_HOST = Refusal(400, "An HTTP/1.1 request needs exactly one Host header.", "not_http")
CONNECT = Refusal(501, "The method CONNECT is not supported.", "not_http")
TRANSFER_ENCODING = Refusal(
    501, "The only Transfer-Encoding that is supported is chunked.", "not_http"
)
INVALID_ENCODING = ("Invalid `Transfer-Encoding`", "Empty Transfer-Encoding")
"""How the parser's own words begin where it refuses an encoding before the head is complete."""


class Refused(Exception):
    """Stops the parser at the head of a request that is refused."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection that ends where its client does not get on.

    Uvicorn itself bounds neither the headers, nor the time that they take, nor how long an answer
    may be left unread. While a request is under way its body is the application's to bound.
    """

    def __init__(
        self,
        *,
        limits: ConnectionLimits,
        port: Connections,
        is_draining: Callable[[], bool],
        on_drop: OnDrop,
        **uvicorns: Any,
    ) -> None:
        super().__init__(**uvicorns)
        self._limits = limits
        self._port = port
        self._is_draining = is_draining
        self._came_before_drain = False
        self._on_drop = on_drop
        self._header_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._fruitless_bytes = 0
        self._got_on = False
        self._refusal = NOT_HTTP
        self._must_read_head_again = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection if there is room, through a transport that gathers."""
        gathering = GatheringTransport(transport, self.loop, self._limits.send_timeout_seconds)
        super().connection_made(gathering)  # type: ignore[arg-type]
        self._came_before_drain = not self._is_draining()
        if self._port.admit(self):
            self._expect_headers()
        else:
            self._refuse(TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go."""
        self._port.forget(self)
        self._stop_header_timer()
        self._stop_unread_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; bound what neither completes the headers nor is part of a body."""
        self._got_on = False
        self._unset_keepalive_if_required()
        self._parse(data)
        if self.transport.is_closing():
            return
        self._fruitless_bytes = 0 if self._got_on else self._fruitless_bytes + len(data)
        if self._fruitless_bytes > self._limits.max_header_bytes:
            self._refuse(self._headers_too_large())
        elif self._header_timer is None and self._is_idle():
            self._expect_headers()

    def _parse(self, data: bytes) -> None:
        """Feed the parser; it stops after the head of a request that asks for another protocol.

        None is supported, so that such a request means what it would mean without `Upgrade`
        (RFC 9110, 7.8). The parser takes what follows the head for the other protocol, and
        forgets that there is a body: a new parser reads the head without `Upgrade`, and goes on.
        """
        rest = memoryview(data)
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as stopped:
                    rest = rest[stopped.args[0] :]
                    self._read_head_again()
        except httptools.HttpParserError as error:
            is_encoding = str(error).startswith(INVALID_ENCODING)
            self._refuse(TRANSFER_ENCODING if is_encoding else self._refusal)

    def _read_head_again(self) -> None:
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/"]
        head += [self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._must_read_head_again = False
        self.parser.feed_data(b"".join([*head, b"\r\n"]))

    def on_headers_complete(self) -> None:
        """Begin the request, unless its head is refused, or has to be read without `Upgrade`."""
        self._got_on = True
        self._stop_header_timer()
        refusal = self._refusal_of_head()
        if refusal is not None:
            self._refusal = refusal
            raise Refused
        if self.parser.should_upgrade():
            self._must_read_head_again = True
            return
        super().on_headers_complete()
        self._port.set_busy(self)
        self.scope["state"]["came_before_drain"] = self._came_before_drain
        if self._is_draining():
            self.cycle.keep_alive = False

    def _refusal_of_head(self) -> Refusal | None:
        """Why the request cannot be passed on, if it cannot, from its head alone (RFC 9112)."""
        if self._header_bytes() > self._limits.max_header_bytes:
            return self._headers_too_large()
        if self.parser.get_method() == b"CONNECT":
            return CONNECT
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            return NO_HOST
        encodings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if encodings and [each.lower() for each in encodings] != [b"chunked"]:
            return TRANSFER_ENCODING
        return None

    def on_message_complete(self) -> None:
        """End the request's body, unless only its head was read and will be read again."""
        if not self._must_read_head_again:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self._is_idle():
            self._port.set_idle(self)

    def give_way(self) -> bool:
        """End the connection for another, unless a request or its answer is under way."""
        if not self._is_idle() or self._unread_bytes():
            return False
        self._on_drop("idle")
        self.transport.abort()
        return True

    def begin_drain(self) -> None:
        """Let the answer that is under way be the last one; without one, the next answer is."""
        if not self._is_idle():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._got_on = True
        super().on_body(body)

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
        if self._fruitless_bytes:
            seconds = self._limits.header_timeout_seconds
            sentence = f"The headers did not arrive within {seconds:g} s."
            self._refuse(Refusal(408, sentence, "header_timeout"))
        else:
            self._drop("header_timeout")

    def _headers_too_large(self) -> Refusal:
        allowed = self._limits.max_header_bytes
        sentence = f"The headers have more than the {allowed:,} bytes allowed."
        return Refusal(431, sentence, "headers_too_large")

    def _refuse(self, refusal: Refusal) -> None:
        """End the connection; say why, unless the answer to an earlier request is due."""
        if self._is_idle():
            self.transport.write(_answer(refusal))
        elif self._awaits_body():
            self.transport.write(_answer(refusal))
            self._end_request()
        self._drop(refusal.reason)

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


def _answer(refusal: Refusal) -> bytes:
    body = json.dumps({"error": refusal.sentence})
    lines = [
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}",
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

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are still to be sent."""
        return self._transport.get_write_buffer_size() + sum(map(len, self._written))

    def _flush(self) -> None:
        if self._written:
            data, self._written = b"".join(self._written), []
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)
