"""Measures the delay of the event loop, which delays every request."""

import asyncio
from collections.abc import Awaitable, Callable

PERIOD_SECONDS = 0.25

Sleep = Callable[[float], Awaitable[None]]


async def watch_loop_lag(report: Callable[[float], None], sleep: Sleep = asyncio.sleep) -> None:
    """Report four times a second how late the event loop wakes a sleeping task."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + PERIOD_SECONDS
        await sleep(PERIOD_SECONDS)
        report(max(0.0, loop.time() - due))
