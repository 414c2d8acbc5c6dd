"""How late the event loop is: what keeps it busy delays everybody."""

import asyncio
from collections.abc import Awaitable, Callable

PERIOD_SECONDS = 0.25

Sleep = Callable[[float], Awaitable[None]]


async def watch_loop_lag(report: Callable[[float], None], sleep: Sleep = asyncio.sleep) -> None:
    """Report, again and again, how much later than asked for the loop wakes a task."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + PERIOD_SECONDS
        await sleep(PERIOD_SECONDS)
        report(max(0.0, loop.time() - due))
