"""Read a request within its limits, and notice a client that leaves."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request

from service.errors import BodyTimeout, ClientDisconnected, InvalidRequest, PayloadTooLarge

T = TypeVar("T")
TakeBytes = Callable[[int], None]

WATCH_AFTER_SECONDS = 0.2
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
TIMEOUT_HEADER_PARAMETER: dict[str, Any] = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "schema": {"type": "integer", "minimum": 1},
    "description": "milliseconds that the server has for the answer",
}
"""How OpenAPI describes it."""


@dataclass(frozen=True)
class BodyLimits:
    """What a body may cost."""

    max_bytes: int
    timeout_seconds: float


def _take_nothing(_size: int) -> None:
    """For bodies that are too small to count."""


def requested_timeout(request: Request) -> float | None:
    """Return how many seconds the client gives the server; None where it does not say."""
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < len(text) <= 12 and int(text) > 0):
        raise InvalidRequest(f"{TIMEOUT_HEADER} must be a whole number of milliseconds.")
    return int(text) / 1000


async def read_body(request: Request, limits: BodyLimits, take_bytes: TakeBytes) -> bytes:
    """Return the body, which must hold something; raises as `receive_body` does."""
    body = await receive_body(request, limits, take_bytes)
    if not body:
        raise InvalidRequest("The body is empty; send an image.")
    return body


async def receive_body(
    request: Request, limits: BodyLimits, take_bytes: TakeBytes = _take_nothing
) -> bytes:
    """Return the body, which may be empty; each part's size is given to `take_bytes`.

    Raises:
        PayloadTooLarge: as soon as it is known.
        BodyTimeout: it did not arrive in time.
        ClientDisconnected: the client left before its end.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        _check_bytes(int(declared), limits)
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            return await _receive(request, limits, take_bytes)
    except TimeoutError:
        raise BodyTimeout(f"The body did not arrive within {limits.timeout_seconds:g} s.") from None


async def _receive(request: Request, limits: BodyLimits, take_bytes: TakeBytes) -> bytes:
    chunks, size, more = list[bytes](), 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("The client left while it sent the body.")
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
        size += len(chunks[-1])
        _check_bytes(size, limits)
        take_bytes(len(chunks[-1]))
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _check_bytes(size: int, limits: BodyLimits) -> None:
    if size > limits.max_bytes:
        raise PayloadTooLarge.body(limits.max_bytes)


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the work's result; drop the work where the client leaves first.

    The body must have been read: what then arrives is the news that the client left. Nobody
    looks for it before `WATCH_AFTER_SECONDS`: most answers are faster than that.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    watching: asyncio.Future[None] | None = None
    left = False

    async def cancel_when_left() -> None:
        nonlocal left
        await _client_leaves(request)
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
        raise ClientDisconnected("The client left before the answer was ready.") from None
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
