"""The devices that executions of all models share: a CPU's cores, or the GPUs."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from service.runtime.execution_providers import CPU
from service.runtime.worker_threads import WorkerThreads

SPARE_WORKERS = 1
"""Threads beyond the cores: while one waits for the interpreter, which the event loop has, another
computes. On two cores this gave 6 to 13 % more images a second, a second one no more."""
WORKERS_OF_A_GPU = 2
"""While the batch of one runs, the other copies its own to the GPU, or back."""


class Device:
    """Counts what is free; whoever waits for it is called when something is given back, in turns.

    A slot is a core, or a GPU. Behind executions of one slot each, as many may be lined up for
    the worker threads: one that ends is followed by the next without a gap. Who is no batcher
    waits for a turn: until it has had it, nothing else begins. Not thread-safe: it belongs to
    the event loop.
    """

    def __init__(self, slots: int, name: str = "device", spare_workers: int = 0) -> None:
        self.slots = slots
        self.workers = WorkerThreads(slots + spare_workers, name)
        self.free = slots
        """Slots in which nothing runs; below 0 where executions are lined up."""
        self._sharing = 0
        self._waiting: list[Callable[[], None]] = []
        self._turns: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether anything may be taken."""
        return not self._turns and (self.free > 0 or self.may_line_up)

    @property
    def may_line_up(self) -> bool:
        """Whether an execution of one slot may be taken on although none is free."""
        return self._sharing == 0 and self.free > -self.slots

    def subscribe(self, dispatch: Callable[[], None]) -> None:
        """Call `dispatch` whenever slots come free, in turns with the others; once is enough."""
        if dispatch not in self._waiting:
            self._waiting.append(dispatch)

    def unsubscribe(self, dispatch: Callable[[], None]) -> None:
        """Call it no more."""
        if dispatch in self._waiting:
            self._waiting.remove(dispatch)

    @asynccontextmanager
    async def turn(self, slots: int) -> AsyncIterator[None]:
        """Have slots to oneself, as soon as that many are free.

        After each turn those who are subscribed are asked, so that a model that is measured
        and those that serve take turns.
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
        """Occupy slots that are free, or line up."""
        if slots > self.free and not (slots == 1 and self.may_line_up):
            raise ValueError(f"{slots} slots are not free, {self.free} are")
        self.free -= slots
        self._sharing += slots > 1

    def give_back(self, slots: int, by: Callable[[], None] | None = None) -> None:
        """Free slots, and let others take them; `by`, who had them, is asked last."""
        self.free += slots
        self._sharing -= slots > 1
        if by is not None and by in self._waiting:
            self._waiting.remove(by)
            self._waiting.append(by)
        self._offer()

    def _offer(self) -> None:
        """Give what is free to the turns that wait, and what is left to the others."""
        while self._turns and self.free >= self._turns[0][0]:
            slots, granted = self._turns.popleft()
            self.take(slots)
            if not granted.done():
                granted.set_result(None)
        for dispatch in list(self._waiting):
            if self.has_room:
                dispatch()


class Devices:
    """The device of each execution provider, and the thread in which sessions are opened."""

    def __init__(self, cores: int, gpus: int = 1) -> None:
        self._cpu = Device(cores, "cpu", SPARE_WORKERS)
        self._gpu = Device(gpus, "gpu", gpus * (WORKERS_OF_A_GPU - 1))
        self.opener = WorkerThreads(1, "open")

    def of(self, execution_provider: str) -> Device:
        """Return the cores, or the GPUs."""
        return self._cpu if execution_provider == CPU else self._gpu

    def close(self, seconds: float) -> bool:
        """Begin nothing more, and wait for what runs; return whether all of it ended in time."""
        ends = time.monotonic() + seconds
        threads = (self.opener, self._cpu.workers, self._gpu.workers)
        ended = [each.close(max(0.0, ends - time.monotonic())) for each in threads]
        return all(ended)


def describe_device(execution_provider: str, root: Path = Path("/proc")) -> str:
    """Name the hardware as Linux does; empty where it does not say."""
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
