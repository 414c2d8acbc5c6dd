"""A bounded pool of threads that decode and encode images, off the event loop."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import ParamSpec, TypeVar

from service.runtime.worker_threads import WorkerThreads

P = ParamSpec("P")
T = TypeVar("T")


class ImageThreads:
    """A fixed number of threads; drops a call if its caller leaves before it starts.

    The number of waiting calls is bounded by the number of admitted requests.
    """

    def __init__(self, threads: int) -> None:
        self._workers = WorkerThreads(threads, "image")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread."""
        return await self._workers.run(partial(function, *args, **kwargs))

    async def gather(self, calls: Iterable[Callable[[], T]]) -> list[T]:
        """Make calls in the threads; return the results in order, or drop the rest if one fails."""
        futures = [*map(self._workers.run, calls)]
        if len(futures) == 1:
            return [await futures[0]]
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Drop the calls that have not started, and wait for the others."""
        self._workers.close()
