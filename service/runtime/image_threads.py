"""The bounded thread pool in which images are decoded and encoded, off the event loop."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class WorkerPool:
    """A fixed number of threads; work that nobody waits for any more is dropped unstarted.

    What waits here is bounded by the requests that were admitted.
    """

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="image")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))

    async def gather(self, calls: Iterable[Callable[[], T]]) -> list[T]:
        """Run calls in the threads; return in order, or drop the rest at the first failure."""
        loop = asyncio.get_running_loop()
        futures = [loop.run_in_executor(self._executor, call) for call in calls]
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Drop what has not started, and wait for what has."""
        self._executor.shutdown(wait=True, cancel_futures=True)
