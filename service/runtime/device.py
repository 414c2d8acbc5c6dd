"""The devices that all models share: the cores of the CPU, or the GPUs."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from service.runtime.execution_providers import CPU
from service.runtime.worker_threads import WorkerThreads

WORKERS_OF_A_GPU = 2
"""Threads per GPU: while the batch of one runs, the other copies its batch to or from the GPU."""


class Device:
    """Counts free slots, and offers returned slots to the models in turns.

    A slot is a core, or a GPU. Executions of one slot may be lined up for the worker threads, one
    for each slot: when an execution ends, the next follows without a gap. Work that is not a batch,
    such as a measurement, waits for a turn, and nothing else starts before it. Not thread-safe: a
    device belongs to the event loop.
    """

    def __init__(self, slots: int, name: str = "device", spare_workers: int = 0) -> None:
        self.slots = slots
        self.workers = WorkerThreads(slots + spare_workers, name)
        self.free = slots
        """Number of free slots; negative while executions are lined up."""
        self._wide = 0
        """Number of executions on several slots; nothing is lined up behind them."""
        self._dispatchers: list[Callable[[], None]] = []
        self._turns: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def has_free_slot(self) -> bool:
        """Whether an execution of one slot may run at once."""
        return self.free > 0 and not self._turns

    @property
    def has_room(self) -> bool:
        """Whether an execution may be started or lined up."""
        return not self._turns and (self.free > 0 or self.may_line_up)

    @property
    def may_line_up(self) -> bool:
        """Whether an execution of one slot may be lined up although no slot is free."""
        return self._wide == 0 and self.free > -self.slots

    def subscribe(self, dispatch: Callable[[], None]) -> None:
        """Call `dispatch` whenever slots become free, in turns with the other subscribers."""
        self._dispatchers.append(dispatch)

    def unsubscribe(self, dispatch: Callable[[], None]) -> None:
        """Stop calling `dispatch`."""
        if dispatch in self._dispatchers:
            self._dispatchers.remove(dispatch)

    @asynccontextmanager
    async def turn(self, slots: int) -> AsyncIterator[None]:
        """Take this many slots as soon as they are free, and give them back at the end.

        The subscribers are called after each turn, so that measurements alternate with batches.
        """
        turn = slots, asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        self._offer()
        try:
            await turn[1]
            yield
        finally:
            if turn in self._turns:
                self._turns.remove(turn)
                self._offer()
            else:
                self.give_back(slots)

    def take(self, slots: int) -> None:
        """Take slots that are free, or line up for one."""
        if slots > self.free and not (slots == 1 and self.may_line_up):
            raise ValueError(f"{slots} slots requested, {self.free} free")
        self.free -= slots
        self._wide += slots > 1

    def give_back(self, slots: int, by: Callable[[], None] | None = None) -> None:
        """Free slots and offer them to the subscribers; `by`, their previous user, comes last."""
        self.free += slots
        self._wide -= slots > 1
        dispatchers = self._dispatchers
        if by is not None and dispatchers and dispatchers[-1] != by and by in dispatchers:
            dispatchers.remove(by)
            dispatchers.append(by)
        self._offer()

    def _offer(self) -> None:
        """Offer free slots first to waiting turns, then to the subscribers."""
        while self._turns and self.free >= self._turns[0][0]:
            slots, granted = self._turns.popleft()
            self.take(slots)
            if not granted.done():
                granted.set_result(None)
        if self._turns:
            return
        for dispatch in self._dispatchers.copy():
            if self.free > 0 or self.may_line_up:
                dispatch()


class Devices:
    """The device of each execution provider, and the thread that opens sessions."""

    def __init__(self, cores: int, gpus: int = 1) -> None:
        self._cpu = Device(cores, "cpu")
        self._gpu = Device(gpus, "gpu", gpus * (WORKERS_OF_A_GPU - 1))
        self.opener = WorkerThreads(1, "open")

    def of(self, execution_provider: str) -> Device:
        """Return the device of an execution provider."""
        return self._cpu if execution_provider == CPU else self._gpu

    def close(self, seconds: float) -> bool:
        """Start no more work and wait for running work; return whether all of it ended in time."""
        ends = time.monotonic() + seconds
        threads = (self.opener, self._cpu.workers, self._gpu.workers)
        ended = [each.close(max(0.0, ends - time.monotonic())) for each in threads]
        return all(ended)


def describe_device(execution_provider: str, root: Path = Path("/proc")) -> str:
    """Return the name of the hardware as reported by Linux, or an empty string."""
    if execution_provider == CPU:
        return _field(root / "cpuinfo", "model name")
    cards = sorted((root / "driver/nvidia/gpus").glob("*/information"))
    return ", ".join(_field(card, "Model") for card in cards)


def _field(path: Path, name: str) -> str:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")
