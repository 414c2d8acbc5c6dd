"""Receive a request within its limits, and notice a client that disconnects."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from service.errors import BodyTimeout, ClientDisconnected, InvalidRequest, PayloadTooLarge
from service.http.middleware.exchange import Exchange

T = TypeVar("T")
TakeBytes = Callable[[int], None]

WATCH_AFTER_SECONDS = 0.2
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
TIMEOUT_HEADER_PARAMETER: dict[str, Any] = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "schema": {"type": "integer", "minimum": 1},
    "description": "Timeout of the request in milliseconds.",
}
"""OpenAPI description of the header."""


@dataclass(frozen=True)
class BodyLimits:
    """Limits on the size of a body and on the time that it takes to arrive."""

    max_bytes: int
    timeout_seconds: float


def requested_timeout(exchange: Exchange) -> float | None:
    """Return the timeout of a request in seconds; None if it has none."""
    value = exchange.headers.get(b"x-request-timeout-ms")
    if value is None:
        return None
    if not (value.isdigit() and len(value) <= 12 and int(value) > 0):
        raise InvalidRequest(f"{TIMEOUT_HEADER} must be a whole number of milliseconds.")
    return int(value) / 1000


def _take_nothing(_size: int) -> None:
    """Do not count bodies that are too small to matter."""


async def receive_body(
    exchange: Exchange, limits: BodyLimits, take_bytes: TakeBytes = _take_nothing
) -> bytes:
    """Return the body, which may be empty; pass each part's size to `take_bytes`.

    Raises:
        PayloadTooLarge: the body is too large; raised as soon as this is known.
        BodyTimeout: the body did not arrive in time.
        ClientDisconnected: the client disconnected before the end of the body.
    """
    declared = exchange.headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limits.max_bytes:
        raise PayloadTooLarge.body(limits.max_bytes)
    body = exchange.take_body()
    if body is not None:
        if len(body) > limits.max_bytes:
            raise PayloadTooLarge.body(limits.max_bytes)
        take_bytes(len(body))
        return body
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            return await _receive_in_parts(exchange, limits, take_bytes)
    except TimeoutError:
        raise BodyTimeout(f"The body did not arrive within {limits.timeout_seconds:g} s.") from None


async def _receive_in_parts(exchange: Exchange, limits: BodyLimits, take_bytes: TakeBytes) -> bytes:
    chunks, size, more = list[bytes](), 0, True
    while more:
        message = await exchange.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("The client disconnected while sending the body.")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > limits.max_bytes:
            raise PayloadTooLarge.body(limits.max_bytes)
        take_bytes(len(chunk))
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def unless_disconnected(exchange: Exchange, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of the work; cancel the work if the client disconnects first.

    The body must have been read, so that the next message is the disconnect. It is awaited only
    after `WATCH_AFTER_SECONDS`, because most responses are faster.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    watching: asyncio.Future[None] | None = None
    left = False

    async def cancel_when_left() -> None:
        nonlocal left
        while (await exchange.receive())["type"] != "http.disconnect":
            pass
        left = True
        if task is not None:
            task.cancel()

    def watch() -> None:
        nonlocal watching
        watching = asyncio.ensure_future(cancel_when_left())

    timer = loop.call_later(WATCH_AFTER_SECONDS, watch)
    try:
        return await work
    except asyncio.CancelledError:
        if not left or task is None:
            raise
        task.uncancel()
        raise ClientDisconnected("The client disconnected before the response was ready.") from None
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
