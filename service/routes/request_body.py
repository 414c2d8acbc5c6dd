"""Read a body within its limits, and notice a client that leaves."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.errors import BodyTimeout, ClientDisconnected, InvalidRequest, PayloadTooLarge

T = TypeVar("T")


@dataclass(frozen=True)
class BodyLimits:
    """What a body may cost."""

    max_bytes: int
    timeout_seconds: float


async def read_body(request: Request, limits: BodyLimits) -> bytes:
    """Return the body; too large a one is refused as soon as that is known."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        _check_bytes(int(declared), limits)
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            body = await _receive(request, limits)
    except TimeoutError:
        raise BodyTimeout(f"The body did not arrive within {limits.timeout_seconds:g} s.") from None
    except ClientDisconnect:
        raise ClientDisconnected("The client left while it sent the body.") from None
    if not body:
        raise InvalidRequest("The body is empty; send an image.")
    return body


async def _receive(request: Request, limits: BodyLimits) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        _check_bytes(size, limits)
        chunks.append(chunk)
    return b"".join(chunks)


def _check_bytes(size: int, limits: BodyLimits) -> None:
    if size > limits.max_bytes:
        raise PayloadTooLarge(f"The body has more than the {limits.max_bytes:,} bytes allowed.")


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the work's result; drop the work where the client leaves first.

    The body must have been read: what then arrives is the news that the client left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_client_leaves(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnected("The client left before the answer was ready.")
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
