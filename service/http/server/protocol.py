"""Uvicorn's HTTP protocol, with limits on each connection."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.server.connections import Connections
from service.http.server.transport import GatheringTransport
from service.http.server.whole import EXTENSION, WholeExchange
from service.telemetry.events import ConnectionDropReason

OnDrop = Callable[[ConnectionDropReason], None]


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits on one connection, before its request has been parsed and after its response."""

    max_header_bytes: int
    header_timeout_seconds: float
    send_timeout_seconds: float


@dataclass(frozen=True)
class Refusal:
    """The response to a request that is not passed on; the connection is then closed."""

    status: int
    sentence: str
    reason: ConnectionDropReason


HEADER_OVERHEAD = 4  # colon, space and line end

NOT_HTTP = Refusal(400, "The request is not valid HTTP.", "not_http")
TOO_MANY = Refusal(503, "The server has too many connections; try again later.", "too_many")
NO_HOST = Refusal(400, "An HTTP/1.1 request needs exactly one Host header.", "not_http")
CONNECT = Refusal(501, "The method CONNECT is not supported.", "not_http")
TRANSFER_ENCODING = Refusal(501, "The only supported Transfer-Encoding is chunked.", "not_http")
PROBES = (b"/v2/health/live", b"/v2/health/ready", b"/metrics")
"""Ends of the paths that a full port still serves, below a path prefix as well."""
INVALID_ENCODING = ("Invalid `Transfer-Encoding`", "Empty Transfer-Encoding")
"""Prefixes of the parser's errors about a transfer encoding."""


class Refused(Exception):
    """Stops the parser at the head of a rejected request."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection that is closed if its client makes no progress.

    Uvicorn itself limits neither the size of the headers, nor the time until they arrive, nor the
    time that a response may stay unread. The application limits the bodies of requests.
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
        """Accept the connection if there is room, through a gathering transport."""
        gathering = GatheringTransport(transport, self.loop, self._limits.send_timeout_seconds)
        super().connection_made(gathering)  # type: ignore[arg-type]
        self._came_before_drain = not self._is_draining()
        if self._port.admit(self):
            self._expect_headers()
        else:
            self._refuse(TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._port.forget(self)
        self._stop_header_timer()
        self._stop_unread_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data; limit bytes that neither complete the headers nor belong to a body."""
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
        """Feed the parser, which stops after the head of a request with `Upgrade`.

        No upgrade is supported, so `Upgrade` is ignored (RFC 9110, section 7.8). The parser would
        take the body for data of the other protocol. Therefore a new parser reads the head again
        without `Upgrade`, and continues with the rest.
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
        """Begin the request, unless its head is rejected or must be read again."""
        self._got_on = True
        if self._header_timer is not None:
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
        self.scope["extensions"] = {EXTENSION: WholeExchange(self.cycle)}  # type: ignore[dict-item]
        if self._is_draining():
            self.cycle.keep_alive = False

    def _refusal_of_head(self) -> Refusal | None:
        """Return the refusal of a request because of its head (RFC 9112), or None."""
        size, hosts, encodings = len(self.url), 0, list[bytes]()
        for name, value in self.headers:
            size += len(name) + len(value) + HEADER_OVERHEAD
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                encodings.append(value.lower())
        if size > self._limits.max_header_bytes:
            return self._headers_too_large()
        if self._port.is_for_probes(self) and not _is_probe(self.url):
            self._port.refuse()
            return TOO_MANY
        if self.parser.get_method() == b"CONNECT":
            return CONNECT
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            return NO_HOST
        if encodings and encodings != [b"chunked"]:
            return TRANSFER_ENCODING
        return None

    def on_message_complete(self) -> None:
        """End the request's body, unless only its head was read and is to be read again."""
        if not self._must_read_head_again:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self._is_idle():
            self._port.set_idle(self)

    def give_way(self) -> bool:
        """Close the connection for another, unless a request or response is in progress."""
        if not self._is_idle() or self._unread_bytes():
            return False
        self._on_drop("idle")
        self.transport.abort()
        return True

    def begin_drain(self) -> None:
        """Make the current response, or else the next one, the last on this connection."""
        if not self._is_idle():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Receive a part of the body."""
        self._got_on = True
        super().on_body(body)

    def pause_writing(self) -> None:
        """Wait for the client to read, within the limit."""
        super().pause_writing()
        self._expect_to_be_read()

    def resume_writing(self) -> None:
        """Resume sending."""
        self._stop_unread_timer()
        super().resume_writing()

    def _is_idle(self) -> bool:
        """Return whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def _awaits_body(self) -> bool:
        """Return whether the only request is still being received, without a response."""
        cycle = self.cycle
        return not self.pipeline and cycle.more_body and not cycle.response_started

    def _expect_headers(self) -> None:
        self._header_timer = self.loop.call_later(
            self._limits.header_timeout_seconds, self._headers_are_late
        )

    def _headers_are_late(self) -> None:
        """Close the connection, with a response if the client has sent anything."""
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
        """Close the connection; reply first, unless the response to an earlier request is due."""
        if self._is_idle():
            self.transport.write(_answer(refusal))
        elif self._awaits_body():
            self.transport.write(_answer(refusal))
            self._end_request()
        self._drop(refusal.reason)

    def _end_request(self) -> None:
        """Notify the application that its client has left; drop what it is still sending."""
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
        """Keep waiting if the client has read any data, else abort the connection."""
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


def _is_probe(url: bytes) -> bool:
    return url.partition(b"?")[0].endswith(PROBES)


def _answer(refusal: Refusal) -> bytes:
    body = json.dumps({"error": refusal.sentence})
    lines = [
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    return "\r\n".join([*lines, "", body]).encode()
